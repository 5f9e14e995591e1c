"""Lay the selected model out for serving, as a new immutable version with its evidence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from components.contract import DataError, SpecError, content_hash
from components.lib.dataset import read_manifest
from components.publish import layout, pointer
from components.publish.card import model_card
from components.runtime import StepContext
from components.storage import file_sha256

PUBLISHED_VERSION = 1
MODEL_FILES = ("export.json", "labels.json")


def run(context: StepContext) -> str:
    """Publish; returns the published folder's URI."""
    arguments = context.arguments
    selection_folder = context.fetch(context.inputs["selection"])
    manifest = read_manifest(context.fetch(context.inputs["dataset"]))
    selection = json.loads((selection_folder / "selection.json").read_text())
    name = str(arguments.get("name") or arguments.get("spec_name") or manifest["name"])
    source = selection_folder / "model"
    check_model(source)
    identity = content_hash([selection, {p.name: file_sha256(p) for p in source.iterdir()}])
    version = version_for(context, name, identity)
    context.progress(0.2, f"{name} version {version}")
    folder = context.folder("published")
    with context.phase("write"):
        model = folder / name / str(version)
        write_model(model, source, selection, manifest, name, version)
        layout.write(folder, name, version, model, selection)
        document = {
            "schema_version": PUBLISHED_VERSION,
            "name": name,
            "version": version,
            "model_path": f"{name}/{version}",
            "task": manifest["task"],
            "variant": selection["selected"],
            "quality": selection["quality"],
        }
        (folder / "published.json").write_text(json.dumps(document, indent=1, sort_keys=True))
    uri = context.put(folder, kind="published")
    pointer.advance(context.store, name, version=version, uri=uri, identity=identity)
    context.metrics.update(name=name, version=version, variant=selection["selected"])
    context.progress(1.0, f"{name} version {version} published")
    return uri


def check_model(source: Path) -> None:
    """Refuse a selection whose model is incomplete or does not open.

    Raises:
        DataError: names the file.
    """
    from components.lib.sessions import PROVIDERS, open_session, read_export

    for name in (*MODEL_FILES, "model.onnx"):
        if not (source / name).is_file():
            raise DataError(f"{source / name}: the selection lacks it", remedy="run select again")
    if read_export(source)["target"] == "cpu":  # a graph for a GPU may hold kernels only CUDA has
        open_session(source / "model.onnx", provider=PROVIDERS["cpu"], threads=1)


def version_for(context: StepContext, name: str, identity: str) -> int:
    """Return the version to publish as: the one asked for, the same as last time for the same
    content, else the next.

    Raises:
        SpecError: the version asked for exists with other content.
    """
    wanted, latest = context.arguments.get("version"), pointer.read(context.store, name)
    known = {entry["version"]: entry["identity"] for entry in pointer.history(latest)}
    if wanted is not None:
        if known.get(int(wanted), identity) != identity:
            raise SpecError(
                f"version {wanted} of {name} is published already, with other content",
                remedy="versions never change: leave the version out, or take a new one",
            )
        return int(wanted)
    if latest is not None and latest["identity"] == identity:
        return int(latest["version"])
    return max(known, default=0) + 1


def write_model(
    folder: Path,
    source: Path,
    selection: dict[str, Any],
    manifest: dict[str, Any],
    name: str,
    version: int,
) -> None:
    """Write the model folder: graph, tokenizer, labels, predict.py, card and checksums."""
    folder.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        shutil.copyfile(path, folder / path.name)
    scope = selection.get("test", {}).get("selected", {}).get("scope")
    if scope:
        export = json.loads((source / "export.json").read_text())
        (folder / "export.json").write_text(json.dumps({**export, "scope": scope}, indent=1))
    shutil.copyfile(Path(__file__).with_name("predict.py"), folder / "predict.py")
    export = json.loads((source / "export.json").read_text())
    card = model_card(
        name=name, version=version, selection=selection, export=export, manifest=manifest
    )
    (folder / "model-card.md").write_text(card, encoding="utf-8")
    sums = [f"{file_sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / "SHA256SUMS").write_text("".join(sums))
