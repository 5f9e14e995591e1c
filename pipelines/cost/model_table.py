"""Architectures of further public models, from ``data/architectures.csv``.

Sizes are those of the public configs; what a family's layers share stands here. Parameter counts
are checked against the sizes in the models' names.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from importlib import resources
from typing import Any

from pipelines.cost.shapes import ModelShape

_NO_BIAS: dict[str, Any] = {"qkv_bias": False, "out_bias": False, "mlp_bias": False}
_GATED: dict[str, Any] = {**_NO_BIAS, "norm_bias": False, "gated_mlp": True, "final_norm": True}
_ENCODER: dict[str, Any] = {
    "family": "bert", "causal": False, "max_positions": 512, "type_vocab": 2,
    "embedding_norm": True, "pooler": True,
}  # fmt: skip
# What a family's models have in common beside their sizes; `family` names the one whose layers
# behave alike where that differs from the row's.
_TRAITS: dict[str, dict[str, Any]] = {
    "opt": {"max_positions": 2050, "final_norm": True},
    "bloom": {"embedding_norm": True, "final_norm": True},
    "falcon": {**_NO_BIAS, "final_norm": True},
    # The small one has one norm for attention and MLP.
    "falcon1": {**_NO_BIAS, "final_norm": True, "norms_per_layer": 1, "family": "falcon"},
    "gpt_neo": {"qkv_bias": False, "max_positions": 2048, "final_norm": True},
    "gptj": {"qkv_bias": False, "out_bias": False, "norms_per_layer": 1, "final_norm": True,
             "lm_head_bias": True},
    "gpt_neox": {"final_norm": True},
    "phi": {"norms_per_layer": 1, "final_norm": True, "lm_head_bias": True},
    "phi3": _GATED,
    "llama": _GATED,
    "mistral": _GATED,
    "qwen2": {**_GATED, "qkv_bias": True},
    "gpt_bigcode": {"max_positions": 8192, "final_norm": True},
    "starcoder2": {"final_norm": True},
    "cerebras": {"max_positions": 2048, "final_norm": True, "family": "gpt2"},
    "nemotron": {**_NO_BIAS, "final_norm": True},
    "encoder": _ENCODER,
    "deberta": {**_ENCODER, "family": "deberta", "max_positions": 512, "type_vocab": 0,
                "pooler": False},
    "albert": {**_ENCODER, "family": "albert", "embedding_size": 128},
}  # fmt: skip


def table() -> dict[str, ModelShape]:
    """Return name -> shape."""
    text = resources.files("pipelines.cost").joinpath("data/architectures.csv").read_text()
    return {row["name"]: _shape(row) for row in csv.DictReader(text.splitlines())}


def _shape(row: dict[str, str]) -> ModelShape:
    hidden, heads = int(row["hidden"]), int(row["heads"])
    fields: dict[str, Any] = {"family": row["family"], **_TRAITS[row["family"]]}
    shape = ModelShape(
        hidden_size=hidden,
        num_layers=int(row["layers"]),
        num_heads=heads,
        num_kv_heads=int(row["kv"]),
        head_dim=int(row["head_dim"] or hidden // heads),
        ffn_size=int(row["ffn"]),
        vocab_size=int(row["vocab"]),
        tied_embeddings=row["tied"] == "1",
        **fields,
    )
    if row["family"] != "albert":
        return shape
    # All layers share one set of weights.
    shared = (shape.num_layers - 1) * shape.layer_parameters
    return replace(shape, extra_parameters=-shared)
