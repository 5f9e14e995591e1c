"""OpenStack Swift with its S3 interface on loopback, for tests: a real server, unlike moto.

It checks signatures, MD5 and SHA-256 of bodies, and does conditional puts, copies and multipart
uploads; it does not do storage classes, lifecycle rules, archive restores or server-side
encryption by request header. Installed from PyPI into an environment of its own when first asked
for.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import answers, free_port

VERSION = "2.38.0"
HOME = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "suanli-tests"
KEY_ID, SECRET = "test:tester", "testing"
REGION = "us-east-1"
# A busy machine takes its time, and so do its tools.
START_SECONDS = TOOL_SECONDS = 120

PROXY = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
log_level = ERROR
[pipeline:main]
pipeline = catch_errors gatekeeper cache bulk s3api tempauth copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""

BACKEND = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
fallocate_reserve = 0
log_level = ERROR
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""


def environment() -> Path:
    """Return the folder of an environment with Swift, made once.

    Skips the test, saying why, when it cannot be installed.
    """
    folder = HOME / f"swift-{VERSION}"
    if (folder / "ready").exists():
        return folder
    commands = [
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin/pip"), "install", "-q", f"swift=={VERSION}", "setuptools<81"],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["?"])[-1]
            pytest.skip(f"OpenStack Swift {VERSION} cannot be installed from PyPI: {reason}")
    (folder / "ready").touch()
    return folder


@contextlib.contextmanager
def swift(folder: Path) -> Iterator[str]:
    """Run Swift with its data below `folder`; yield the S3 endpoint."""
    binaries = environment() / "bin"
    (folder / "devices/sda1").mkdir(parents=True)
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = test\nswift_hash_path_prefix = test\n"
        "[storage-policy:0]\nname = one\ndefault = yes\n"
    )
    user = os.environ.get("USER") or "root"
    processes = []
    try:
        for kind in ("account", "container", "object"):
            port = free_port()
            _ring(binaries, folder, kind, port)
            text = BACKEND.format(kind=kind, port=port, user=user, folder=folder)
            processes.append(_start(binaries, folder, kind, text))
        port = free_port()
        text = PROXY.format(port=port, user=user, folder=folder)
        processes.append(_start(binaries, folder, "proxy", text))
        endpoint = f"http://127.0.0.1:{port}"
        if not answers(endpoint, processes, seconds=START_SECONDS):
            logs = "\n".join(f"{p.name}: {p.read_text()[-800:]}" for p in folder.glob("*.log"))
            raise RuntimeError(f"Swift does not answer\n{logs}")
        yield endpoint
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)


def _ring(binaries: Path, folder: Path, kind: str, port: int) -> None:
    builder = str(folder / f"{kind}.builder")
    device = ["--region", "1", "--zone", "1", "--ip", "127.0.0.1", "--port", str(port)]
    for arguments in (
        [builder, "create", "4", "1", "0"],
        [builder, "add", *device, "--device", "sda1", "--weight", "1"],
        [builder, "rebalance"],
    ):
        done = subprocess.run(
            [str(binaries / "python"), str(binaries / "swift-ring-builder"), *arguments],
            capture_output=True,
            text=True,
            timeout=TOOL_SECONDS,
        )
        assert done.returncode in (0, 1), done.stdout + done.stderr  # 1 is a warning


def _start(binaries: Path, folder: Path, kind: str, text: str) -> subprocess.Popen[bytes]:
    config = folder / f"{kind}-server.conf"
    config.write_text(text)
    with (folder / f"{kind}.log").open("wb") as log:
        return subprocess.Popen(
            [str(binaries / "python"), str(binaries / f"swift-{kind}-server"), str(config), "-v"],
            stdout=log,
            stderr=log,
            env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        )


def client(endpoint: str):
    """Return a boto3 client, for bucket administration and for looking at what is there."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET,
        region_name=REGION,
        config=Config(s3={"addressing_style": "path"}),
    )
