"""Peak bytes of one GPU, by part.

Activation bytes follow arXiv 2205.05198 with its constants as coefficients; states follow the
table of bytes a parameter by optimizer and precision. Constants are entries of
``data/coefficients.json`` (names ``memory.*``), priors below.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipelines.cost.columns import Bools, Columns, Floats
from pipelines.cost.hardware import GIB

# value, log spread, meaning
PRIORS: dict[str, tuple[float, float]] = {
    # Saved activations a token and layer, in multiples of hidden (inner) size, elements.
    "memory.hidden": (8.0, 0.3),
    "memory.attention": (4.0, 0.3),
    "memory.inner": (1.0, 0.25),
    # Saved score matrices of eager attention (scores, softmax, dropout mask).
    "memory.scores": (2.5, 0.3),
    # Bytes of logits in forward and backward, multiples of the element size.
    "memory.logits": (3.0, 0.3),
    # The same where the loss upcasts to fp32 (pre-training under mixed precision).
    "memory.logits_fp32": (6.0, 0.12),
    # Inputs that each 4-bit linear layer saves for itself, multiples of the linears' input width.
    "memory.nf4_inputs": (1.0, 0.3),
    # fp32 copies of RMSNorm, multiples of hidden size.
    "memory.rmsnorm": (3.0, 0.3),
    # Share of gradients alive when the optimizer steps inside backward.
    "memory.in_backward": (0.5, 0.4),
    "memory.staged": (1.0, 0.15),
    # Whole checkpoint held while sharded fine-tuning starts, share of its bytes.
    "memory.load": (0.9, 0.2),
    "memory.chunked_logits": (0.6, 0.5),
    # Share of a layer's activations that selective checkpointing keeps.
    "memory.selective": (0.55, 0.25),
    # Extra of an fp32 input copy and dropout under autocast.
    "memory.autocast": (1.3, 0.2),
    # Allocator slack of everything, GiB of context and library workspaces.
    "memory.slack": (1.03, 0.05),
    "memory.base": (0.5, 0.4),
    # Bytes of an nf4 weight with its constants.
    "memory.nf4": (0.55, 0.05),
    "memory.compiled": (0.8, 0.2),
    # Activations that adapters save, multiples of the adapted linears' input width.
    "memory.adapter": (1.0, 0.4),
    # Inference workspace, multiples of the largest layer's activations.
    "memory.infer": (2.0, 0.4),
    "memory.float8": (1.05, 0.1),
}


def memory_parts(c: Columns, theta: Mapping[str, float]) -> dict[str, Floats]:
    """Return peak bytes by part; the sum is the peak of one GPU."""
    train = c.is_("kind", "train")
    frozen = c.is_("task", "lora", "qlora")
    parts = _states(c, theta, train, frozen)
    parts["activations"] = _activations(c, theta, train, frozen)
    parts["logits"] = _logits(c, theta, train)
    parts["base"] = np.full(c.size, theta["memory.base"] * GIB)
    slack = theta["memory.slack"] - 1.0
    parts["slack"] = slack * np.sum(list(parts.values()), axis=0)
    return parts


def _half(c: Columns) -> Bools:
    return c.is_("precision", "fp16", "bf16", "int8", "fp8", "fp4")


def _states(
    c: Columns, theta: Mapping[str, float], train: Bools, frozen: Bools
) -> dict[str, Floats]:
    half = _half(c)
    pure = half & (c.flags["pure_precision"] | frozen | ~train | _pure_by_default(c))
    megatron = c.is_("runtime", "megatron", "nemo")
    parallel = c["tp"] * c["pp"]
    total = (c["backbone_parameters"] + c["lm_head_parameters"]) / parallel
    names = c.names["quantization"].astype(str)
    four = np.array(["nf4" in n or "fp4" in n or "int4" in n for n in names], dtype=bool)
    eight = np.array(["int8" in n for n in names], dtype=bool) | c.is_("precision", "int8")
    # Megatron keeps half weights; its fp32 master copy counts among the optimizer's states.
    width = np.where(pure | (megatron & half), 2.0, 4.0)
    layers = c["matmul_parameters"] / parallel
    quantised = np.where(four, theta["memory.nf4"], np.where(eight, 1.0, width))
    weights = layers * quantised + (total - layers) * width
    degree = np.where(
        c["fsdp_degree"] > 0, c["fsdp_degree"] * c["cp"], c["data_parallel"] * c["cp"]
    )
    all_sharded = np.where(c.is_("sharding", "fsdp", "zero3"), degree, 1.0)
    distributed = megatron & ~c.is_("sharding", "ddp", "none")
    some_sharded = np.where(c.is_("sharding", "zero2") | distributed, degree, all_sharded)
    states_sharded = np.where(c.is_("sharding", "zero1"), degree, some_sharded)
    trainable = np.where(frozen, _adapter_parameters(c), total)
    on = np.where(train, 1.0, 0.0)
    gradients = trainable * np.where(pure & ~megatron, 2.0, 4.0) * on
    gradients = gradients * np.where(
        c.flags["optimizer_in_backward"], theta["memory.in_backward"], 1.0
    )
    cast = np.where(half & ~pure & train & ~megatron & (all_sharded == 1), 2.0 * total, 0.0)
    gathered = 2.0 * (c["layer_parameters"] / c["tp"]) * 2.0 + np.where(
        all_sharded > 1, c["embedding_parameters"] / c["tp"] * 2.0, 0.0)  # fmt: skip
    # A pipeline stage keeps its weights and fp32 gradients whole between micro-batches.
    staged = (c["pp"] > 1) & (all_sharded > 1) & train
    gathered = np.where(staged, total * 6.0 * theta["memory.staged"], gathered)
    loads = train & ~c.is_("task", "pretrain")
    gathered = np.where(loads, theta["memory.load"] * total * 2.0, gathered)
    per_state = optimizer_bytes(c, pure & ~frozen) + np.where(megatron & half, 4.0, 0.0)
    states = trainable * per_state * on * np.where(c.flags["offload_states"], 0.0, 1.0)
    return {
        "weights": weights / all_sharded,
        "cast_weights": cast,
        "gathered_weights": np.where(all_sharded > 1, gathered, 0.0),
        "gradients": gradients / some_sharded,
        "optimizer": states / states_sharded,
    }


def _pure_by_default(c: Columns) -> Bools:
    """Fine-tuning recipes of PyTorch LLM libraries keep bf16 weights; pre-training keeps fp32."""
    return c.is_("runtime", "pytorch") & c.is_("task", "finetune") & c.is_(
        "precision", "bf16") & c.flags["causal"]  # fmt: skip


def optimizer_bytes(c: Columns, pure: Bools) -> Floats:
    """Bytes of optimizer state a trained parameter."""
    names = np.char.replace(c.names["optimizer"].astype(str), " ", "-")
    eight = np.char.find(names, "8") >= 0
    width = np.where(pure, 4.0, 8.0)
    adafactor = np.char.find(names, "adafactor") >= 0
    sgd = np.char.find(names, "sgd") >= 0
    result: Floats = np.select([eight, adafactor, sgd], [2.0, 0.05, 4.0], width)
    return np.where(np.char.find(names, "paged") >= 0, 0.5, result)


def _adapter_parameters(c: Columns) -> Floats:
    """LoRA parameters: rank x (in + out) of each target, query and value if not stated."""
    h, q, kv, f = c["hidden_size"], c["query_size"], c["kv_size"], c["ffn_size"]
    targets = c.names["lora_targets"]
    per = np.zeros(c.size)
    mlp = np.where(c.flags["gated_mlp"], 3.0, 2.0) * (h + f)
    for i, text in enumerate(targets):
        named = str(text) or "query+value"
        per[i] = (
            ("query" in named) * (h[i] + q[i]) + ("key" in named) * (h[i] + kv[i])
            + ("value" in named) * (h[i] + kv[i]) + ("projection" in named) * (h[i] + q[i])
            + ("mlp" in named) * mlp[i]
        )  # fmt: skip
    rank = np.maximum(c["peft_rank"], 8.0)
    estimate = rank * per * c["num_layers"] / (c["tp"] * c["pp"])
    return np.where(c["trainable_parameters"] > 1, c["trainable_parameters"], estimate)


def _pieces(c: Columns) -> Floats:
    """Micro-batches that a pipeline cuts one large batch into (see `time.StepModel`)."""
    cut = (c["pp"] > 1) & (c["grad_accum"] < c["pp"]) & c.is_("kind", "train")
    return np.where(cut, c["micro_batch"], 1.0)


def _tokens(c: Columns) -> Floats:
    return c["micro_batch"] / _pieces(c) * c["seq_len"] / c["cp"]


def _adapted_inputs(c: Columns) -> Floats:
    """Summed input widths of the linears of a layer that carry an adapter."""
    h, q, f = c["hidden_size"], c["query_size"], c["ffn_size"]
    mlp = np.where(c.flags["gated_mlp"], 2.0, 1.0) * h + f
    out = np.zeros(c.size)
    for i, text in enumerate(c.names["lora_targets"]):
        named = str(text) or "query+value"
        attention = any(word in named for word in ("query", "key", "value"))
        out[i] = attention * h[i] + ("projection" in named) * q[i] + ("mlp" in named) * mlp[i]
        if named == "all":
            out[i] = 2 * (h[i] + q[i] + mlp[i])
    return out


def _layer_elements(c: Columns, theta: Mapping[str, float], frozen: Bools) -> Floats:
    """Elements a token that one layer saves for its backward."""
    h, f = c["hidden_size"], c["ffn_size"]
    stated = c.names["attention"].astype(str)
    eager = np.isin(stated, ("eager", "unfused", "torch")) | (
        (stated == "") & ~c.flags["causal"] & ~c.flags["compiled"]
    )
    inner = np.where(c.flags["gated_mlp"], 4.0, 2.0) * f * theta["memory.inner"]
    attention = theta["memory.attention"] * (c["query_size"] + c["kv_size"]) * 0.5
    scores = np.where(eager, c["num_heads"] * c["seq_len"] * theta["memory.scores"], 0.0)
    hidden = theta["memory.hidden"] + np.where(c.flags["gated_mlp"], theta["memory.rmsnorm"], 0.0)
    adapter = np.where(frozen, theta["memory.adapter"] * _adapted_inputs(c), 0.0)
    names = c.names["quantization"].astype(str)
    four = np.array(["nf4" in n or "fp4" in n for n in names], dtype=bool)
    inputs = np.where(four, theta["memory.nf4_inputs"] * (3.0 * h + f), 0.0)
    return (hidden * h + attention + inner + scores + adapter + inputs) / c["tp"]


def _activations(c: Columns, theta: Mapping[str, float], train: Bools, frozen: Bools) -> Floats:
    half = _half(c)
    element = np.where(half, 2.0, 4.0)
    tokens = _tokens(c)
    layer = tokens * element * _layer_elements(c, theta, frozen)
    pure = c.flags["pure_precision"] | frozen | _pure_by_default(c)
    layer = layer * np.where(half & ~pure, theta["memory.autocast"], 1.0)
    layer = layer * np.where(c.flags["compiled"], theta["memory.compiled"], 1.0)
    layer = layer * np.where(c.is_("precision", "fp8", "fp4"), theta["memory.float8"], 1.0)
    layers = c["num_layers"] / c["pp"]
    in_flight = np.where(c["pp"] > 1, np.minimum(c["grad_accum"] * _pieces(c), c["pp"]), 1.0)
    full = c.is_("checkpointing", "full") & train
    # Libraries that pre-train with FSDP or NeMo checkpoint selectively unless told otherwise.
    large = c.is_("runtime", "nemo", "megatron") | (
        c.is_("sharding", "fsdp") & c.is_("task", "pretrain")
    )
    unsaid = c.is_("checkpointing", "") & large
    selective = (c.is_("checkpointing", "selective") | unsaid) & train
    offload = np.where(c.flags["offload_activations"], 0.15, 1.0)
    boundary = tokens * c["hidden_size"] / c["tp"] * element * offload
    kept = np.where(full, boundary, layer * np.where(selective, theta["memory.selective"], 1.0))
    saved = layers * kept * in_flight + np.where(full | selective, layer, 0.0)
    cached = c.flags["generation"] | (c.flags["causal"] & ~train)
    cache_ = np.where(cached, 2.0 * tokens * c["kv_size"] * element, 0.0) * layers
    return np.where(train, saved, theta["memory.infer"] * layer * 0.5 + cache_)


def _logits(c: Columns, theta: Mapping[str, float], train: Bools) -> Floats:
    tokens = _tokens(c)
    scored = np.select([c.is_("head", "lm"), c.is_("head", "mlm")], [tokens, 0.15 * tokens], 0.0)
    scored = np.where(c.flags["generation"], 1.0, scored)
    # The flash-attention library brings a fused loss that never holds fp32 logits.
    wide = c.is_("task", "pretrain") & ~c.is_("attention", "flash")
    passes = np.where(wide, theta["memory.logits_fp32"], theta["memory.logits"])
    passes = np.where(train, passes, 1.0)
    passes = np.where(c.flags["chunked_loss"], theta["memory.chunked_logits"], passes)
    return scored * c["vocab_size"] / c["tp"] * 2.0 * passes
