"""Architectures of model names that occur in published tables.

Sizes are those of the public configs on the Hugging Face Hub or, for GPT-3 names, of
arXiv 2005.14165 table 2.1.
"""

from __future__ import annotations

import re
from typing import Any

from pipelines.cost.hf_config import from_hf_config
from pipelines.cost.levit import levit_shape
from pipelines.cost.model_table import table
from pipelines.cost.shapes import ModelShape


def _encoder(
    hidden: int, layers: int, heads: int, ffn: int, vocab: int = 30522, **extra: Any
) -> ModelShape:
    fields: dict[str, object] = {
        "family": "bert",
        "max_positions": 512,
        "type_vocab": 2,
        "embedding_norm": True,
        "pooler": True,
        "causal": False,
        "num_kv_heads": heads,
        "head_dim": hidden // heads,
        **extra,
    }
    return ModelShape(
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        ffn_size=ffn,
        vocab_size=vocab,
        **fields,  # type: ignore[arg-type]
    )


def _gpt(
    hidden: int, layers: int, heads: int, vocab: int = 50257, positions: int = 1024
) -> ModelShape:
    return ModelShape(
        family="gpt2",
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        ffn_size=4 * hidden,
        vocab_size=vocab,
        max_positions=positions,
        final_norm=True,
    )


def _llama(
    hidden: int,
    layers: int,
    heads: int,
    kv: int,
    ffn: int,
    vocab: int,
    *,
    tied: bool = False,
    head_dim: int = 0,
    qkv_bias: bool = False,
    family: str = "llama",
    qk_norm: bool = False,
) -> ModelShape:
    dim = head_dim or hidden // heads
    return ModelShape(
        family=family,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv,
        head_dim=dim,
        ffn_size=ffn,
        vocab_size=vocab,
        tied_embeddings=tied,
        gated_mlp=True,
        qkv_bias=qkv_bias,
        out_bias=False,
        mlp_bias=False,
        norm_bias=False,
        qk_norm_parameters=2 * dim if qk_norm else 0,
        norms_per_layer=4 if family == "gemma2" else 2,
        final_norm=True,
    )


def _mpt(hidden: int, layers: int, heads: int) -> ModelShape:
    return ModelShape(
        family="mpt",
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        ffn_size=4 * hidden,
        vocab_size=50368,
        qkv_bias=False,
        out_bias=False,
        mlp_bias=False,
        norm_bias=False,
        final_norm=True,
    )


def _neox(hidden: int, layers: int, heads: int, vocab: int) -> ModelShape:
    return ModelShape(
        family="gpt_neox",
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        ffn_size=4 * hidden,
        vocab_size=vocab,
        tied_embeddings=False,
        final_norm=True,
    )


def _vit(hidden: int, layers: int, heads: int, patch: int, image: int = 224) -> ModelShape:
    return _encoder(
        hidden,
        layers,
        heads,
        4 * hidden,
        0,
        family="vit",
        max_positions=0,
        type_vocab=0,
        embedding_norm=False,
        final_norm=True,
        image_size=image,
        patch_size=patch,
    )


_DISTIL: dict[str, Any] = {"family": "distilbert", "type_vocab": 0, "pooler": False}
_ROBERTA: dict[str, Any] = {"family": "roberta", "max_positions": 514, "type_vocab": 1}

_SHAPES: dict[str, ModelShape] = {
    **table(),
    "bert-tiny": _encoder(128, 2, 2, 512),
    "bert-mini": _encoder(256, 4, 4, 1024),
    "bert-small": _encoder(512, 4, 8, 2048),
    "bert-medium": _encoder(512, 8, 8, 2048),
    "bert-base": _encoder(768, 12, 12, 3072),
    "bert-base-uncased": _encoder(768, 12, 12, 3072),
    "bert-base-cased": _encoder(768, 12, 12, 3072, 28996),
    "bert-base-multilingual-cased": _encoder(768, 12, 12, 3072, 119547),
    "bert-large": _encoder(1024, 24, 16, 4096),
    "bert-large-uncased": _encoder(1024, 24, 16, 4096),
    "bert-large-cased": _encoder(1024, 24, 16, 4096, 28996),
    "biobert": _encoder(768, 12, 12, 3072),
    "distilbert": _encoder(768, 6, 12, 3072, **_DISTIL),
    "distilbert-base-uncased": _encoder(768, 6, 12, 3072, **_DISTIL),
    "distilbert-base-cased": _encoder(768, 6, 12, 3072, 28996, **_DISTIL),
    "minilm-l6": _encoder(384, 6, 12, 1536),
    "minilm-l12": _encoder(384, 12, 12, 1536),
    "all-minilm-l6-v2": _encoder(384, 6, 12, 1536),
    "all-minilm-l12-v2": _encoder(384, 12, 12, 1536),
    "legal-bert": _encoder(768, 12, 12, 3072),
    "legal-bert-base": _encoder(768, 12, 12, 3072),
    "bertweet-base": _encoder(
        768, 12, 12, 3072, 64001, family="roberta", max_positions=130, type_vocab=1
    ),
    "roberta": _encoder(768, 12, 12, 3072, 50265, **_ROBERTA),
    "roberta-base": _encoder(768, 12, 12, 3072, 50265, **_ROBERTA),
    "roberta-large": _encoder(1024, 24, 16, 4096, 50265, **_ROBERTA),
    "distilroberta-base": _encoder(768, 6, 12, 3072, 50265, **_ROBERTA),
    "xlm-roberta-base": _encoder(768, 12, 12, 3072, 250002, **_ROBERTA),
    "xlm-roberta-large": _encoder(1024, 24, 16, 4096, 250002, **_ROBERTA),
    "electra-small": _encoder(256, 12, 4, 1024, family="electra", embedding_size=128, pooler=False),
    "electra-base": _encoder(768, 12, 12, 3072, family="electra", pooler=False),
    "electra-large": _encoder(1024, 24, 16, 4096, family="electra", pooler=False),
    "distilgpt2": _gpt(768, 6, 12),
    "modernbert-base": from_hf_config({"model_type": "modernbert"}),
    "modernbert-large": from_hf_config(
        {
            "model_type": "modernbert",
            "hidden_size": 1024,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "intermediate_size": 2624,
        }
    ),
    "megatron-345m": _gpt(1024, 24, 16),
    "gpt2": _gpt(768, 12, 12),
    "gpt2-medium": _gpt(1024, 24, 16),
    "gpt2-large": _gpt(1280, 36, 20),
    "gpt2-xl": _gpt(1600, 48, 25),
    "gpt3-xl": _gpt(2048, 24, 16, positions=2048),
    "gpt3-2.7b": _gpt(2560, 32, 32, positions=2048),
    "gpt3-6.7b": _gpt(4096, 32, 32, positions=2048),
    "gpt3-13b": _gpt(5120, 40, 40, positions=2048),
    "gpt3-175b": _gpt(12288, 96, 96, positions=2048),
    "pythia-70m": _neox(512, 6, 8, 50304),
    "pythia-160m": _neox(768, 12, 12, 50304),
    "pythia-410m": _neox(1024, 24, 16, 50304),
    "pythia-1b": _neox(2048, 16, 8, 50304),
    "pythia-1.4b": _neox(2048, 24, 16, 50304),
    "pythia-2.8b": _neox(2560, 32, 32, 50304),
    "pythia-6.9b": _neox(4096, 32, 32, 50432),
    "pythia-12b": _neox(5120, 36, 40, 50688),
    "gpt-neox-20b": _neox(6144, 44, 64, 50432),
    "mpt-125m": _mpt(768, 12, 12),
    "mpt-350m": _mpt(1024, 24, 16),
    "mpt-760m": _mpt(1536, 24, 12),
    "mpt-1b": _mpt(2048, 24, 16),
    "mpt-3b": _mpt(2560, 32, 20),
    "mpt-7b": _mpt(4096, 32, 32),
    "mpt-13b": _mpt(5120, 40, 40),
    "mpt-30b": _mpt(7168, 48, 56),
    "mpt-70b": _mpt(8192, 80, 64),
    "tinyllama-1.1b": _llama(2048, 22, 32, 4, 5632, 32000),
    "llama-7b": _llama(4096, 32, 32, 32, 11008, 32000),
    "llama-13b": _llama(5120, 40, 40, 40, 13824, 32000),
    "llama-30b": _llama(6656, 60, 52, 52, 17920, 32000),
    "llama-65b": _llama(8192, 80, 64, 64, 22016, 32000),
    "guanaco-7b": _llama(4096, 32, 32, 32, 11008, 32000),
    "guanaco-13b": _llama(5120, 40, 40, 40, 13824, 32000),
    "guanaco-33b": _llama(6656, 60, 52, 52, 17920, 32000),
    "guanaco-65b": _llama(8192, 80, 64, 64, 22016, 32000),
    "deepseek-llm-7b": _llama(4096, 30, 32, 32, 11008, 102400),
    "deepseek-llm-67b": _llama(8192, 95, 64, 8, 22016, 102400),
    "deepseek-7b": _llama(4096, 30, 32, 32, 11008, 102400),
    "deepseek-67b": _llama(8192, 95, 64, 8, 22016, 102400),
    "orca-2-7b": _llama(4096, 32, 32, 32, 11008, 32003),
    "orca-2-13b": _llama(5120, 40, 40, 40, 13824, 32003),
    "llama-2-7b": _llama(4096, 32, 32, 32, 11008, 32000),
    "llama-2-13b": _llama(5120, 40, 40, 40, 13824, 32000),
    "llama-2-70b": _llama(8192, 80, 64, 8, 28672, 32000),
    "llama-3-8b": _llama(4096, 32, 32, 8, 14336, 128256),
    "llama-3.1-8b": _llama(4096, 32, 32, 8, 14336, 128256),
    "llama-3-70b": _llama(8192, 80, 64, 8, 28672, 128256),
    "llama-3.1-70b": _llama(8192, 80, 64, 8, 28672, 128256),
    "llama-3.3-70b": _llama(8192, 80, 64, 8, 28672, 128256),
    "llama-3.1-405b": _llama(16384, 126, 128, 8, 53248, 128256),
    "llama-3.2-1b": _llama(2048, 16, 32, 8, 8192, 128256, tied=True),
    "llama-3.2-3b": _llama(3072, 28, 24, 8, 8192, 128256, tied=True),
    "mistral-7b": _llama(4096, 32, 32, 8, 14336, 32000, family="mistral"),
    "qwen2-0.5b": _llama(896, 24, 14, 2, 4864, 151936, tied=True, qkv_bias=True, family="qwen2"),
    "qwen2-1.5b": _llama(1536, 28, 12, 2, 8960, 151936, tied=True, qkv_bias=True, family="qwen2"),
    "qwen2-7b": _llama(3584, 28, 28, 4, 18944, 152064, qkv_bias=True, family="qwen2"),
    "qwen2.5-0.5b": _llama(896, 24, 14, 2, 4864, 151936, tied=True, qkv_bias=True, family="qwen2"),
    "qwen2.5-1.5b": _llama(1536, 28, 12, 2, 8960, 151936, tied=True, qkv_bias=True, family="qwen2"),
    "qwen2.5-3b": _llama(2048, 36, 16, 2, 11008, 151936, tied=True, qkv_bias=True, family="qwen2"),
    "qwen2.5-7b": _llama(3584, 28, 28, 4, 18944, 152064, qkv_bias=True, family="qwen2"),
    "qwen2.5-14b": _llama(5120, 48, 40, 8, 13824, 152064, qkv_bias=True, family="qwen2"),
    "qwen2.5-32b": _llama(5120, 64, 40, 8, 27648, 152064, qkv_bias=True, family="qwen2"),
    "qwen2.5-72b": _llama(8192, 80, 64, 8, 29568, 152064, qkv_bias=True, family="qwen2"),
    "qwen3-0.6b": _llama(
        1024, 28, 16, 8, 3072, 151936, tied=True, head_dim=128, family="qwen3", qk_norm=True
    ),
    "qwen3-8b": _llama(4096, 36, 32, 8, 12288, 151936, head_dim=128, family="qwen3", qk_norm=True),
    "gemma-2b": _llama(2048, 18, 8, 1, 16384, 256000, tied=True, head_dim=256, family="gemma"),
    "gemma-7b": _llama(3072, 28, 16, 16, 24576, 256000, tied=True, head_dim=256, family="gemma"),
    "gemma-2-2b": _llama(2304, 26, 8, 4, 9216, 256000, tied=True, head_dim=256, family="gemma2"),
    "gemma-2-9b": _llama(3584, 42, 16, 8, 14336, 256000, tied=True, head_dim=256, family="gemma2"),
    "phi-3-mini": _llama(3072, 32, 32, 32, 8192, 32064),
    "vit-tiny": _vit(192, 12, 3, 16),
    "vit-small": _vit(384, 12, 6, 16),
    "vit-base": _vit(768, 12, 12, 16),
    "vit-large": _vit(1024, 24, 16, 16),
    "vit-huge": _vit(1280, 32, 16, 14),
}


# Names that are written without the size, or with another.
_ALIASES = {
    "gptj": "gptj6b",
    "starcoder": "starcoder15b",
    "starcoderbase": "starcoder15b",
    "bloom": "bloom176b",
    "mistralnemo": "mistralnemo12b",
    "mistralsmall": "mistralsmall24b",
    "openllama3bv2": "openllama3b",
    "xlmr": "xlmrobertabase",
    "xlmrbase": "xlmrobertabase",
    "xlmrlarge": "xlmrobertalarge",
    "bgem3": "xlmrobertalarge",
    "multilinguale5base": "xlmrobertabase",
    "multilinguale5large": "xlmrobertalarge",
    "allmpnetbase": "mpnetbase",
    "e5basev2": "e5base",
    "e5largev2": "e5large",
    "legalbertbase": "legalbertbase",
    "ernie": "bertbase",
    "ernie2.0base": "bertbase",
    "tinybert": "tinybert4l312d",
    "tinyllama": "tinyllama1.1b",
    "stablelm3b": "stablelm3b4e1t",
    "stablelm21.6b": "stablelm21.6b",
    "redpajama3b": "redpajamaincite3b",
    "redpajama7b": "redpajamaincite7b",
    "megatronbert": "megatronbert345m",
    "bert345m": "megatronbert345m",
    "turingnlg": "turingnlg17b",
    "tnlg17b": "turingnlg17b",
    "vitb16": "vitbase",
    "vits16": "vitsmall",
    "vitl16": "vitlarge",
    "vith14": "vithuge",
    "deitbase": "vitbase",
    "deitb": "vitbase",
    "deitsmall": "vitsmall",
    "deits": "vitsmall",
    "deittiny": "vittiny",
    "deitti": "vittiny",
    "llama27bchat": "llama27b",
    "turingmegatron530b": "mtnlg530b",
    "megatron530b": "mtnlg530b",
    "gpt35b": "gpt35b",
    "gpt320b": "gpt320b",
}

# What `model: {config: <name>}` builds from scratch (KNOWN_CONFIGS in components/lib/modelling.py):
# vit-tiny there is made for images of 64 pixels.
SCRATCH_SHAPES = {
    "vit-tiny": _vit(192, 12, 3, 8, image=64),
    "vit-micro": _vit(128, 6, 4, 8, image=64),
    "levit-micro": levit_shape(
        {
            "image_size": 64,
            "hidden_sizes": (64, 96, 128),
            "num_attention_heads": (2, 3, 4),
            "depths": (2, 2, 2),
        }
    ),
    "llama-tiny": _llama(192, 4, 3, 3, 512, 30522, tied=True),
}


def _key(name: str) -> str:
    # "ViT-B/16" has a slash of its own.
    name = re.sub(r"/(?=\d+$)", "-", name.strip()).rsplit("/", 1)[-1].lower()
    name = re.sub(
        r"\(.*?\)|-finetuned-.*$|-deduped$|-discriminator$|-hf$|-it$|-en-v\d[.0-9]*$", "", name
    )
    name = re.sub(r"(?<=\d)_(?=\d)", ".", name)
    name = re.sub(r"(meta-|hf$|-hf$|instruct|chat|base-v1|-v[012]\.[0-9]+$)", "", name)
    name = re.sub(r"(?<=albert)(-[a-z]+)-v[12]$|(?<=mpnet-base)-v\d$", r"\1", name)
    name = re.sub(r"patch\d+.*$|uncased|-en$", "", name)
    return _ALIASES.get(key := re.sub(r"[^a-z0-9.]", "", name), key)


_BY_KEY = {_key(name): shape for name, shape in reversed(_SHAPES.items())}


def by_name(name: str) -> ModelShape | None:
    """Return the architecture that `name` stands for, None if the table lacks it.

    Case, punctuation, organisation, "Instruct" and parentheses do not matter.
    """
    return _BY_KEY.get(_key(name)) if name else None


def known_names() -> tuple[str, ...]:
    """Return the names of the table."""
    return tuple(_SHAPES)
