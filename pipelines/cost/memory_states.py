"""Bytes of weights, gradients and optimizer states on one GPU, and how precision is mixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipelines.cost.columns import Bools, Columns, Floats

# Bytes of a 4-bit weight: half a byte and a 4-byte constant a block of 64; constants quantised.
_FOUR_BIT, _FOUR_BIT_DOUBLE = 0.5 + 4.0 / 64, 0.5 + 1.0 / 64 + 4.0 / 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """How each row mixes precisions.

    `half` products are in 2 bytes or fewer; `pure` keeps weights in half and no other copy;
    `master` keeps half weights and fp32 ones among the optimizer's states (Megatron, ZeRO);
    `autocast` keeps fp32 weights and casts them at each product; otherwise all is fp32, or fp32
    shards are gathered in half (FSDP). `element` and `residual` are bytes of a product's input
    and of the residual stream.
    """

    train: Bools
    frozen: Bools
    half: Bools
    pure: Bools
    master: Bools
    autocast: Bools
    four_bit: Bools
    element: Floats
    residual: Floats


def mode_of(c: Columns) -> Mode:
    """Classify every row."""
    train = c.is_("kind", "train")
    frozen = c.is_("task", "lora", "qlora") & train
    half = c.is_("precision", "fp16", "bf16", "int8", "fp8", "fp4")
    zero = c.is_("sharding", "zero1", "zero2", "zero3") | c.is_("runtime", "deepspeed")
    master = train & half & ~frozen & (zero | c.is_("runtime", "megatron", "nemo"))
    # Fine-tuning recipes of PyTorch LLM libraries keep bf16 weights; pre-training keeps fp32.
    recipe = c.is_("runtime", "pytorch") & c.is_("task", "finetune")
    recipe &= c.is_("precision", "bf16") & c.flags["causal"]
    # LOMO updates half weights in place.
    recipe |= np.char.find(c.names["optimizer"].astype(str), "lomo") >= 0
    pure = half & ~master & (c.flags["pure_precision"] | frozen | ~train | recipe)
    autocast = half & ~pure & ~master & ~c.is_("sharding", "fsdp")
    names = c.names["quantization"].astype(str)
    four = np.zeros(c.size, dtype=bool)
    for word in ("nf4", "fp4", "int4", "4bit", "4-bit"):
        four |= np.char.find(names, word) >= 0
    return Mode(
        train=train, frozen=frozen, half=half, pure=pure, master=master, autocast=autocast,
        four_bit=four, element=np.where(half, 2.0, 4.0),
        residual=np.where(half & ~autocast, 2.0, 4.0),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """Bytes a GPU holds: `weights` and `optimizer` throughout, `gradients` once computed.

    `head_gradients` is what the first moment of the backward has of them; `gathered` the whole
    weights of the layers at work under sharding; `loading` a checkpoint held while it is read.
    """

    weights: Floats
    cast: Floats
    optimizer: Floats
    gradients: Floats
    head_gradients: Floats
    gathered: Floats
    loading: Floats
    buckets: Floats
    dequantised: Floats


def states_of(c: Columns, mode: Mode, theta: Mapping[str, float]) -> States:
    """Return the states of each row."""
    parallel = c["tp"] * c["pp"]
    total = (c["backbone_parameters"] + c["lm_head_parameters"]) / parallel
    sharded, gradient_shards, state_shards = _degrees(c, mode)
    trainable = np.where(mode.frozen, adapter_parameters(c), total) * mode.train
    width = np.where(mode.master | (mode.pure & ~mode.frozen), 2.0, 4.0)
    # Adapters of a half base are half too, except under 16-bit floats of narrow range.
    narrow = c.is_("precision", "fp32", "tf32", "fp16") & ~c.flags["pure_precision"]
    width = np.where(mode.frozen, np.where(narrow, 4.0, 2.0), width)
    # Megatron adds micro-batches up in fp32.
    gradient = np.where(c.is_("runtime", "megatron", "nemo") & mode.half, 4.0, width)
    gradients = trainable * gradient
    table = np.maximum(c["embedding_parameters"], c["lm_head_parameters"]) / parallel
    one_at_a_time = np.minimum(trainable, np.maximum(table, c["layer_parameters"] / c["tp"]))
    # LOMO updates a tensor as soon as its gradient is there.
    lomo = np.char.find(c.names["optimizer"].astype(str), "lomo") >= 0
    updated = c.flags["optimizer_in_backward"] | lomo
    gradients = np.where(updated, one_at_a_time * gradient, gradients)
    head = np.where(mode.frozen, 0.0, np.minimum(gradients, table * gradient))
    per_state = optimizer_bytes(c, width) + np.where(mode.master, 4.0, 0.0)
    states = trainable * per_state * np.where(c.flags["offload_states"], 0.0, 1.0)
    half_total = 2.0 * total
    cast = np.where(mode.autocast & mode.train, 2.0 * c["matmul_parameters"] / parallel, 0.0)
    unit = 2.0 * c["layer_parameters"] / c["tp"]
    # Two layers at work and the outermost unit: embedding and head.
    whole = 2.0 * unit + 2.0 * (c["embedding_parameters"] + c["lm_head_parameters"]) / c["tp"]
    whole = whole + np.where(mode.frozen, 0.0, unit)
    gathered = np.where(sharded > 1, np.minimum(whole, half_total), 0.0)
    # A pipeline stage keeps its weights and fp32 gradients whole between micro-batches.
    staged = (c["pp"] > 1) & (sharded > 1) & mode.train
    gathered = np.where(staged, 6.0 * total * theta["memory.staged"], gathered)
    # Lightning reads the whole checkpoint on every rank before it shards it.
    loads = (sharded > 1) & c.is_("framework", "lightning") & ~c.is_("task", "pretrain")
    loading = np.where(loads, theta["memory.load"] * half_total, 0.0)
    # DDP reduces buckets beside the gradients unless gradients are views of them.
    plain = (sharded == 1) & (c["data_parallel"] > 1) & mode.train
    plain &= c.is_("runtime", "pytorch") & (gradient_shards == 1)
    buckets = np.where(plain, theta["memory.buckets"] * gradients, 0.0)
    widest = np.maximum(c["hidden_size"] * c["ffn_size"], c["lm_head_parameters"]) / c["tp"]
    return States(
        weights=_weight_bytes(c, mode, total, parallel) / sharded
        + np.where(mode.frozen, trainable * width, 0.0),
        cast=cast / sharded,
        optimizer=states / state_shards,
        gradients=gradients / gradient_shards,
        head_gradients=head / gradient_shards,
        gathered=gathered,
        loading=loading,
        buckets=buckets,
        dequantised=np.where(mode.four_bit, 2.0 * widest, 0.0),
    )


def _weight_bytes(c: Columns, mode: Mode, total: Floats, parallel: Floats) -> Floats:
    names = c.names["quantization"].astype(str)
    width = np.where(mode.pure | mode.master, 2.0, 4.0)
    double = np.char.find(names, "dq") >= 0
    # The library behind nf4 without a prefix quantises its constants.
    double |= names == "nf4"
    four = np.where(double, _FOUR_BIT_DOUBLE, _FOUR_BIT)
    inference = ~mode.train & c.is_("precision", "int8", "fp8")
    eight = (np.char.find(names, "int8") >= 0) | (np.char.find(names, "8bit") >= 0) | inference
    fp4 = ~mode.train & c.is_("precision", "fp4")
    quantised = np.where(mode.four_bit | fp4, four, np.where(eight, 1.0, width))
    # Lightning's plug-in replaces every linear layer, the output layer too.
    head = np.where(c.is_("framework", "lightning"), c["lm_head_parameters"], 0.0)
    # Layers that share their weights (ALBERT) are stored once.
    layers = np.minimum((c["matmul_parameters"] + head) / parallel, total)
    return layers * quantised + (total - layers) * width


def _degrees(c: Columns, mode: Mode) -> tuple[Floats, Floats, Floats]:
    """Ranks that share weights, gradients and states."""
    ranks = np.where(c["fsdp_degree"] > 0, c["fsdp_degree"], c["data_parallel"]) * c["cp"]
    everything = np.where(c.is_("sharding", "fsdp", "zero3"), ranks, 1.0)
    distributed = c.is_("runtime", "megatron", "nemo") & ~c.is_("sharding", "ddp", "none")
    gradients = np.where(c.is_("sharding", "zero2"), ranks, everything)
    states = np.where(c.is_("sharding", "zero1") | (distributed & mode.train), ranks, gradients)
    return everything, gradients, states


def optimizer_bytes(c: Columns, width: Floats) -> Floats:
    """Bytes of optimizer state a trained parameter; moments are as wide as the weights.

    Under a half weight with fp32 master (ZeRO, Megatron) moments are fp32.
    """
    names = np.char.replace(c.names["optimizer"].astype(str), "_", "-")

    def has(*words: str) -> Bools:
        found = np.zeros(c.size, dtype=bool)
        for word in words:
            found |= np.char.find(names, word) >= 0
        return found

    master = c.is_("runtime", "megatron", "nemo", "deepspeed") | c.is_(
        "sharding", "zero1", "zero2", "zero3"
    )
    moment = np.where(master, 4.0, width)
    one = has("lion", "momentum", "muon")
    result: Floats = np.select(
        [has("lomo"), has("8bit", "8-bit") & one, has("8"), has("4bit", "4-bit"),
         has("adafactor"), has("galore", "apollo"), one, has("sgd")],
        [0.0, 1.0, 2.0, 1.0, 0.05, 0.5 * moment, moment, 0.0], 2.0 * moment,
    )  # fmt: skip
    # Paged states move to the host under pressure.
    return np.where(has("paged"), 0.25 * result, result)


def adapter_parameters(c: Columns) -> Floats:
    """LoRA parameters: rank x (in + out) of each target, query and value if not stated."""
    h, q, kv, f = c["hidden_size"], c["query_size"], c["kv_size"], c["ffn_size"]
    per = np.zeros(c.size)
    mlp = np.where(c.flags["gated_mlp"], 3.0, 2.0) * (h + f)
    for i, text in enumerate(c.names["lora_targets"]):
        named = str(text) or "query+value"
        per[i] = (
            ("query" in named) * (h[i] + q[i]) + ("key" in named) * (h[i] + kv[i])
            + ("value" in named) * (h[i] + kv[i]) + ("projection" in named) * (h[i] + q[i])
            + ("mlp" in named) * mlp[i]
        )  # fmt: skip
    rank = np.maximum(c["peft_rank"], 8.0)
    estimate = rank * per * c["num_layers"] / (c["tp"] * c["pp"])
    return np.where(c["trainable_parameters"] > 1, c["trainable_parameters"], estimate)
