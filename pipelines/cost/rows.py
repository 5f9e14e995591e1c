"""A `Workload` from one row of a table with the columns of measured/README.md.

Every assumption for a blank cell is written here once. A row that can't be read raises SpecError
whose message becomes the row's reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache

from components.contract import SpecError
from pipelines.cost.hardware import PRECISIONS, find_gpu, gpu_count
from pipelines.cost.model_names import by_name
from pipelines.cost.row_words import (
    CHECKPOINTING,
    KIND_ALIASES,
    NOTHING,
    PRECISION_ALIASES,
    RUNTIME_ALIASES,
    SHARDINGS,
    TASK_ALIASES,
    WEIGHT_ONLY,
)
from pipelines.cost.shapes import ModelShape
from pipelines.cost.workload import HERE_CPU, KINDS, TASKS, Workload

# Largest value that can be meant in earnest; above it a cell is taken for a slip.
_LIMITS = {
    "hidden_size": 131_072,
    "num_layers": 2_000,
    "num_heads": 4_096,
    "num_kv_heads": 4_096,
    "ffn_size": 1_048_576,
    "vocab_size": 4_000_000,
    "n_gpus": 200_000,
    "nodes": 50_000,
    "gpus_per_node": 1_024,
    "seq_len": 10_000_000,
    "micro_batch": 10_000_000,
    "grad_accum": 10_000_000,
    "global_batch": 1_000_000_000,
    "tp": 1_024,
    "pp": 1_024,
    "peft_rank": 65_536,
}
# Tokens of a sample where the row does not say how many.
UNSIZED = 512.0


class Row:
    """Typed access to the cells of one row; a blank cell is None."""

    def __init__(self, cells: Mapping[str, str | None]) -> None:
        self._cells = cells
        self.extra = _pairs(self.text("extra"))

    def text(self, column: str) -> str:
        return (self._cells.get(column) or "").strip()

    def number(self, column: str, value: str | None = None) -> float | None:
        """Return a positive finite number within the column's limit, None if blank."""
        text = self.text(column) if value is None else value.strip()
        if not text:
            return None
        if re.fullmatch(r"\d{1,3}(,\d{3})+(\.0*)?", text):
            text = text.replace(",", "")
        try:
            number = float(text)
        except ValueError:
            raise SpecError(f"{column} is {text!r}, not a number") from None
        limit = _LIMITS.get(column, 1e12)
        if not math.isfinite(number) or number <= 0 or number > limit:
            raise SpecError(f"{column} is {text}: must be above 0 and at most {limit:,.0f}")
        return number

    def whole(self, column: str, default: int | None = None) -> int | None:
        number = self.number(column)
        if number is None:
            return default
        if number != int(number):
            raise SpecError(f"{column} is {number}: must be a whole number")
        return int(number)

    def flag(self, column: str) -> bool | None:
        text = self.text(column).lower()
        if text in {"", *NOTHING}:
            return None
        if text in {"1", "1.0", "true", "yes"}:
            return True
        if text in {"0", "0.0", "false", "no"}:
            return False
        raise SpecError(f"{column} is {text!r}: must be 0 or 1")

    def option(self, key: str, default: int = 1) -> int:
        """Return a positive whole number of `extra`, `default` if absent or not a number."""
        try:
            return max(1, int(float(self.extra.get(key, default))))
        except ValueError:
            return default


def _pairs(text: str) -> dict[str, str]:
    pairs = (part.split("=", 1) for part in text.split(";") if "=" in part)
    return {key.strip().lower(): value.strip() for key, value in pairs}


def extra_is(row: Row, key: str, value: str) -> bool:
    """Whether `extra` says `key` = `value`."""
    return row.extra.get(key, "").lower() == value


def shape_of(row: Row) -> ModelShape:
    """Read the architecture columns, or else look the model's name up."""
    named = by_name(row.text("model"))
    hidden, layers = row.whole("hidden_size"), row.whole("num_layers")
    heads, ffn, vocab = row.whole("num_heads"), row.whole("ffn_size"), row.whole("vocab_size")
    known = row.flag("arch_known")
    if not (hidden and layers and heads):
        if known is False or named is None:
            raise SpecError(f"architecture of model {row.text('model')!r} is not known")
        return named
    head_dim = row.option("head_dim", 0) if "head_dim" in row.extra else 0
    if not head_dim:
        if hidden % heads:
            raise SpecError(f"hidden_size {hidden} is not divisible by num_heads {heads}")
        head_dim = hidden // heads
    gated, causal, tied = row.flag("gated_mlp"), row.flag("causal"), row.flag("tied_embeddings")
    causal = bool(causal) if causal is not None else bool(named and named.causal)
    gated = bool(gated)
    kv_heads = row.whole("num_kv_heads") or heads
    if heads % kv_heads:
        raise SpecError(f"num_heads {heads} is not divisible by num_kv_heads {kv_heads}")
    encoder = not causal
    return ModelShape(
        family=named.family if named else "generic",
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_size=ffn or 4 * hidden,
        vocab_size=vocab or (named.vocab_size if named else 30_522 if encoder else 50_257),
        tied_embeddings=tied if tied is not None else encoder,
        gated_mlp=gated,
        causal=causal,
        qkv_bias=not gated,
        out_bias=not gated,
        mlp_bias=not gated,
        norm_bias=not gated,
        max_positions=512 if encoder else 0,
        type_vocab=2 if encoder else 0,
        embedding_norm=encoder,
        final_norm=causal,
        pooler=encoder,
        image_size=named.image_size if named else 0,
        patch_size=named.patch_size if named else 0,
    )


def workload_from_row(cells: Mapping[str, str | None]) -> Workload:
    """Read one row.

    Raises:
        SpecError: a cell is malformed or absurd, the GPU or the architecture is unknown, or
            sequence length or batch are missing.
    """
    row = Row(cells)
    kind, task = _kind_and_task(row)
    gpu, stated = _device(row)
    shape = shape_of(row)
    tp, pp = row.whole("tp", 1) or 1, row.whole("pp", 1) or 1
    cp = row.option("cp")
    n_gpus, nodes = _cluster(row, stated)
    if tp * pp * cp > n_gpus:
        raise SpecError(f"tp {tp} x pp {pp} x cp {cp} exceeds n_gpus {n_gpus}")
    tp = _assumed_tensor_parallel(row, kind, shape, n_gpus // nodes, gpu) or tp
    replicas = max(1, n_gpus // (tp * pp * cp))
    generation = kind == "infer" and row.number("seq_len") is None and shape.causal
    # The source says that lengths vary and not how: memory can still be told, time can't.
    varies = row.number("seq_len") is None and extra_is(row, "tokens", "variable")
    unsized = generation or (varies and shape.causal)
    seq_len = row.number("seq_len") or shape.image_tokens or (UNSIZED if unsized else None)
    if seq_len is None:
        raise SpecError("seq_len is blank")
    optimizer = row.text("optimizer").lower()
    micro_batch, accum = _batch(row, kind, replicas, generation)
    precision, precision_raw = _precision(row)
    quantization = row.text("quantization").lower()
    quantization = "" if quantization in NOTHING else quantization
    if precision in WEIGHT_ONLY:
        precision, weights = WEIGHT_ONLY[precision]
        quantization = quantization or weights
    if (
        kind == "infer"
        and "int8" in quantization
        and "weights" not in quantization
        and precision != "int8"
        and "bnb" not in quantization
    ):
        precision = "int8"
    extra = row.extra
    return Workload(
        kind=kind,
        task=task,
        shape=shape,
        gpu=gpu,
        n_gpus=n_gpus,
        nodes=nodes,
        seq_len=seq_len,
        micro_batch=micro_batch,
        grad_accum=accum,
        precision=precision,
        runtime=_runtime(row),
        framework=_framework(row),
        optimizer=optimizer,
        sharding=_sharding(row),
        tp=tp,
        pp=pp,
        cp=cp,
        vp=row.option("vp"),
        fsdp_degree=row.option("fsdp_degree", 0)
        if "fsdp_degree" in extra
        else row.option("fsdp", 0)
        if "fsdp" in extra
        else 0,
        checkpointing=_checkpointing(row),
        attention=extra.get("attn", "").lower(),
        packing=bool(row.flag("packing")),
        compiled=extra.get("compile", "0") not in {"0", "", "false"},
        peft_rank=0 if row.text("peft_rank") in ("0", "0.0") else row.whole("peft_rank", 0) or 0,
        # Adapter v2 trains a scale and a bias on every linear layer.
        lora_targets="all"
        if extra.get("method") == "adapter_v2"
        else extra.get("lora_targets", ""),
        trainable_parameters=float(row.option("trainable_params", 0))
        if "trainable_params" in extra
        else 0.0,
        quantization=quantization,
        recipe=(extra.get("float8_recipe") or extra.get("fp8_recipe") or "").lower(),
        sparse="2:4" in quantization,
        head=_head(kind, task, shape),
        pure_precision="true" in precision_raw or extra.get("mp_mode", "") == "PURE",
        fill=0.0 if extra.get("tokens") == "variable" and "seq_binning" in extra else 1.0,
        serving=bool(extra.get("serving")),
        generator=task == "pretrain" and "electra" in row.text("model").lower(),
        chunked_loss=bool(extra.get("chunked_ce")),
        optimizer_in_backward=bool(extra.get("optimizer_in_bwd")),
        offload_activations=bool(extra.get("act_offload") or extra.get("act_cpu_offload")),
        offload_states=bool(extra.get("cpu_offload")),
        generation=generation,
        untimed=unsized,
    )


def _assumed_tensor_parallel(
    row: Row, kind: str, shape: ModelShape, per_node: int, gpu: str
) -> int | None:
    """Return the GPUs of a node that share a model which one of them can't hold.

    Inference tables often give several GPUs and no split: replicas of what does not fit are not
    meant.
    """
    if kind != "infer" or per_node == 1 or row.text("tp") or row.text("pp"):
        return None
    found = find_gpu(gpu)
    if found is None:
        return None
    stated = f"{row.text('precision')} {row.text('quantization')}".lower()
    four = any(word in stated for word in ("fp4", "nf4", "int4", "4bit"))
    eight = any(word in stated for word in ("int8", "fp8", "8bit"))
    width = 0.5 if four else 1.0 if eight else 4.0 if "32" in stated else 2.0
    whole = shape.parameters * width > 0.9 * found.usable_bytes
    return per_node if whole and shape.num_heads % per_node == 0 else None


def _kind_and_task(row: Row) -> tuple[str, str]:
    kind = row.text("kind").lower()
    task = re.sub(r"[\s_]+", "-", row.text("task").lower())
    kind, task = KIND_ALIASES.get(kind, kind), TASK_ALIASES.get(task, task)
    kind = kind or ("infer" if task == "infer" else "train" if task else "")
    if kind not in KINDS:
        raise SpecError(f"kind is {kind!r}: must be train or infer")
    task = task or ("infer" if kind == "infer" else "finetune")
    if task not in TASKS:
        raise SpecError(f"task is {task!r}: must be one of {', '.join(TASKS)}")
    return kind, task


@cache
def _instances() -> dict[str, tuple[str, int]]:
    """Return GPU and count of the catalogue's instances."""
    from pipelines.cost.catalog import load_catalog

    return {i.name: (i.gpu, i.gpu_count) for i in load_catalog().instances if i.gpu}


def _device(row: Row) -> tuple[str, int | None]:
    """Return the GPU, and how many of them its name states: a GPU's name with a count, or that of a
    catalogue's instance."""
    gpu = row.text("gpu")
    if find_gpu(gpu) is not None or gpu == HERE_CPU:
        return gpu, gpu_count(gpu)
    if found := _instances().get(gpu.lower()):
        return found
    raise SpecError(f"unknown GPU {gpu!r}")


def _sharding(row: Row) -> str:
    stated = re.sub(r"[\s_]+", "-", row.text("sharding").lower())
    return SHARDINGS.get(stated, stated)


def _cluster(row: Row, stated: int | None) -> tuple[int, int]:
    """Return GPUs and nodes of the job. A stated count is of one machine."""
    per_node, nodes = row.whole("gpus_per_node"), row.whole("nodes", 1) or 1
    split = (row.whole("tp", 1) or 1) * (row.whole("pp", 1) or 1) * row.option("cp")
    n_gpus = row.whole("n_gpus") or (per_node * nodes if per_node and nodes > 1 else None)
    if n_gpus is None:
        # Not stated: one GPU a node, unless the node or the split of the model says more.
        n_gpus = stated * nodes if stated else max(nodes, split if not per_node else 1)
        if per_node and split > 1:
            n_gpus = max(per_node * nodes, split)
    if nodes > n_gpus:
        raise SpecError(f"nodes {nodes} exceeds n_gpus {n_gpus}")
    return n_gpus, nodes


def _batch(row: Row, kind: str, replicas: int, generation: bool) -> tuple[float, float]:
    micro, accum, total = (row.number(c) for c in ("micro_batch", "grad_accum", "global_batch"))
    if kind == "infer":
        micro = micro or total or (1.0 if generation else None)
        if micro is None:
            raise SpecError("micro_batch is blank")
        return micro, 1.0
    if micro is None and total is not None:
        micro = total / replicas / (accum or 1.0)
    if micro is None:
        raise SpecError("micro_batch and global_batch are blank")
    if accum is None and total is not None:
        accum = max(1.0, total / (micro * replicas))
    return micro, accum or 1.0


def _precision(row: Row) -> tuple[str, str]:
    raw = row.text("precision_raw").lower()
    precision = row.text("precision").lower() or raw
    precision = precision.removeprefix("torch.")
    precision = PRECISION_ALIASES.get(precision, precision)
    if precision in WEIGHT_ONLY:
        return precision, raw
    if precision not in PRECISIONS:
        # "bf16-mixed", "fp8_e4m3", "amp fp16": the one format that is named.
        # Formats first; "mixed" and "half" say something only where no format is named.
        for pattern in (r"[a-z]+\d+|(?<![a-z\d])\d+", r"[a-z]+"):
            words = [PRECISION_ALIASES.get(w, w) for w in re.findall(pattern, precision)]
            named = {word for word in words if word in PRECISIONS}
            if named:
                break
        # A reduced format beside fp32 is what products are computed in.
        named = named - {"fp32"} or named
        precision = named.pop() if len(named) == 1 else precision
    if precision not in PRECISIONS:
        raise SpecError(f"precision is {precision!r}: must be one of {', '.join(PRECISIONS)}")
    return precision, raw


def _runtime(row: Row) -> str:
    runtime = row.text("runtime").lower().replace("_", "-").replace(" ", "-")
    return RUNTIME_ALIASES.get(runtime, runtime)


def _framework(row: Row) -> str:
    """Return the stated framework; Lightning is known by how it spells precisions."""
    stated = row.extra.get("framework", "").lower()
    spelled = row.text("precision_raw").lower().endswith(("-true", "-mixed"))
    return stated or ("lightning" if spelled else "")


def _checkpointing(row: Row) -> str:
    if row.extra.get("ac", "").startswith("selective"):
        return "selective"
    stated = row.text("activation_checkpointing").lower()
    if stated in CHECKPOINTING:
        return CHECKPOINTING[stated]
    flag = row.flag("activation_checkpointing")
    return "" if flag is None else "full" if flag else "none"


def _head(kind: str, task: str, shape: ModelShape) -> str:
    if shape.causal:
        return "lm"
    return "mlm" if kind == "train" and task == "pretrain" and not shape.patch_size else "small"
