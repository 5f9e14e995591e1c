"""Promotion by commit: a published model becomes a change in a serving overlay.

Rolling back is `git revert` of that commit: the overlay names version and digest of the model.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from components.contract import SpecError, StepError
from pipelines.serving import Served, inference_service

SERVICE_FILE = "inferenceservice.yaml"
KUSTOMIZATION_FILE = "kustomization.yaml"


def promote(
    model: Served,
    *,
    repository: Path,
    overlay: str,
    requests_per_second: float,
    namespace: str = "suanli",
) -> str | None:
    """Write the InferenceService into `overlay` of the git `repository` and commit it.

    Pushing is left to the caller, who holds the right to.

    Returns:
        The commit's hash; None when the overlay already serves exactly this.

    Raises:
        SpecError: not a repository, the overlay leaves it, or its files have uncommitted changes.
        StepError: git fails.
    """
    folder = (repository / overlay).resolve()
    if not folder.is_relative_to(repository.resolve()):
        raise SpecError(f"overlay {overlay!r} leaves the repository", remedy="give a path inside")
    _git(repository, "rev-parse", "--git-dir")
    paths = [str(folder / SERVICE_FILE), str(folder / KUSTOMIZATION_FILE)]
    if _git(repository, "status", "--porcelain", "--", *paths):
        raise SpecError(f"{overlay} has uncommitted changes", remedy="commit or discard them first")
    service = inference_service(model, requests_per_second=requests_per_second, namespace=namespace)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SERVICE_FILE).write_text(_yaml(service), encoding="utf-8")
    _list_resource(folder / KUSTOMIZATION_FILE)
    message = (
        f"Serve {model.name} version {model.version}\n\nModel sha256 {model.digest}\n"
        f"{model.storage_uri}\n"
    )
    return commit_paths(repository, paths, message)


def commit_paths(repository: Path, paths: list[str], message: str) -> str | None:
    """Commit `paths` and nothing else; returns the commit's hash, None when they are unchanged.

    Raises:
        SpecError: not a repository.
        StepError: git fails.
    """
    _git(repository, "add", "--", *paths)
    if not _git(repository, "diff", "--cached", "--name-only", "--", *paths):
        return None
    _git(repository, "commit", "--quiet", "-m", message, "--", *paths)
    return _git(repository, "rev-parse", "HEAD").strip()


def _list_resource(path: Path) -> None:
    """Make sure the overlay's kustomization lists the service; other entries stay."""
    document: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [],
    }
    if path.exists():
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    resources = document.setdefault("resources", [])
    if SERVICE_FILE not in resources:
        resources.append(SERVICE_FILE)
        path.write_text(_yaml(document), encoding="utf-8")


def _git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return done.stdout
    text = " ".join(done.stderr.split())
    if "not a git repository" in text or "cannot change to" in text:
        raise SpecError(f"{repository} is not a git repository", remedy="clone it first")
    raise StepError(f"git {arguments[0]} failed in {repository}: {text}", remedy="see git's words")


def _yaml(document: Any) -> str:
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return text
