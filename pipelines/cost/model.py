"""Which architecture a spec's `model:` means, without loading a framework."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.contract import SpecError
from components.lib.references import OFFLINE_MODEL, resolve_tokenizer_folder
from pipelines.cost.hf_config import from_hf_config
from pipelines.cost.model_names import SCRATCH_SHAPES, by_name, known_names
from pipelines.cost.shapes import ModelShape
from pipelines.spec import Spec


def model_reference(spec: Spec) -> dict[str, Any]:
    """Return `model:` as steps get it: a local folder as an absolute path, a name as it is."""
    key, name = ("id", spec.model.id) if spec.model.id else ("config", spec.model.config)
    return {key: _located(spec, str(name))}


def model_shape(spec: Spec) -> ModelShape:
    """Return the architecture of the spec's model.

    Raises:
        SpecError: neither a folder with config.json nor a name that the cost model knows.
    """
    name = next(iter(model_reference(spec).values()))
    folder = Path(name)
    if folder.is_dir():
        return from_hf_config(_config(folder))
    shape = (SCRATCH_SHAPES.get(name) if spec.model.config else None) or by_name(name)
    if shape is None:
        shape = _from_hub_cache(name)
    if shape is None:
        near = [
            known for known in known_names() if known[:4] == name.rsplit("/", 1)[-1][:4].lower()
        ]
        raise SpecError(
            f"model: the architecture of {name!r} is not known",
            remedy="give a local folder with config.json"
            + (f", or one of {', '.join(near[:6])}" if near else ""),
        )
    return shape


def tokenizer_folder(spec: Spec) -> Path | None:
    """Return where the model's tokenizer.json lies on this machine, None when it is not here."""
    name = next(iter(model_reference(spec).values()))
    if name != OFFLINE_MODEL and not Path(name).is_dir():
        return None
    try:
        return resolve_tokenizer_folder({"id": name})
    except Exception:  # not installed or no fast tokenizer: lengths are estimated instead
        return None


def _located(spec: Spec, name: str) -> str:
    if name == OFFLINE_MODEL or "://" in name:
        return name
    path = Path(spec.locate(name))
    return str(path) if path.is_dir() else name


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"model: {path}: {error}", remedy="save it with save_pretrained") from None
    if not isinstance(document, dict):
        raise SpecError(f"model: {path} is not a JSON object")
    return document


def _from_hub_cache(name: str) -> ModelShape | None:
    """Read config.json from the local Hub cache; never downloads."""
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        path = try_to_load_from_cache(name.partition("@")[0], "config.json")
    except HFValidationError:
        return None
    return from_hf_config(_config(Path(path).parent)) if isinstance(path, str) else None
