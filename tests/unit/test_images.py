"""Images: two stages, no root, no build tools, the steps of the family import, known by digest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.dag import IMAGE_OF, USER_ID
from tests.support import REPOSITORY

IMAGES = REPOSITORY / "images"
FAMILIES = ("data", "train", "infer")
# Stands in for docker, buildah and podman: notes its arguments and pushes nowhere.
ENGINE = """#!/bin/sh
echo "$@" >> "$LOG"
while [ "$#" -gt 0 ]; do
  if [ "$1" = --digestfile ]; then printf 'sha256:%064d' 7 > "$2"; fi
  if [ "$1" = inspect ]; then printf 'registry/x@sha256:%064d' 8; fi
  shift
done
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_final_stage_has_no_root_no_pip_and_no_compiler(family: str) -> None:
    text = (IMAGES / f"Dockerfile.{family}").read_text()
    assert re.findall(r"^FROM (.*)$", text, re.M) == ["${BASE} AS build", "${BASE}"]
    last = text.rpartition("FROM ${BASE}")[2]
    assert f"USER {USER_ID}:{USER_ID}" in last
    assert "apt" not in last
    assert "pip" not in last
    assert "pip uninstall -y -q pip" in text
    assert last.rstrip().endswith(f'check_imports.py", "{family}"]')


@pytest.mark.parametrize("family", FAMILIES)
def test_dependencies_come_before_source_and_from_pins(family: str) -> None:
    text = (IMAGES / f"Dockerfile.{family}").read_text()
    assert text.index("-c /build/constraints.txt") < text.index("COPY components")
    installs = re.findall(r"pip install (.*)", text)
    assert installs
    assert all("-c /build/constraints.txt" in line for line in installs)
    assert re.search(r"^ARG BASE=\S+:\d+\.\d+\.\d+\S*$", text, re.M), "the base is not pinned"
    assert "ARG PIP_INDEX_URL=" in text


def test_every_step_has_a_family_that_builds_and_checks_it() -> None:
    assert set(IMAGE_OF.values()) == set(FAMILIES)
    text = (IMAGES / "check_imports.py").read_text()
    for step, family in IMAGE_OF.items():
        listed = text[text.index("STEPS = {") :]
        place = re.search(rf'"{family}": \((.*?)\),', listed, re.S)
        assert place
        assert f'"{step}"' in place[1] or f"pipelines.control.{step}." in text, step


def test_modules_of_the_data_image_import() -> None:
    done = subprocess.run(
        [sys.executable, IMAGES / "check_imports.py", "data"],
        capture_output=True, text=True, check=False, cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_bill_of_materials_names_the_pinned_packages() -> None:
    done = subprocess.run(
        [sys.executable, IMAGES / "sbom.py", "suanli-data"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    document = json.loads(done.stdout)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert "pkg:pypi/kfp@2.17.0" in {item["purl"] for item in document["components"]}


@pytest.mark.parametrize(("engine", "digit"), [("buildah", 7), ("docker", 8)])
def test_pushed_images_are_printed_as_options_by_digest(
    tmp_path: Path, engine: str, digit: int
) -> None:
    program = tmp_path / engine
    program.write_text(ENGINE)
    program.chmod(0o755)
    log = tmp_path / "log"
    environment = {
        **os.environ, "ENGINE": str(program), "LOG": str(log), "REGISTRY": "registry/ml",
        "PUSH": "1", "VERSION": "9", "BASE": "base@sha256:1", "PIP_INDEX_URL": "http://mirror",
    }  # fmt: skip
    done = subprocess.run(
        [IMAGES / "build", "train"], env=environment, capture_output=True, text=True, check=True
    )
    options = [line for line in done.stdout.splitlines() if line.startswith("--image")]
    assert options == [f"--image train=registry/ml/train@sha256:{digit:064d}"]
    built = log.read_text().splitlines()[0]
    assert "--build-arg BASE=base@sha256:1 --build-arg PIP_INDEX_URL=http://mirror" in built
    assert "-t registry/ml/train:9" in built


def test_an_unknown_family_is_refused() -> None:
    done = subprocess.run(
        [IMAGES / "build", "gpu"], env={**os.environ, "ENGINE": "true"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no family gpu (data, train, infer)" in done.stderr
