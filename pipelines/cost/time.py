"""Seconds of one training step or one inference batch, operator by operator.

Every constant that is not a specification is an entry of `data/coefficients.json`, a mapping from
a name to a positive number, fitted by benchmarks/fit_model.py to measured/workloads.csv; prior
value, meaning and unit of each are in `pipelines.cost.coefficients`.
"""

from __future__ import annotations

import numpy as np

from pipelines.cost.columns import Bools, Columns, Floats
from pipelines.cost.kernels import matmul_seconds, ring_seconds, surface
from pipelines.cost.stacks import Codes, Coefficients, stacks

GB = 1e9
# Manufacturing process of a GPU generation; newer ones are 5 nm or 4 nm.
_PROCESS = dict.fromkeys(("Kepler", "Maxwell", "Pascal", "Volta", "Turing", "GCN"), "12nm")
_PROCESS |= dict.fromkeys(("Ampere", "CDNA", "CDNA2"), "7nm")

# Share of the half-precision peak that fused attention reaches (forward, head size 128). Open
# kernels: A100 0.6 to 0.7 (arXiv 2307.08691), H100 0.37, as they use none of its asynchrony; the
# vendor's, which NeMo calls, 0.6 there (arXiv 2407.08608, figure 5).
_FUSED_SHARE = {"Hopper": 0.37, "Blackwell": 0.3, "CDNA2": 0.3, "CDNA3": 0.35, "CDNA4": 0.35}
_FUSED_OPEN, _FUSED_VENDOR = 0.6, 0.6
# GPUs that one NVLink switch joins, where that is more than a node (GB200 and GB300 NVL72).
_DOMAIN = {"GB200": 72.0, "GB300": 72.0}


class StepModel:
    """Evaluates the step of many workloads; holds what does not depend on coefficients."""

    def __init__(self, columns: Columns) -> None:
        c = self.c = columns
        self.stack = stacks(columns)
        self.constants = surface(columns)
        self.adapted = self.constants
        self.train = columns.is_("kind", "train")
        self.arch = [str(a) for a in columns.names["arch"]]
        precision = columns.names["precision"]
        self.half = np.isin(precision.astype(str), ("fp16", "bf16", "fp8", "fp4", "int8"))
        self.low = np.isin(precision.astype(str), ("fp8", "fp4"))
        # Builders of TensorRT engines are given both formats and keep the faster kernel: without
        # int8 tensor cores (Volta) that is the half-precision one.
        self.graph = np.array([s.startswith(("tensorrt", "onnxruntime-t")) for s in self.stack])
        self.quantised = precision == "int8"
        kept = self.quantised & self.graph & (c["half_peak"] > c["peak"])
        self.peak = np.where(kept, c["half_peak"], c["peak"])
        self.int8 = self.quantised & ~kept
        self.element = np.where(self.half, 2.0, 4.0)
        self.input_bytes = np.where(self.int8 | self.low, 1.0, self.element)
        kinds = np.where(self.half & ~self.int8 & ~self.low, "half", precision.astype(str))
        kinds = np.where(~columns.flags["native"] & ~kept, "emulated", kinds)
        self.kinds = [str(k) for k in kinds]
        arch_kind = [f"{a}.{k}" for a, k in zip(self.arch, self.kinds, strict=True)]
        # NeMo's fp8 products come from the vendor's tuned library, those of others do not.
        vendor = c.is_("runtime", "nemo") & (precision == "fp8")
        tuned = [f"{k}_tuned" if v else k for k, v in zip(self.kinds, vendor, strict=True)]
        self.by_stack, self.by_kind = Codes(self.stack), Codes(tuned)
        self.by_arch_kind = Codes(arch_kind)
        self.by_process = Codes([_PROCESS.get(a, "5nm") for a in self.arch])
        self.host_fused = np.array(
            [s.startswith(("compiled", "onnxruntime.", "nemo")) for s in self.stack]
        )
        self.four_bit = np.array(
            [any(k in str(q) for k in ("nf4", "fp4")) for q in columns.names["quantization"]]
        )
        self.optimizer = columns.names["optimizer"].astype(str)
        self.frozen = columns.is_("task", "lora", "qlora")
        self.fused_attention = self._fused_attention()
        share = [_FUSED_SHARE.get(a, _FUSED_OPEN) for a in self.arch]
        self.fused_share = np.where(c.is_("runtime", "nemo"), _FUSED_VENDOR, share)
        domain = [_DOMAIN.get(str(d), 0.0) for d in c.names["device"]]
        self.domain = np.maximum(c["n_gpus"] / c["nodes"], np.minimum(domain, c["n_gpus"]))
        self.recompute = np.where(
            columns.is_("checkpointing", "full"), 1.0,
            np.where(columns.is_("checkpointing", "selective"), 0.15, 0.0),
        ) * self.train  # fmt: skip
        self.layers = c["num_layers"] / c["pp"]
        # A pipeline needs micro-batches: where the row gives one large batch and no accumulation,
        # it is cut into single samples.
        cut = (c["pp"] > 1) & (c["grad_accum"] < c["pp"]) & self.train
        self.pieces = np.where(cut, c["micro_batch"], 1.0)
        self.accum = c["grad_accum"] * self.pieces

    def _fused_attention(self) -> Bools:
        """Whether scores stay on chip (flash or fused kernels) where the row does not say."""
        c = self.c
        stated = c.names["attention"].astype(str)
        default = c.is_("runtime", "nemo") | (c.is_("runtime", "pytorch") & c.flags["causal"])
        default |= c.flags["compiled"]
        # TensorRT's plugins have such kernels for short half-precision and int8 encoders, from
        # Turing on; an engine built from an exported graph has none.
        short = (c["seq_len"] <= 512.0) & (self.half | self.quantised) & ~self.train
        modern = ~np.isin(self.arch, ("Kepler", "Maxwell", "Pascal", "Volta"))
        default |= c.is_("runtime", "tensorrt") & ~c.flags["serving"] & short & modern
        eager = np.isin(stated, ("eager", "unfused", "torch"))
        return np.where(stated == "", default, ~eager).astype(bool)

    def tokens(self, theta: Coefficients) -> tuple[Floats, Floats]:
        """Return (sequence length really computed, tokens a rank and micro-step)."""
        c = self.c
        fill = np.where(c["fill"] > 0, c["fill"], theta["fill.binned"])
        seq = c["seq_len"] * fill
        return seq, c["micro_batch"] / self.pieces * seq / c["cp"]

    def rate(self, theta: Coefficients) -> Floats:
        """Sustained FLOP/s of large products: specification, kernel quality and power limit."""
        c = self.c
        rate = self.peak * self.constants["share"]
        rate = rate * self.by_stack.gather(theta, "gemm", 1.0)
        rate = rate * np.where(self.train, theta["gemm.train"], theta["gemm.infer"])
        rate = rate * self.by_kind.gather(theta, "kernel", 1.0)
        rate = rate * self.by_arch_kind.gather(theta, "arch", 1.0)
        rate = rate * np.where(
            c.is_("recipe", "rowwise", "mxfp8", "fp8-mx"), theta["kernel.scaled"], 1.0
        )
        # Energy of an operation sets a ceiling: T4 and L4 sustain well below their peak.
        energy = self.by_process.gather(theta, "energy", 1.0) * 1e-12
        scale = np.select(
            [self.int8 & c.flags["native"], self.low, c.is_("precision", "fp32"),
             c.is_("precision", "tf32")],
            [0.55, 0.6, theta["energy.fp32"], 1.6], 1.0,
        )  # fmt: skip
        ceiling = 0.85 * c["watts"] / (energy * scale)
        rate = rate / (1.0 + (rate / ceiling) ** 4) ** 0.25
        rate = rate / (1.0 + (rate / (1.15 * self.peak)) ** 8) ** 0.125
        result: Floats = rate * np.where(c.flags["sparse"], theta["kernel.sparse"], 1.0)
        return result

    def parts(self, theta: Coefficients) -> dict[str, Floats]:
        """Return seconds by part; the sum is the step (training) or the batch (inference)."""
        c = self.c
        seq, tokens = self.tokens(theta)
        rate = self.rate(theta)
        self.adapted = self.kernel_constants(theta)
        forward, backward = self._products(theta, tokens, rate)
        attention_f, attention_b = self._attention(theta, seq, tokens, rate)
        per_layer = self._elementwise(theta, tokens)
        backward_share = np.where(self.train, 1.0, 0.0)
        again = self.recompute
        gemm = self.layers * (forward * (1 + again) + backward * backward_share)
        attention = self.layers * (attention_f * (1 + again) + attention_b * backward_share)
        light = self.layers * per_layer * (
            1 + again + backward_share * np.where(self.frozen, 0.7 * theta["elementwise.backward"],
                                                  theta["elementwise.backward"])
        )  # fmt: skip
        light = light + self._adapters(theta, tokens) + self._dequantise(theta)
        head = self._head(theta, tokens, rate)
        tp = self._tensor_parallel(theta, tokens)
        launch = self._launch(theta)
        busy = gemm + attention + light + head
        # The host runs ahead of the device unless it is the slower of the two.
        bound = (busy**3 + launch**3) ** (1 / 3)
        micro = bound + tp
        stages = c["pp"] - 1.0
        accum = self.accum
        bubble = micro * stages / c["vp"] * theta["pipeline.bubble"]
        sync = self._data_parallel(theta, micro * backward_share * 0.6)
        optimizer = self._optimizer(theta)
        fixed = self.by_stack.gather(theta, "fixed", 0.0) * 1e-3
        fixed = fixed + np.where(c.flags["serving"], theta["serving.fixed"] * 1e-3, 0.0)
        generator = np.where(c.flags["generator"], theta["electra.generator"], 0.0)
        share = accum / busy
        return {
            "gemm": gemm * share,
            "attention": attention * share,
            "elementwise": light * share,
            "head": head * share,
            "launch": (bound - busy) * accum,
            "tensor_parallel": tp * accum,
            "generator": bound * accum * generator,
            "pipeline_bubble": bubble,
            "data_parallel": sync["per_micro"] * accum + sync["per_step"],
            "optimizer": optimizer,
            "fixed": fixed,
        } | {"gemm": gemm * accum, "attention": attention * accum, "elementwise": light * accum,
             "head": head * accum}  # fmt: skip

    def seconds(self, theta: Coefficients) -> Floats:
        """Return the total of `parts`."""
        total: Floats = np.sum(list(self.parts(theta).values()), axis=0)
        return total

    def kernel_constants(self, theta: Coefficients) -> dict[str, Floats]:
        """Surface constants adapted to the row: fill times are fixed in seconds, not FLOPs.

        A tile's prologue takes as long at any precision, so its cost in elements of k and in
        waves scales with the peak (int8 twice fp16's, fp32 an eighth); and frameworks pick from
        fewer kernels (no split-k in fused or quantised ones) than the tuned library behind
        gemm.csv, so small products fill the GPU worse: ``wave.*``.
        """
        relative = self.peak / self.c["half_peak"]
        extra = np.where(self.train, theta["wave.train"], theta["wave.infer"])
        return self.constants | {
            "k_half": self.constants["k_half"] * relative,
            "wave_half": (self.constants["wave_half"] + extra) * relative,
        }

    def _product(self, m: Floats, n: Floats, k: Floats, rate: Floats) -> Floats:
        return self.constants["t0"] * 0.5 + matmul_seconds(
            m, n, k, rate=rate, element_bytes=self.input_bytes, bandwidth=self.c["bandwidth"],
            sms=self.c["sms"], constants=self.adapted,
        )  # fmt: skip

    def _products(self, theta: Coefficients, m: Floats, rate: Floats) -> tuple[Floats, Floats]:
        """Forward and backward seconds of one layer's matrix products."""
        c, tp = self.c, self.c["tp"]
        h, q, kv = c["hidden_size"], c["query_size"], c["kv_size"]
        inner = np.where(c.flags["gated_mlp"], 2.0, 1.0) * c["ffn_size"]
        shapes = (((q + 2 * kv) / tp, h), (h, q / tp), (inner / tp, h), (h, c["ffn_size"] / tp))
        forward = np.zeros(c.size)
        backward = np.zeros(c.size)
        for n, k in shapes:
            forward = forward + self._product(m, n, k, rate)
            backward = backward + self._product(m, k, n, rate)
            backward = backward + np.where(self.frozen, 0.0, self._product(k, n, m, rate))
        return forward, backward * theta["gemm.backward"]

    def _attention(
        self, theta: Coefficients, seq: Floats, tokens: Floats, rate: Floats
    ) -> tuple[Floats, Floats]:
        """Forward and backward seconds of one layer's softmax(Q K) V."""
        c = self.c
        window = np.where(c["sliding_window"] > 0, np.minimum(c["sliding_window"], seq), seq)
        span = seq / c["global_every"] + window * (1 - 1 / c["global_every"])
        pairs = tokens * span
        flops = 4.0 * pairs * c["query_size"] / c["tp"]
        causal = np.where(c.flags["causal"], 0.5, 1.0)
        width = np.where(self.half, c["half_peak"] * self.constants["share"], rate)
        width = np.minimum(width, np.where(self.half, width, rate))
        narrow = np.minimum(1.0, (c["head_dim"] / 128.0) ** 0.5)
        # A thread block takes one head of one sample (or a slice of its rows): a small batch
        # leaves most SMs idle.
        blocks = tokens / seq * c["num_heads"] / c["tp"] * (1.0 + seq / theta["attention.block"])
        filled = blocks / c["sms"]
        narrow = narrow * filled / (1.0 + filled**3) ** (1 / 3)
        fused = (
            flops * causal / (c["half_peak"] * self.fused_share * theta["attention.fused"] * narrow)
        )
        scores = pairs * c["num_heads"] / c["tp"] * self.element
        eager = self.by_stack.gather(theta, "scores", 1.0) * theta["attention.scores"]
        speed = c["bandwidth"] * 0.8
        slow = flops / (width * theta["attention.products"] * narrow) + scores * eager / speed
        forward = np.where(self.fused_attention, fused, slow)
        backward = np.where(
            self.fused_attention, fused * 2.5 * theta["attention.fused_backward"],
            2.0 * flops / (width * theta["attention.products"] * narrow)
            + scores * eager * theta["attention.scores_backward"] / speed,
        )  # fmt: skip
        return forward, backward

    def _elementwise(self, theta: Coefficients, tokens: Floats) -> Floats:
        """Seconds of one layer's forward norms, biases, activations, residuals and dropout.

        Where every operator is a kernel, the passes over [tokens, hidden] and [tokens, inner] are
        those of ``elementwise.hidden`` and ``.inner``; fused, two kernels of bias, residual and
        norm read two tensors and write one, heads are split once, and the activation stays in
        the product's epilogue or is one pass of its own.
        """
        c = self.c
        fusion = self.by_stack.gather(theta, "elementwise", 1.0)
        fused = np.array([s.startswith(("tensorrt", "compiled", "nemo")) for s in self.stack])
        wide = np.where(fused, theta["fused.hidden"], theta["elementwise.hidden"])
        deep = np.where(fused, theta["fused.inner"], theta["elementwise.inner"])
        inner = np.where(c.flags["gated_mlp"], 1.5, 1.0) * c["ffn_size"] / c["tp"]
        cast = np.where(self.low, theta["elementwise.cast"] * c["hidden_size"], 0.0)
        width = np.where(self.int8 & ~self.train, 1.4, self.element)
        moved = fusion * tokens * width * (wide * c["hidden_size"] + cast + deep * inner)
        seconds: Floats = moved / (c["bandwidth"] * 0.8)
        return seconds

    def _adapters(self, theta: Coefficients, tokens: Floats) -> Floats:
        c = self.c
        on = np.where((c["peft_rank"] > 0) & self.frozen, 1.0, 0.0)
        bytes_ = theta["adapter.bytes"] * tokens * c["hidden_size"] * self.element
        return on * self.layers * bytes_ / (c["bandwidth"] * 0.8)

    def _dequantise(self, theta: Coefficients) -> Floats:
        c = self.c
        weights = c["matmul_parameters"] / (c["tp"] * c["pp"])
        passes = 1.0 + np.where(self.train, 1.0, 0.0) + self.recompute
        seconds: Floats = passes * weights * theta["nf4.bytes"] / (c["bandwidth"] * 0.8)
        return np.where(self.four_bit, seconds, 0.0)

    def _head(self, theta: Coefficients, tokens: Floats, rate: Floats) -> Floats:
        """Seconds of embedding and output layer, forward and backward, a micro-step."""
        c = self.c
        scored = np.select(
            [c.is_("head", "lm"), c.is_("head", "mlm")], [tokens, 0.15 * tokens], 0.0
        )  # fmt: skip
        vocab = np.maximum(c["vocab_size"] / c["tp"], 1.0)  # images have none
        passes = np.where(self.train, np.where(self.frozen, 2.0, 3.0), 1.0)
        # fp8 and fp4 training keep the output layer in bf16.
        wide = np.minimum(rate, c["half_peak"] * self.constants["share"])
        wide = np.where(self.low, wide, rate)
        dense = self._product(np.maximum(scored, 1.0), vocab, c["hidden_size"], wide) * passes
        logits = scored * vocab * np.where(self.train, theta["head.bytes"], 2.0) * self.element
        last = np.where(scored > 0, dense + logits / (c["bandwidth"] * 0.8), 0.0)
        # With pipeline stages the slowest holds the head.
        embed = 3.0 * tokens * c["hidden_size"] * self.element * passes / (c["bandwidth"] * 0.8)
        return last + embed

    def _host_speed(self, theta: Coefficients) -> Floats:
        """Microseconds of the host for a layer's forward in the stack's class."""
        return np.select(
            [self.graph, self.host_fused],
            [theta["launch.graph"], theta["launch.fused"]],
            theta["launch.eager"],
        )

    def _launch(self, theta: Coefficients) -> Floats:
        """Host seconds to enqueue one micro-step."""
        per_layer = self.by_stack.gather(theta, "launch", 1.0) * self._host_speed(theta) * 1e-6
        passes = np.where(self.train, 3.0 + self.recompute, 1.0)
        calls = np.where(self.train, 4.0 + 2.0 * self.recompute, 2.0) * np.log2(self.c["tp"])
        collectives = calls * theta["launch.collective"] * 1e-6
        return self.layers * (per_layer * passes + collectives)

    def _links(self, theta: Coefficients) -> tuple[Floats, Floats]:
        """Bytes/s of a GPU within its node and between nodes (one direction)."""
        c = self.c
        pcie = c["pcie"] * theta["link.pcie"]
        inside = np.where(c["link"] > 0, c["link"] * theta["link.nvlink"], pcie)
        # A cluster's network is bought with its GPUs: share of a GPU in its node's adapters.
        network = np.select(
            [np.isin(self.arch, ("Hopper", "Blackwell", "CDNA3", "CDNA4")),
             np.isin(self.arch, ("Ampere", "Ada", "CDNA2", "CDNA"))],
            [50.0, 25.0], 6.25,
        ) * GB  # fmt: skip
        return inside, network * theta["link.network"]

    def _tensor_parallel(self, theta: Coefficients, tokens: Floats) -> Floats:
        """Exposed all-reduces of a micro-step: two a layer forward, two backward."""
        c = self.c
        inside, network = self._links(theta)
        wide = np.minimum(inside, network * self.domain)
        inside = np.where(c["tp"] > self.domain, wide, inside)
        payload = tokens * c["hidden_size"] * 2.0
        calls = self.layers * np.where(self.train, 4.0 + 2.0 * self.recompute, 2.0)
        each = ring_seconds(
            payload, c["tp"], bandwidth=inside, alpha=np.full(c.size, theta["link.alpha"] * 1e-6),
            factor=2.0,
        )  # fmt: skip
        latency = np.where(c["tp"] > 1, theta["tp.latency"] * 1e-6, 0.0)
        return calls * (each + latency)

    def _data_parallel(self, theta: Coefficients, hidden_behind: Floats) -> dict[str, Floats]:
        """Exposed gradient and weight traffic: a micro-step (sharded weights) and a step."""
        c = self.c
        inside, network = self._links(theta)
        ranks = c["data_parallel"]
        local = np.maximum(1.0, self.domain / c["tp"])
        crosses = ranks > local
        # Rings leave a node through the adapters of all ranks in it.
        bandwidth = np.where(crosses, np.minimum(inside, network * local), inside)
        alpha = np.where(crosses, 4.0, 1.0) * theta["link.alpha"] * 1e-6
        weights = (c["backbone_parameters"] + c["lm_head_parameters"]) / (c["tp"] * c["pp"])
        trainable = np.where(self.frozen, np.maximum(c["trainable_parameters"], 0.003 * weights),
                             weights)  # fmt: skip
        sharded = c.is_("sharding", "fsdp", "zero3")
        width = np.where(self.half, np.where(c.is_("runtime", "megatron", "nemo"), 4.0, 3.0), 4.0)
        whole = ring_seconds(trainable * width, ranks, bandwidth=bandwidth, alpha=alpha, factor=2.0)
        gathered = ring_seconds(weights * 2.0, ranks, bandwidth=bandwidth, alpha=alpha, factor=3.0)
        beyond = np.maximum(0.0, whole - theta["overlap.ddp"] * hidden_behind)
        per_step = np.where(sharded | ~self.train, 0.0, beyond + 0.1 * whole)
        ready = theta["overlap.fsdp"] * hidden_behind / 0.6
        exposed = np.maximum(0.0, gathered - ready) + theta["fsdp.exposed"] * gathered
        per_micro = np.where(sharded & self.train, exposed, 0.0)
        return {"per_step": per_step, "per_micro": per_micro}

    def _optimizer(self, theta: Coefficients) -> Floats:
        """Seconds of one update: it reads and writes states, weights and gradients once."""
        c = self.c
        weights = (c["backbone_parameters"] + c["lm_head_parameters"]) / (c["tp"] * c["pp"])
        weights = np.where(self.frozen, np.maximum(c["trainable_parameters"], 0.003 * weights),
                           weights)  # fmt: skip
        ranks = np.where(c.is_("sharding", "fsdp", "zero1", "zero2", "zero3")
                         | c.is_("runtime", "nemo"), c["data_parallel"], 1.0)  # fmt: skip
        names = self.optimizer
        stated = np.where(names == "", np.where(c.is_("runtime", "nemo"), "adam", "none"), names)
        lamb = stated == "lamb"
        bytes_ = np.where(lamb, theta["optimizer.lamb"], theta["optimizer.adam"])
        bytes_ = np.where(stated == "none", 0.0, bytes_)
        unfused = self.by_stack.gather(theta, "update", 1.0)
        return np.where(
            self.train, weights / ranks * bytes_ * unfused / (c["bandwidth"] * 0.8), 0.0
        )
