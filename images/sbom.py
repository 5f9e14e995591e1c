"""Print a CycloneDX 1.6 bill of materials of the Python packages and Debian packages here."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from typing import Any


def main() -> None:
    components = [*_python(), *_debian()]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": sys.argv[1]}},
        "components": sorted(components, key=lambda item: item["purl"]),
    }
    print(json.dumps(document, indent=1, sort_keys=True))


def _python() -> list[dict[str, Any]]:
    found = {}
    for package in metadata.distributions():
        name = package.metadata["Name"].lower().replace("_", "-")
        found[name] = {
            "type": "library",
            "name": name,
            "version": package.version,
            "purl": f"pkg:pypi/{name}@{package.version}",
        }
    return list(found.values())


def _debian() -> list[dict[str, Any]]:
    """Packages of the base image, when it is a Debian."""
    form = "${Package} ${Version}\\n"
    try:
        done = subprocess.run(
            ["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    pairs = [line.split(" ", 1) for line in done.stdout.splitlines()]
    return [
        {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:deb/debian/{name}@{version}",
        }
        for name, version in pairs
    ]


if __name__ == "__main__":
    main()
