"""Promotion is a commit, rollback a revert; the examples fit together; the CI example works."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.contract import SpecError
from pipelines.gitops import promote
from pipelines.serving import Served
from tests.kubernetes_schemas import kubectl, kustomize, problems
from tests.support import REPOSITORY, needs_shared, suanli

EXAMPLES = REPOSITORY / "manifests" / "gitops"
MODEL = Served(
    name="newsroom-ner",
    version=3,
    digest="a" * 64,
    storage_uri="s3://suanli-warm/published/newsroom-ner/3/triton",
    size_bytes=23 << 20,
    throughput_per_s=110.0,
    threads=2,
)
OVERLAY = "serving/prod"


def git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "config", "user.email", "ci@example.com")
    git(tmp_path, "config", "user.name", "ci")
    (tmp_path / "README.md").write_text("serving\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "Start")
    return tmp_path


def write(repository: Path, model: Served = MODEL, **options: Any) -> str | None:
    return promote(
        model,
        repository=repository,
        overlay=options.pop("overlay", OVERLAY),
        requests_per_second=20.0,
        **options,
    )


def served_version(repository: Path) -> str:
    service = yaml.safe_load((repository / OVERLAY / "inferenceservice.yaml").read_text())
    version: str = service["metadata"]["labels"]["suanli.dev/version"]
    return version


def test_promotion_is_one_commit_with_version_and_digest(repository: Path) -> None:
    commit = write(repository)
    assert commit is not None
    message = git(repository, "log", "-1", "--format=%B")
    assert message.startswith("Serve newsroom-ner version 3\n")
    assert "a" * 64 in message
    assert git(repository, "status", "--porcelain") == ""
    assert write(repository) is None  # the same again is no commit


def test_rollback_is_a_revert(repository: Path) -> None:
    write(repository)
    write(repository, dataclasses.replace(MODEL, version=4, digest="b" * 64))
    assert served_version(repository) == "4"
    git(repository, "revert", "--no-edit", "HEAD")
    assert served_version(repository) == "3"


def test_promotion_keeps_other_files_of_the_overlay(repository: Path) -> None:
    folder = repository / OVERLAY
    folder.mkdir(parents=True)
    (folder / "kustomization.yaml").write_text("resources:\n- route.yaml\nnamespace: web\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "Route")
    write(repository)
    written = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert written == {"resources": ["route.yaml", "inferenceservice.yaml"], "namespace": "web"}


@pytest.mark.skipif(kubectl() is None, reason="needs kubectl (kustomize)")
@needs_shared
def test_promoted_overlay_builds_and_is_valid(repository: Path) -> None:
    write(repository)
    (service,) = kustomize(repository / OVERLAY)
    assert problems(service) == []


def test_command_promotes_what_the_report_selects(repository: Path, tmp_path: Path) -> None:
    row = {"name": "int8", "size_bytes": 23 << 20, "throughput_per_s": 110.0, "provider": "CPU"}
    report = {
        "spec": {"name": "newsroom-ner", "serving": {"requests_per_second": 20.0}},
        "selected": "int8",
        "variants": [row],
    }
    files = tmp_path / "files"
    files.mkdir()
    (files / "report.json").write_text(json.dumps(report))
    (files / "model.onnx").write_bytes(b"model")

    def command() -> Any:
        return suanli(
            "promote", files / "report.json", "--model", files / "model.onnx", "--version", "7",
            "--storage-uri", "s3://models/newsroom-ner/7", "--repository", repository,
        )  # fmt: skip

    done = command()
    assert done.returncode == 0, done.stderr
    assert served_version(repository) == "7"
    digest = hashlib.sha256(b"model").hexdigest()
    assert digest in git(repository, "log", "-1", "--format=%B")
    assert command().stdout == "already served: nothing to commit\n"


@pytest.mark.parametrize("overlay", ["../outside", "/etc"])
def test_overlay_outside_the_repository(repository: Path, overlay: str) -> None:
    with pytest.raises(SpecError, match="leaves the repository"):
        write(repository, overlay=overlay)


def test_folder_that_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is not a git repository"):
        write(tmp_path)
    with pytest.raises(SpecError, match="is not a git repository"):
        write(tmp_path / "absent")


def test_uncommitted_changes_are_not_swept_into_the_commit(repository: Path) -> None:
    write(repository)
    (repository / OVERLAY / "inferenceservice.yaml").write_text("half done")
    with pytest.raises(SpecError, match="has uncommitted changes"):
        write(repository)


# -- the examples --------------------------------------------------------------------------------


def test_examples_point_at_folders_that_exist_here() -> None:
    application = yaml.safe_load((EXAMPLES / "argocd/application-platform.yaml").read_text())
    flux = yaml.safe_load((EXAMPLES / "flux/kustomization-platform.yaml").read_text())
    for path in (application["spec"]["source"]["path"], flux["spec"]["path"]):
        assert (REPOSITORY / path / "kustomization.yaml").exists()


@pytest.mark.skipif(kubectl() is None, reason="needs kubectl (kustomize)")
def test_project_allows_every_kind_of_the_prod_overlay() -> None:
    project = yaml.safe_load((EXAMPLES / "argocd/appproject.yaml").read_text())["spec"]
    allowed = {(item["group"], item["kind"]) for item in project["clusterResourceWhitelist"]}
    cluster_wide = {
        (item["apiVersion"].rpartition("/")[0], item["kind"])
        for item in kustomize(REPOSITORY / "manifests/overlays/prod")
        if "namespace" not in item["metadata"]
    }
    assert cluster_wide == allowed


@pytest.mark.skipif(kubectl() is None, reason="needs kubectl (kustomize)")
def test_postsync_component_makes_the_run_job_a_hook(tmp_path: Path) -> None:
    from pipelines.dag import compile_pipeline
    from pipelines.render import render
    from tests.plans import sample_plan

    plan = sample_plan()
    render(plan, compile_pipeline(plan), tmp_path / "rendered")
    component = EXAMPLES / "argocd" / "postsync"
    (tmp_path / "postsync").mkdir()
    (tmp_path / "postsync/kustomization.yaml").write_text(
        (component / "kustomization.yaml").read_text()
    )
    (tmp_path / "kustomization.yaml").write_text("resources: [rendered]\ncomponents: [postsync]\n")
    (job,) = [item for item in kustomize(tmp_path) if item["kind"] == "Job"]
    assert job["metadata"]["annotations"]["argocd.argoproj.io/hook"] == "PostSync"
    assert job["metadata"]["name"].startswith("newsroom-ner-")


def test_ci_example_comments_what_a_change_costs(tmp_path: Path) -> None:
    """The script of the example, run on a repository with a base branch and a changed spec."""
    workflow = yaml.safe_load((EXAMPLES / "ci/render.yml").read_text())
    (script,) = (
        step["run"]
        for step in workflow["jobs"]["render"]["steps"]
        if step.get("name", "").startswith("Compare each spec")
    )
    base, work = tmp_path / "base", tmp_path / "work"
    (base / "specs").mkdir(parents=True)
    git(base, "init", "--quiet", "--initial-branch=main")
    git(base, "config", "user.email", "ci@example.com")
    git(base, "config", "user.name", "ci")
    spec = (REPOSITORY / "pipelines/examples/newsroom-ner.yaml").read_text()
    (base / "specs/newsroom-ner.yaml").write_text(spec)
    done = suanli("render", base / "specs/newsroom-ner.yaml", "-o", base / "deploy/newsroom-ner")
    assert done.returncode == 0, done.stderr
    git(base, "add", ".")
    git(base, "commit", "--quiet", "-m", "Start")
    subprocess.run(["git", "clone", "--quiet", str(base), str(work)], check=True)
    (work / "specs/newsroom-ner.yaml").write_text(spec.replace("epochs: 3", "epochs: 30"))
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "suanli").write_text(f'#!/bin/sh\nexec {sys.executable} -m pipelines "$@"\n')
    (tools / "suanli").chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY),
        "GITHUB_BASE_REF": "main", "RUNNER_TEMP": str(tmp_path / "temp"),
    }  # fmt: skip
    ran = subprocess.run(
        ["bash", "-e", "-c", script], cwd=work, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    comment = (work / "comment.md").read_text()
    assert comment.startswith("## What this change costs\n\n### newsroom-ner\n")
    assert "| money | " in comment
    assert "+" in comment.split("| money | ")[1].splitlines()[0]
    changed = git(work, "diff", "--name-only", "--", "deploy").split()
    assert "deploy/newsroom-ner/plan.json" in changed


def test_ci_example_uses_commands_and_options_that_exist() -> None:
    from pipelines.cli import parser

    workflow = yaml.safe_load((EXAMPLES / "ci/render.yml").read_text())
    script = "\n".join(step.get("run", "") for step in workflow["jobs"]["render"]["steps"])
    commands = [line.split() for line in script.splitlines() if " suanli render" in line]
    assert len(commands) == 2
    for words in commands:
        parser().parse_args([word.strip('"') for word in words[1:]])
    assert workflow["permissions"] == {"contents": "read", "pull-requests": "write"}
