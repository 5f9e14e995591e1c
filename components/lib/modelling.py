"""Make a model for a task, load it, save it with what the later steps need to know about it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from components.contract import DataError, SpecError
from components.lib.references import (
    TOKENIZER_FILES,
    resolve_model_folder,
    resolve_tokenizer_folder,
)

MODEL_VERSION = 1
AUTO_CLASS = {
    "token-classification": "AutoModelForTokenClassification",
    "text-classification": "AutoModelForSequenceClassification",
    "text-pair-ranking": "AutoModelForSequenceClassification",
    "causal-lm": "AutoModelForCausalLM",
    "image-classification": "AutoModelForImageClassification",
}
# Architectures known by name, for `model: {config: <name>}`; sizes follow the papers' tiny models.
KNOWN_CONFIGS: dict[str, dict[str, Any]] = {
    # DeiT-tiny's width, depth and heads (Touvron et al. 2021) on 64-pixel images
    "vit-tiny": {
        "model_type": "vit",
        "hidden_size": 192,
        "num_hidden_layers": 12,
        "num_attention_heads": 3,
        "intermediate_size": 768,
        "image_size": 64,
        "patch_size": 8,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    # Half as deep and two thirds as wide, for a few thousand images and a few minutes of a CPU
    "vit-micro": {
        "model_type": "vit",
        "hidden_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "image_size": 64,
        "patch_size": 8,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    # LeViT (Graham et al. 2021) at half the width of its smallest, two blocks a stage: its first
    # layers are convolutions, so that a thousand images are enough to learn from
    "levit-micro": {
        "model_type": "levit",
        "architectures": ["LevitForImageClassification"],  # transformers has two for it
        "image_size": 64,
        "hidden_sizes": [64, 96, 128],
        "num_attention_heads": [2, 3, 4],
        "depths": [2, 2, 2],
        "key_dim": [16, 16, 16],
    },
    # google/bert_uncased_L-2_H-128_A-2 (Turc et al. 2019), with MiniLM's uncased vocabulary
    "bert-tiny": {
        "model_type": "bert",
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 512,
        "vocab_size": 30522,
    },
    # A small Llama-style decoder: rotary positions, RMSNorm, SwiGLU
    "llama-tiny": {
        "model_type": "llama",
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "intermediate_size": 512,
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": 101,
        "eos_token_id": 102,
    },
}


def resolve_model(reference: dict[str, Any]) -> Path:
    """Return the folder of ``{id: …}``: see `references.resolve_model_folder`."""
    return resolve_model_folder(reference)


def resolve_tokenizer(reference: dict[str, Any]) -> Path:
    """Return the folder with tokenizer.json: see `references.resolve_tokenizer_folder`."""
    return resolve_tokenizer_folder(reference)


def new_model(
    reference: dict[str, Any],
    task: str,
    labels: Sequence[str],
    *,
    attention: str = "sdpa",
    overrides: dict[str, Any] | None = None,
) -> torch.nn.Module:
    """Make the model that training starts from, in fp32: pretrained weights with a fresh head for
    ``{id: …}``, all weights fresh for ``{config: …}``. Seed torch before calling.

    Args:
        reference: the spec's model section.
        task: one of contract.TASKS.
        labels: label names in logit order; empty for ranking (one score) and causal-lm.
        attention: attention implementation to load with.
        overrides: configuration entries to change (dropout, for instance).

    Raises:
        DataError: the folder does not hold such a model.
        SpecError: the configuration is unknown.
    """
    if reference.get("config"):
        config = _scratch_config(str(reference["config"]))
        _set_labels(config, task, labels)
        for name, value in (overrides or {}).items():
            setattr(config, name, value)
        auto = _auto_class(task)
        return auto.from_config(config, attn_implementation=_supported(auto, config, attention))
    return load_model(
        resolve_model(reference), task, labels, attention=attention, overrides=overrides
    )


def saved_shapes(folder: Path) -> dict[str, list[int]]:
    """Shape of each tensor in the safetensors files of `folder`, from their headers."""
    found: dict[str, list[int]] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            names = tensors.keys()
            found |= {name: tensors.get_slice(name).get_shape() for name in names}
    return found


def fresh_parameters(model: torch.nn.Module, reference: dict[str, Any]) -> list[str]:
    """Names of the head's parameters that `new_model` did not find in the pretrained folder.

    Empty for a model from scratch, in which all are as fresh.
    """
    if reference.get("config"):
        return []
    saved = saved_shapes(resolve_model(reference))
    base = {id(parameter) for parameter in model.base_model.parameters()}
    return [
        name
        for name, parameter in model.named_parameters()
        if id(parameter) not in base and saved.get(name) != list(parameter.shape)
    ]


def load_model(
    folder: Path,
    task: str,
    labels: Sequence[str] | None = None,
    *,
    attention: str = "sdpa",
    overrides: dict[str, Any] | None = None,
) -> torch.nn.Module:
    """Load the model in `folder` for `task`, in fp32 and evaluation mode, from safetensors only.

    Args:
        folder: a model artifact, or any folder in transformers' layout.
        task: one of contract.TASKS.
        labels: label names in logit order; None takes those the folder was saved with.
        attention: attention implementation (``eager`` for export).
        overrides: configuration entries to change.

    Raises:
        DataError: weights are missing, broken or need remote code.
    """
    if labels is None:
        labels = read_labels(folder)
    if pruning(folder):
        from components.lib.pruned import load_pruned  # the one format transformers can't read

        return load_pruned(folder, task, labels, attention=attention, overrides=overrides)
    config = _config(folder)
    _set_labels(config, task, labels)
    for name, value in (overrides or {}).items():
        setattr(config, name, value)
    auto = _auto_class(task)
    try:
        model = auto.from_pretrained(
            folder,
            config=config,
            attn_implementation=_supported(auto, config, attention),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # a head of another label set is replaced by a fresh one
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{folder}: cannot load it for {task}: {str(error).splitlines()[0]}",
            remedy="give a folder with config.json and matching model.safetensors",
        ) from error
    return model.eval()


def save_model(
    model: torch.nn.Module, folder: Path, *, tokenizer: Path | None, info: dict[str, Any]
) -> None:
    """Write the model artifact: config, safetensors, tokenizer, labels.json, suanli.json.

    Args:
        model: a transformers model.
        folder: existing folder to fill.
        tokenizer: folder whose tokenizer files go along; None for images.
        info: the fields of suanli.json; ``labels`` in it becomes labels.json.
    """
    labels = info.pop("labels")
    if info.get("pruning"):
        from components.lib.pruned import save_pruned

        save_pruned(model, folder)
    else:
        model.save_pretrained(folder)
    if tokenizer is not None:
        copy_tokenizer(tokenizer, folder)
    (folder / "labels.json").write_text(json.dumps(list(labels), ensure_ascii=False))
    document = {
        "schema_version": MODEL_VERSION,
        "parameters": parameter_count(model),
        "pruning": None,
        "onnx_precision": "fp32",
        **info,
    }
    (folder / "suanli.json").write_text(json.dumps(document, indent=1, sort_keys=True))


def copy_tokenizer(source: Path, destination: Path) -> None:
    """Copy the tokenizer's files.

    Raises:
        DataError: `source` has no tokenizer.json.
    """
    if not (source / "tokenizer.json").is_file():
        raise DataError(f"{source} has no tokenizer.json", remedy="save a fast tokenizer with it")
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, destination / name)


def read_info(folder: Path) -> dict[str, Any]:
    """Return suanli.json of a model artifact.

    Raises:
        DataError: missing, not JSON or of another version.
    """
    path = folder / "suanli.json"
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a model artifact: {error}") from error
    if document.get("schema_version") != MODEL_VERSION:
        raise DataError(f"{path}: schema_version {document.get('schema_version')!r} is unknown")
    return document


def read_labels(folder: Path) -> list[str]:
    """Return the label names of a model artifact, in logit order."""
    try:
        labels: list[str] = json.loads((folder / "labels.json").read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / 'labels.json'}: {error}") from error
    return labels


def pruning(folder: Path) -> dict[str, Any] | None:
    """Return what was pruned of the model in `folder`, None for a whole one."""
    if not (folder / "suanli.json").is_file():
        return None
    return read_info(folder).get("pruning")


def parameter_count(model: torch.nn.Module) -> int:
    """Number of distinct parameters (tied ones once)."""
    return sum(p.numel() for p in model.parameters())


def embedding_parameters(model: torch.nn.Module) -> int:
    """Parameters that are looked up instead of multiplied: they cost no FLOPs."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))


def _auto_class(task: str) -> Any:
    import transformers

    # Its load report and progress bar would drown the step's own log.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return getattr(transformers, AUTO_CLASS[task])


def _supported(auto: Any, config: Any, attention: str) -> str:
    """Return `attention`; ``eager`` for ``sdpa`` where the model has none (DeBERTa, LeViT)."""
    known = auto._model_mapping.get(type(config), None)
    known = known[0] if isinstance(known, (tuple, list)) else known
    without = known is not None and not getattr(known, "_supports_sdpa", True)
    return "eager" if attention == "sdpa" and without else attention


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}/config.json: {str(error).splitlines()[0]}") from error


def _scratch_config(name: str) -> Any:
    from transformers import AutoConfig

    if name in KNOWN_CONFIGS:
        entries = copy.deepcopy(KNOWN_CONFIGS[name])  # LeViT's adds to the lists it is given
        return AutoConfig.for_model(entries.pop("model_type"), **entries)
    if Path(name).is_dir():
        return _config(Path(name))
    known = ", ".join(KNOWN_CONFIGS)
    raise SpecError(
        f"model.config: {name!r} is neither a folder nor a known name",
        remedy=f"use one of {known}, or a folder with config.json",
    )


def _set_labels(config: Any, task: str, labels: Sequence[str]) -> None:
    if task == "causal-lm":
        return
    if task == "text-pair-ranking":
        config.num_labels = 1
        return
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
