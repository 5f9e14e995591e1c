"""`ModelShape` from the content of a Hugging Face ``config.json``.

Architecture facts are those of transformers 5.23 (modeling files of each family); tests compare
every family's parameter count with the library's own on the meta device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from components.contract import SpecError
from pipelines.cost.levit import levit_shape
from pipelines.cost.shapes import ModelShape

Config = Mapping[str, Any]


def from_hf_config(config: Config) -> ModelShape:
    """Read an architecture.

    Args:
        config: the parsed ``config.json``.

    Raises:
        SpecError: unknown ``model_type``, mixture of experts, or a missing or non-positive size.
    """
    model_type = str(config.get("model_type", ""))
    reader = _READERS.get(model_type)
    if reader is None:
        raise SpecError(
            f"config.json has model_type {model_type!r}, which the cost model does not know",
            remedy="supported: " + ", ".join(sorted(_READERS)),
        )
    experts = config.get("num_local_experts") or config.get("num_experts") or 0
    if isinstance(experts, int) and experts > 1:
        raise SpecError(
            f"config.json describes a mixture of {experts} experts",
            remedy="the cost model covers dense models",
        )
    return reader(config)


def _size(config: Config, *keys: str, default: int | None = None) -> int:
    """Return the first stated positive integer among `keys`."""
    for key in keys:
        value = config.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise SpecError(
                f"config.json: {key} is {value!r}, not a positive integer",
                remedy="check that the file is a complete transformers config",
            )
        return value
    if default is not None:
        return default
    raise SpecError(
        f"config.json lacks {keys[0]}", remedy="use the config.json saved with the model"
    )


def _heads(hidden: int, heads: int) -> int:
    if hidden % heads:
        raise SpecError(
            f"config.json: hidden size {hidden} is not divisible by {heads} attention heads",
            remedy="check num_attention_heads",
        )
    return hidden // heads


def _bert(config: Config) -> ModelShape:
    hidden = _size(config, "hidden_size", default=768)
    heads = _size(config, "num_attention_heads", default=12)
    kind = str(config["model_type"])
    embedding = _size(config, "embedding_size", default=hidden)
    return ModelShape(
        family=kind,
        hidden_size=hidden,
        num_layers=_size(config, "num_hidden_layers", default=12),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=_heads(hidden, heads),
        ffn_size=_size(config, "intermediate_size", default=3072),
        vocab_size=_size(config, "vocab_size", default=30522),
        tied_embeddings=bool(config.get("tie_word_embeddings", True)),
        causal=False,
        max_positions=_size(config, "max_position_embeddings", default=512),
        type_vocab=_size(config, "type_vocab_size", default=2),
        embedding_size=embedding if embedding != hidden else 0,
        embedding_norm=True,
        pooler=kind != "electra",
    )


def _distilbert(config: Config) -> ModelShape:
    hidden = _size(config, "dim", "hidden_size", default=768)
    heads = _size(config, "n_heads", "num_attention_heads", default=12)
    return ModelShape(
        family="distilbert",
        hidden_size=hidden,
        num_layers=_size(config, "n_layers", "num_hidden_layers", default=6),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=_heads(hidden, heads),
        ffn_size=_size(config, "hidden_dim", default=4 * hidden),
        vocab_size=_size(config, "vocab_size", default=30522),
        tied_embeddings=bool(config.get("tie_word_embeddings", True)),
        causal=False,
        max_positions=_size(config, "max_position_embeddings", default=512),
        embedding_norm=True,
    )


def _modernbert(config: Config) -> ModelShape:
    hidden = _size(config, "hidden_size", default=768)
    heads = _size(config, "num_attention_heads", default=12)
    norm_bias = bool(config.get("norm_bias", False))
    # The first layer has no attention norm (nn.Identity).
    return ModelShape(
        family="modernbert",
        hidden_size=hidden,
        num_layers=_size(config, "num_hidden_layers", default=22),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=_heads(hidden, heads),
        ffn_size=_size(config, "intermediate_size", default=1152),
        vocab_size=_size(config, "vocab_size", default=50368),
        tied_embeddings=bool(config.get("tie_word_embeddings", True)),
        gated_mlp=True,
        causal=False,
        qkv_bias=bool(config.get("attention_bias", False)),
        out_bias=bool(config.get("attention_bias", False)),
        mlp_bias=bool(config.get("mlp_bias", False)),
        norm_bias=norm_bias,
        embedding_norm=True,
        final_norm=True,
        extra_parameters=-hidden * (1 + norm_bias),
        context_length=_size(config, "max_position_embeddings", default=8192),
        sliding_window=_size(config, "local_attention", default=128),
        global_every=_size(config, "global_attn_every_n_layers", default=3),
    )


def _gpt2(config: Config) -> ModelShape:
    hidden = _size(config, "n_embd", "hidden_size", default=768)
    heads = _size(config, "n_head", "num_attention_heads", default=12)
    return ModelShape(
        family="gpt2",
        hidden_size=hidden,
        num_layers=_size(config, "n_layer", "num_hidden_layers", default=12),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=_heads(hidden, heads),
        ffn_size=_size(config, "n_inner", default=4 * hidden),
        vocab_size=_size(config, "vocab_size", default=50257),
        tied_embeddings=bool(config.get("tie_word_embeddings", True)),
        max_positions=_size(config, "n_positions", "max_position_embeddings", default=1024),
        final_norm=True,
    )


def _neox(config: Config) -> ModelShape:
    hidden = _size(config, "hidden_size")
    heads = _size(config, "num_attention_heads")
    bias = bool(config.get("attention_bias", True))
    return ModelShape(
        family="gpt_neox",
        hidden_size=hidden,
        num_layers=_size(config, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=_heads(hidden, heads),
        ffn_size=_size(config, "intermediate_size"),
        vocab_size=_size(config, "vocab_size"),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=bias,
        out_bias=bias,
        final_norm=True,
        context_length=_size(config, "max_position_embeddings", default=2048),
    )


def _mpt(config: Config) -> ModelShape:
    hidden = _size(config, "d_model", "hidden_size")
    heads = _size(config, "n_heads", "num_attention_heads")
    # transformers' MptModel has no biases at all and ALiBi positions.
    return ModelShape(
        family="mpt",
        hidden_size=hidden,
        num_layers=_size(config, "n_layers", "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=_heads(hidden, heads),
        ffn_size=_size(config, "expansion_ratio", default=4) * hidden,
        vocab_size=_size(config, "vocab_size"),
        tied_embeddings=bool(config.get("tie_word_embeddings", True)),
        qkv_bias=False,
        out_bias=False,
        mlp_bias=False,
        norm_bias=False,
        final_norm=True,
        context_length=_size(config, "max_seq_len", default=2048),
    )


def _llama(config: Config) -> ModelShape:
    kind = str(config["model_type"])
    hidden = _size(config, "hidden_size")
    heads = _size(config, "num_attention_heads")
    head_dim = config.get("head_dim") or (128 if kind == "qwen3" else _heads(hidden, heads))
    bias = bool(config.get("attention_bias", False))
    return ModelShape(
        family=kind,
        hidden_size=hidden,
        num_layers=_size(config, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=_size(config, "num_key_value_heads", default=heads),
        head_dim=int(head_dim),
        ffn_size=_size(config, "intermediate_size"),
        vocab_size=_size(config, "vocab_size"),
        tied_embeddings=bool(config.get("tie_word_embeddings", kind.startswith("gemma"))),
        gated_mlp=True,
        qkv_bias=True if kind == "qwen2" else bias,
        out_bias=False if kind == "qwen2" else bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
        norm_bias=False,
        norms_per_layer=4 if kind == "gemma2" else 2,
        qk_norm_parameters=2 * int(head_dim) if kind == "qwen3" else 0,
        final_norm=True,
        context_length=_size(config, "max_position_embeddings", default=2048),
    )


def _vit(config: Config) -> ModelShape:
    hidden = _size(config, "hidden_size", default=768)
    heads = _size(config, "num_attention_heads", default=12)
    return ModelShape(
        family="vit",
        hidden_size=hidden,
        num_layers=_size(config, "num_hidden_layers", default=12),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=_heads(hidden, heads),
        ffn_size=_size(config, "intermediate_size", default=3072),
        vocab_size=0,
        causal=False,
        qkv_bias=bool(config.get("qkv_bias", True)),
        final_norm=True,
        pooler=True,
        image_size=_size(config, "image_size", default=224),
        patch_size=_size(config, "patch_size", default=16),
        image_channels=_size(config, "num_channels", default=3),
    )


def _levit(config: Config) -> ModelShape:
    try:
        return levit_shape(config)
    except (LookupError, TypeError, ZeroDivisionError) as error:
        raise SpecError(
            f"config.json: sizes of the stages do not fit together ({error})",
            remedy="use the config.json saved with the model",
        ) from error


_READERS: dict[str, Callable[[Config], ModelShape]] = {
    "bert": _bert,
    "roberta": _bert,
    "xlm-roberta": _bert,
    "electra": _bert,
    "distilbert": _distilbert,
    "modernbert": _modernbert,
    "gpt2": _gpt2,
    "gpt_neox": _neox,
    "mpt": _mpt,
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "gemma": _llama,
    "gemma2": _llama,
    "vit": _vit,
    "levit": _levit,
}
