"""What is asked of the cost model, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines.cost.hardware import Cpu
from pipelines.cost.shapes import ModelShape

KINDS = ("train", "infer")
TASKS = ("pretrain", "finetune", "lora", "qlora", "infer")
RUNTIMES = (
    "pytorch",
    "tensorflow",
    "paddle",
    "onnxruntime",
    "onnxruntime-tensorrt",
    "tensorrt",
    "megatron",
    "nemo",
    "deepspeed",
)
SHARDINGS = ("none", "ddp", "zero1", "zero2", "zero3", "fsdp")
CHECKPOINTING = ("none", "selective", "full")
HERE_CPU = "here-cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One way to run one model: a training step or one inference batch.

    `micro_batch` is samples per data-parallel rank and micro-step (inference: the batch);
    `seq_len` the tokens a sample is padded to (mean over batches under bucketing) or the packed
    row length. Data-parallel degree is n_gpus / (tp pp cp). `head` says what follows the last
    layer: ``lm`` scores every position, ``mlm`` the masked ones, ``small`` a few labels.
    `attention` and `checkpointing` blank: the runtime's default. `precision` is that of matrix
    products; under fp16/bf16 training weights are kept in fp32 unless `pure_precision`.
    `recipe` is the scaling of fp8 (``tensorwise``, ``rowwise``, ``mxfp8``).
    `generation` scores one token a sample; `untimed` says that `seq_len` is assumed.
    `fill` is the share of `seq_len` really computed (length bins below seq_len).
    """

    kind: str
    task: str = "finetune"
    shape: ModelShape
    gpu: str
    cpu: Cpu | None = None
    n_gpus: int = 1
    nodes: int = 1
    seq_len: float
    micro_batch: float
    grad_accum: float = 1.0
    precision: str = "bf16"
    runtime: str = "pytorch"
    framework: str = ""
    optimizer: str = "adamw"
    sharding: str = ""
    tp: int = 1
    pp: int = 1
    cp: int = 1
    vp: int = 1
    fsdp_degree: int = 0
    checkpointing: str = ""
    attention: str = ""
    packing: bool = False
    compiled: bool = False
    peft_rank: int = 0
    lora_targets: str = ""
    trainable_parameters: float = 0.0
    quantization: str = ""
    recipe: str = ""
    sparse: bool = False
    head: str = ""
    pure_precision: bool = False
    fill: float = 1.0
    serving: bool = False
    generator: bool = False
    chunked_loss: bool = False
    optimizer_in_backward: bool = False
    offload_activations: bool = False
    offload_states: bool = False
    generation: bool = False
    untimed: bool = False

    @property
    def data_parallel(self) -> int:
        """Data-parallel replicas."""
        return max(1, self.n_gpus // (self.tp * self.pp * self.cp))

    @property
    def global_batch(self) -> float:
        """Samples per optimizer step (inference: per batch)."""
        replicas = self.data_parallel if self.kind == "train" else 1
        return self.micro_batch * self.grad_accum * replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The answer for one `Workload`; None where it does not apply or can't be said.

    ``*_low`` and ``*_high`` bound the 80 % interval. `step_time_s` is one optimizer step
    (training), `latency_ms` one batch (inference); throughputs are of the whole job; memory is
    the peak of one GPU. `fits` is None when memory or the GPU's size is too uncertain to say.
    `breakdown` gives seconds by part (gemm, attention, elementwise, communication ...) and bytes
    by part under ``memory.*``.
    """

    step_time_s: float | None = None
    step_time_low: float | None = None
    step_time_high: float | None = None
    latency_ms: float | None = None
    latency_low: float | None = None
    latency_high: float | None = None
    samples_per_s: float | None = None
    samples_per_s_low: float | None = None
    samples_per_s_high: float | None = None
    tokens_per_s: float | None = None
    tokens_per_s_low: float | None = None
    tokens_per_s_high: float | None = None
    peak_memory_bytes: float | None = None
    peak_memory_low: float | None = None
    peak_memory_high: float | None = None
    fits: bool | None = None
    reason: str = ""
    breakdown: dict[str, float] = field(default_factory=dict)
