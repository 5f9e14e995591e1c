"""Transformers whose layers kept different numbers of attention heads and feed-forward neurons.

transformers 5 neither prunes heads nor reloads a model with layers of unequal size. Here a pruned
model is an ordinary one whose matrices were cut in place, with the sizes kept in suanli.json:
``pruning: {layers: [{heads, neurons}, ...]}``, from which the same shapes are built again. The
forward code needs no change: it derives the number of heads from the width of the projections.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.contract import DataError, SpecError

Kept = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a family of models keeps what can be cut, as attribute paths.

    Attributes:
        layers: the layers' ModuleList, from the base model.
        projections: query, key and value, from a layer; empty where heads are shared between
            queries and can't be cut one by one.
        mixed: the projection after attention.
        wide: what feeds the neurons (two for gated networks).
        narrow: what reads them.
    """

    layers: str
    projections: tuple[str, ...]
    mixed: str
    wide: tuple[str, ...]
    narrow: str


BERT = Layout(
    layers="encoder.layer",
    projections=("attention.self.query", "attention.self.key", "attention.self.value"),
    mixed="attention.output.dense",
    wide=("intermediate.dense",),
    narrow="output.dense",
)
LLAMA = Layout(
    layers="layers",
    projections=(),
    mixed="",
    wide=("mlp.gate_proj", "mlp.up_proj"),
    narrow="mlp.down_proj",
)
LAYOUTS = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), BERT),
    "distilbert": Layout(
        layers="transformer.layer",
        projections=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        mixed="attention.out_lin",
        wide=("ffn.lin1",),
        narrow="ffn.lin2",
    ),
    "vit": Layout(
        layers="layers",
        projections=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        mixed="attention.o_proj",
        wide=("mlp.fc1",),
        narrow="mlp.fc2",
    ),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), LLAMA),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What one layer has."""

    heads: int
    neurons: int


def layout_of(model: torch.nn.Module) -> Layout:
    """Return the layout of the model's family.

    Raises:
        SpecError: the family can't be pruned here.
    """
    family = model.config.model_type
    if family not in LAYOUTS:
        raise SpecError(
            f"compression.variants: {family} models can't be pruned or cut in depth",
            remedy=f"use int8 or fp16, or a model of {', '.join(LAYOUTS)}",
        )
    return LAYOUTS[family]


def layers_of(model: torch.nn.Module) -> torch.nn.ModuleList:
    """Return the model's layers."""
    body = getattr(model, model.base_model_prefix)
    found: torch.nn.ModuleList = body.get_submodule(layout_of(model).layers)
    return found


def head_width(model: torch.nn.Module) -> int:
    """Return the width of one attention head."""
    config = model.config
    width = getattr(config, "head_dim", None)
    return int(width or config.hidden_size // config.num_attention_heads)


def sizes_of(model: torch.nn.Module) -> list[Sizes]:
    """Return each layer's heads and neurons."""
    layout, width = layout_of(model), head_width(model)
    found = []
    for layer in layers_of(model):
        heads = model.config.num_attention_heads
        if layout.projections:
            heads = layer.get_submodule(layout.projections[0]).out_features // width
        found.append(Sizes(heads=heads, neurons=layer.get_submodule(layout.narrow).in_features))
    return found


def encoder_parameters(model: torch.nn.Module) -> int:
    """Parameters of all layers: what `prune<percent>` is a share of."""
    return sum(p.numel() for p in layers_of(model).parameters())


def keep_layers(model: torch.nn.Module, kept: Sequence[int]) -> None:
    """Remove all layers but those at the positions `kept`, in place.

    Raises:
        SpecError: none would be left.
    """
    if not len(kept):
        raise SpecError("a model needs at least one layer", remedy="keep one or more")
    layout = layout_of(model)
    layers = layers_of(model)
    remaining = torch.nn.ModuleList([layers[i] for i in kept])
    parent, _, name = layout.layers.rpartition(".")
    body = getattr(model, model.base_model_prefix)
    setattr(body.get_submodule(parent), name, remaining)
    for position, layer in enumerate(remaining):
        for module in layer.modules():  # decoders find their cache by it
            if getattr(module, "layer_idx", None) is not None:
                module.layer_idx = position
    config = model.config
    if isinstance(getattr(config, "layer_types", None), list):
        config.layer_types = [config.layer_types[i] for i in kept]
    config.num_hidden_layers = len(kept)


def shrink(model: torch.nn.Module, heads: Sequence[Kept], neurons: Sequence[Kept]) -> None:
    """Cut every layer to the heads and neurons at the given positions, in place.

    Args:
        model: whole or pruned before.
        heads: for each layer the positions of the heads it keeps, at least one.
        neurons: the same of its neurons.
    """
    layout, width = layout_of(model), head_width(model)
    for layer, own_heads, own_neurons in zip(layers_of(model), heads, neurons, strict=True):
        if layout.projections:
            columns = (np.asarray(own_heads)[:, None] * width + np.arange(width)).ravel()
            for name in layout.projections:
                _cut(layer.get_submodule(name), rows=columns)
            _cut(layer.get_submodule(layout.mixed), columns=columns)
        for name in layout.wide:
            _cut(layer.get_submodule(name), rows=own_neurons)
        _cut(layer.get_submodule(layout.narrow), columns=own_neurons)


def _cut(linear: torch.nn.Linear, *, rows: Kept | None = None, columns: Kept | None = None) -> None:
    weight = linear.weight.data
    if rows is not None:
        index = torch.as_tensor(rows, device=weight.device)
        weight = weight[index]
        if linear.bias is not None:
            linear.bias = torch.nn.Parameter(linear.bias.data[index].clone())
    if columns is not None:
        weight = weight[:, torch.as_tensor(columns, device=weight.device)]
    linear.weight = torch.nn.Parameter(weight.contiguous().clone())
    linear.out_features, linear.in_features = weight.shape


def description(model: torch.nn.Module) -> dict[str, Any] | None:
    """Return the ``pruning`` entry of suanli.json; None for layers as the config says."""
    sizes, config = sizes_of(model), model.config
    whole = Sizes(heads=config.num_attention_heads, neurons=_configured_neurons(config))
    if all(size == whole for size in sizes):
        return None
    return {"layers": [{"heads": s.heads, "neurons": s.neurons} for s in sizes]}


def _configured_neurons(config: Any) -> int:
    return int(getattr(config, "intermediate_size", 0) or getattr(config, "hidden_dim", 0))


def save_pruned(model: torch.nn.Module, folder: Path) -> None:
    """Write config.json and model.safetensors, tied weights once."""
    from safetensors.torch import save_model

    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})


def load_pruned(
    folder: Path,
    task: str,
    labels: Sequence[str],
    *,
    attention: str = "sdpa",
    overrides: dict[str, Any] | None = None,
) -> torch.nn.Module:
    """Load what `save_pruned` wrote, in fp32 and evaluation mode.

    Raises:
        DataError: the sizes in suanli.json and the weights don't fit each other.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoConfig

    from components.lib import modelling

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        entries = json.loads((folder / "suanli.json").read_bytes())["pruning"]["layers"]
        weights = load_file(folder / "model.safetensors")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DataError(f"{folder}: not a pruned model: {error}") from error
    modelling._set_labels(config, task, labels)
    for name, value in (overrides or {}).items():
        setattr(config, name, value)
    model = modelling._auto_class(task).from_config(config, attn_implementation=attention)
    if len(entries) != len(layers_of(model)):
        raise DataError(f"{folder}: pruning has {len(entries)} layers, config.json another number")
    shrink(
        model,
        [np.arange(int(entry["heads"])) for entry in entries],
        [np.arange(int(entry["neurons"])) for entry in entries],
    )
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise DataError(
            f"{folder}: weights and pruning don't fit: {str(error).splitlines()[-1].strip()}",
            remedy="run compress again",
        ) from error
    loaded = {p.data_ptr() for n, p in model.state_dict().items() if n in weights}
    # Tied weights are stored once and arrive under their other name.
    lost = [name for name in missing if model.state_dict()[name].data_ptr() not in loaded]
    if lost or unexpected:
        name = (lost or unexpected)[0]
        raise DataError(
            f"{folder}: weight {name!r} is missing or unknown", remedy="run compress again"
        )
    return model.eval()
