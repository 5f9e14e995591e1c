"""Ask for a retraining by a change that GitOps carries: another `data.revision` in a spec.

The fingerprint of a run covers its spec, so a rendered folder of the changed spec has a Job of a
new name, and `submit --if-changed` starts a run. What that run repeats is decided by the data: its
ingest step reads the sources again, and only if they changed is anything after it new.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from components.contract import SpecError
from pipelines.gitops import commit_paths
from pipelines.spec import load_spec


def ask_for_retraining(
    path: Path, *, revision: str, reason: str, commit: bool = False
) -> str | None:
    """Write `revision` into the spec at `path`, leaving every other byte as it is.

    Args:
        path: the spec.
        revision: new value of ``data.revision``; asking twice for the same one changes nothing.
        reason: said in a comment behind it and in the commit's message.
        commit: commit the file to the git repository that holds it; pushing is left to the caller.

    Returns:
        The commit's hash, "" when written without a commit, None when nothing was to do.

    Raises:
        SpecError: the spec is wrong, or its layout does not let the line be placed.
    """
    before = load_spec(path).document
    if before["data"].get("revision") == revision:
        return None
    text = path.read_text(encoding="utf-8")
    changed = _with_revision(text, revision, reason.replace("\n", " "))
    expected = {**before, "data": {**before["data"], "revision": revision}}
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(changed, encoding="utf-8")
    try:
        if load_spec(partial).document != expected:
            raise SpecError(
                f"{path}: the place for data.revision was not found",
                remedy=f"write `revision: {revision}` below `data:` by hand",
            )
        partial.replace(path)
    except (SpecError, yaml.YAMLError):
        partial.unlink(missing_ok=True)
        raise
    if not commit:
        return ""
    message = f"Retrain {before['name']}: {reason}\n\ndata.revision is {revision}\n"
    return commit_paths(path.parent, [str(path.resolve())], message)


def reason_of(event: dict[str, Any]) -> str:
    """Say in a few words what drifted."""
    features = sorted(event["features"].items(), key=lambda item: -item[1]["stability_index"])
    found = ", ".join(f"{name} ({found['stability_index']:.2f})" for name, found in features)
    return f"the input drifted: {found}"


def revision_of(event: dict[str, Any], model_digest: str) -> str:
    """Name the drift: the same model and window give the same name."""
    return f"drift-{model_digest[:8]}-{event['window']}"


def _with_revision(text: str, revision: str, reason: str) -> str:
    lines = text.splitlines(keepends=True)
    start = next((n for n, line in enumerate(lines) if re.match(r"data\s*:", line)), None)
    if start is None:
        return text
    ending = "\r\n" if lines[start].endswith("\r\n") else "\n"
    if "{" in lines[start].split("#")[0]:  # flow style
        flow = re.sub(r"(\brevision:\s*)[^,}\s]+", rf"\g<1>{revision}", lines[start])
        if flow == lines[start]:
            flow = lines[start].replace("{", f"{{revision: {revision}, ", 1)
        lines[start] = flow
        return "".join(lines)
    indent = None
    for number in range(start + 1, len(lines)):
        body = lines[number].lstrip(" ")
        if not body.strip() or body.startswith("#"):
            continue
        if body == lines[number]:
            break  # the next section
        indent = indent or lines[number][: -len(body)]  # of data's first key
        if lines[number].startswith(f"{indent}revision:"):
            lines[number] = f"{indent}revision: {revision}  # {reason}{ending}"
            return "".join(lines)
    lines.insert(start + 1, f"{indent or '  '}revision: {revision}  # {reason}{ending}")
    return "".join(lines)
