"""Bytes that training keeps for its backward, tensor by tensor.

A layer is taken apart into the tensors that autograd saves: inputs of norms, of matrix products
whose weight is trained, operands of attention, of the activation function and of gates. It is the
count of arXiv 2205.05198 (34 bytes a token and hidden unit in a GPT layer of that paper), carried
over to frozen weights, RMSNorm, gated and grouped layers, autocast and 4-bit bases;
benchmarks/saved_tensors.py compares it with what autograd really saves.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipelines.cost.columns import Bools, Columns, Floats
from pipelines.cost.memory_states import Mode

# Share of masked-language-model positions that are scored.
_MASKED = 0.15
# Families with rotary positions whose queries, keys and values come from one product.
_ONE_PRODUCT = ("gpt_neox", "falcon", "phi3")


def pieces(c: Columns) -> Floats:
    """Micro-batches that a pipeline cuts one large batch into: one a stage."""
    cut = (c["pp"] > 1) & (c["grad_accum"] < c["pp"]) & c.is_("kind", "train")
    return np.where(cut, np.maximum(1.0, np.minimum(c["micro_batch"], c["pp"])), 1.0)


def tokens_of(c: Columns) -> Floats:
    """Tokens of a micro-step on one rank."""
    return c["micro_batch"] / pieces(c) * c["seq_len"] / c["cp"]


def eager_attention(c: Columns) -> Bools:
    """Whether score matrices are written out."""
    stated = c.names["attention"].astype(str)
    unsaid = (stated == "") & ~c.flags["causal"] & ~c.flags["compiled"]
    eager: Bools = np.isin(stated, ("eager", "unfused", "torch")) | unsaid
    return eager


def layer_bytes(c: Columns, mode: Mode, theta: Mapping[str, float]) -> Floats:
    """Bytes a token that autograd saves in one layer (all tensor-parallel ranks together)."""
    h, f, m = c["hidden_size"], c["ffn_size"], mode.element
    trained = np.where(mode.frozen, 0.0, 1.0)
    gated = c.flags["gated_mlp"]
    # Gated models normalise by RMSNorm in fp32: they keep the fp32 copy of its input and, to
    # train its scale, the normed copy. LayerNorm is one kernel that keeps its input.
    rms = 4.0 * h + trained * mode.residual * h
    norms = 2.0 * np.where(gated, rms, mode.residual * h)
    # Autocast casts the input anew for each of the products that share it.
    shared = np.where(c.is_("family", *_ONE_PRODUCT), 1.0, 3.0) + np.where(gated, 2.0, 1.0)
    products = trained * np.where(mode.autocast, shared, 2.0) * h * m
    inner = np.where(gated, 3.0, 1.0) * f * m
    inner = inner + trained * f * m
    # Two dropout masks of one byte in encoders; decoders are tuned without dropout.
    masks = np.where(c.flags["causal"], 0.0, 2.0 * h)
    total = norms + products + inner + masks + _attention(c, mode, theta)
    return total + _adapters(c, mode, theta) + _quantised_inputs(c, mode, theta)


def _attention(c: Columns, mode: Mode, theta: Mapping[str, float]) -> Floats:
    """Queries, keys, values and output; scores too where they are written out."""
    q, kv, m = c["query_size"], c["kv_size"], mode.element
    # PyTorch's kernels get keys and values repeated for every query head.
    repeats = c.is_("runtime", "pytorch") & ~c.is_("attention", "flash")
    wide = np.where(repeats & c.flags["causal"], q, kv)
    operands = (2.0 * q + 2.0 * wide) * m
    # Rotated queries and keys are copies; where one product makes all three, the values are a
    # view that keeps its whole output alive.
    one = c.is_("framework", "lightning") | c.is_("family", *_ONE_PRODUCT)
    one = one & (c["kv_size"] == q) & ~c.flags["compiled"] & ~eager_attention(c)
    operands = operands + np.where(one, (q + kv) * m, 0.0)
    # Softmax output, its dropout mask and dropped copy (encoders); fp32 softmax and the half
    # copy (decoders).
    encoder = np.where(mode.half, np.where(mode.autocast, 7.0, 5.0), 9.0)
    score = np.where(c.flags["causal"], np.where(mode.half, 6.0, 4.0), encoder)
    scores = score * c["num_heads"] * c["seq_len"]
    return operands + np.where(eager_attention(c), scores, 0.0)


def _adapters(c: Columns, mode: Mode, theta: Mapping[str, float]) -> Floats:
    """Inputs of adapted products, dropped out: a copy and a mask of half its size."""
    h, q, kv, f = c["hidden_size"], c["query_size"], c["kv_size"], c["ffn_size"]
    inner = np.where(c.flags["gated_mlp"], 2.0, 1.0)
    targets = c.names["lora_targets"].astype(str)
    named = np.where(targets == "", "query+value", targets)
    has = {
        key: np.char.find(named, key) >= 0 for key in ("query", "key", "value", "projection", "mlp")
    }
    qkv = has["query"] | has["key"] | has["value"]
    inputs = qkv * h + has["projection"] * q + has["mlp"] * (inner * h + f)
    # Scales and biases on every product (adapter v2) save its output instead.
    outputs = (q + 2.0 * kv) + h + inner * f + h
    # They train the norms' scales as well.
    outputs = outputs + np.where(c.flags["gated_mlp"], 2.0 * h, 0.0)
    adapted = np.where(named == "all", outputs, theta["memory.adapter"] * inputs)
    # Where one product makes queries, keys and values, and only some are adapted, the update is
    # scattered into zeros and its source kept.
    some = qkv & ~has["key"] & c.is_("framework", "lightning")
    adapted = adapted + np.where(some, has["query"] * q + has["value"] * kv, 0.0)
    rank = (c["peft_rank"] > 0) | (named == "all")
    return np.where(mode.frozen & rank, adapted * mode.element, 0.0)


def _quantised_inputs(c: Columns, mode: Mode, theta: Mapping[str, float]) -> Floats:
    """Inputs that 4-bit products keep although their weight is frozen."""
    reads = np.where(c.flags["gated_mlp"], 3.0, 2.0) * c["hidden_size"] + c["ffn_size"]
    inputs = theta["memory.nf4_inputs"] * reads
    return np.where(mode.four_bit & ~c.flags["compiled"], inputs * mode.element, 0.0)


def saved(c: Columns, mode: Mode, theta: Mapping[str, float]) -> tuple[Floats, Floats]:
    """Return bytes saved by all layers of a rank, and by one layer while it is (re)computed."""
    tokens = tokens_of(c)
    layer = tokens * layer_bytes(c, mode, theta) / c["tp"] * theta["memory.activations"]
    layer = layer * np.where(c.flags["compiled"], theta["memory.compiled"], 1.0)
    # Graphs of single operators: norms, GELU and dropout keep every intermediate, masks are fp32.
    layer = layer * np.where(c.is_("runtime", "tensorflow"), theta["memory.tensorflow"], 1.0)
    layers = c["num_layers"] / c["pp"]
    in_flight = np.where(c["pp"] > 1, np.minimum(c["grad_accum"] * pieces(c), c["pp"]), 1.0)
    full = c.is_("checkpointing", "full")
    # Libraries that pre-train with FSDP or NeMo checkpoint selectively unless told otherwise.
    large = c.is_("runtime", "nemo", "megatron") | (
        c.is_("sharding", "fsdp") & c.is_("task", "pretrain")
    )
    selective = c.is_("checkpointing", "selective") | (c.is_("checkpointing", "") & large)
    offload = np.where(c.flags["offload_activations"], 0.1, 1.0)
    boundary = tokens * c["hidden_size"] / c["tp"] * mode.residual * offload
    kept = np.where(full, boundary, layer * np.where(selective, theta["memory.selective"], 1.0))
    again = np.where(full | selective, layer, 0.0)
    return layers * kept * in_flight, again


def live_inference(c: Columns, mode: Mode, theta: Mapping[str, float]) -> Floats:
    """Bytes alive at once in the widest layer of a forward, and the keys and values it caches."""
    m, tokens = mode.element, tokens_of(c)
    wide = c["query_size"] + 2.0 * c["kv_size"] + c["hidden_size"]
    scores = np.where(eager_attention(c), c["num_heads"] * c["seq_len"], 0.0)
    inner = np.where(c.flags["gated_mlp"], 3.0, 2.0) * c["ffn_size"]
    widest = c["hidden_size"] + np.maximum(wide + 2.0 * scores, inner)
    cached = np.where(c.flags["causal"], 2.0 * tokens * c["kv_size"] * m, 0.0)
    return (theta["memory.infer"] * tokens * m * widest + cached * c["num_layers"]) / (
        c["tp"] * c["pp"]
    )


def logits(c: Columns, mode: Mode, theta: Mapping[str, float]) -> Floats:
    """Bytes of the scores over the vocabulary at the loss."""
    train = c.is_("kind", "train")
    tokens = tokens_of(c)
    scored = np.select([c.is_("head", "lm"), c.is_("head", "mlm")], [tokens, _MASKED * tokens], 0.0)
    # Generation and serving score the last position of each sample only.
    last = c.flags["generation"] | (~train & c.flags["causal"])
    scored = np.where(last, np.minimum(scored, c["micro_batch"]), scored)
    # Logits, log-softmax and their gradient; recipes upcast them, and keep the half logits.
    upcast = mode.half & ~c.is_("framework", "lightning")
    copies = np.where(upcast, 2.0 + 4.0 * theta["memory.logits"], 3.0 * mode.element)
    fused = upcast & c.flags["compiled"] & ~c.is_("task", "pretrain")
    copies = copies * np.where(fused, theta["memory.compiled_loss"], 1.0)
    copies = np.where(c.flags["chunked_loss"], mode.element * theta["memory.chunked"], copies)
    copies = np.where(train, copies, mode.element + 4.0)
    return scored * c["vocab_size"] / c["tp"] * copies
