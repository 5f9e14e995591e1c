"""Peak bytes of one GPU, by part.

The peak is the largest of the moments of a step, not the sum of all that ever lives: at the loss
all activations and logits are there but no gradients yet; when the backward starts, the logits are
gone and one layer is being worked on; when it ends, the gradients are there and the activations
gone. States are counted in `memory_states`, activations in `memory_activations`; the few constants
that neither gives are entries of ``data/coefficients.json`` (names ``memory.*``), priors below.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipelines.cost.columns import Columns, Floats
from pipelines.cost.hardware import GIB
from pipelines.cost.memory_activations import live_inference, logits, saved
from pipelines.cost.memory_states import mode_of, states_of

# Value, log spread, meaning. Spreads are narrow on purpose: the values are counts or rest on how
# libraries are written, and looser ones only learn the habits of the few tools measured (twice the
# spreads double the error on GPUs held out).
PRIORS: dict[str, tuple[float, float]] = {
    # Saved activations of a layer against the count of tensors.
    "memory.activations": (1.0, 0.02),
    # A dropped-out copy and its mask, in multiples of an adapted product's input.
    "memory.adapter": (1.5, 0.05),
    # Copies of the inputs of 4-bit products that their library keeps (one, or one in fp32).
    "memory.nf4_inputs": (1.2, 0.08),
    # fp32 copies of the logits at the loss, and half ones alive in a chunked loss.
    "memory.logits": (3.0, 0.04),
    "memory.chunked": (1.25, 0.1),
    # Share that a compiled loss keeps: some fuse the upcast, the log-softmax and its gradient.
    "memory.compiled_loss": (0.6, 0.1),
    # Share of a layer's activations that a compiler, and selective checkpointing, keep.
    "memory.compiled": (0.7, 0.05),
    "memory.selective": (0.35, 0.08),
    # What TensorFlow keeps of a layer, against PyTorch: by its operators 1.75; the largest batches
    # that fit a Titan X (README of google-research/bert) bear it out.
    "memory.tensorflow": (1.75, 0.1),
    # Gradients and work space of the layer at work, in multiples of what it saves.
    "memory.transient": (0.5, 0.1),
    "memory.staged": (1.0, 0.06),
    # Whole checkpoint held while sharded fine-tuning starts, share of its bytes.
    "memory.load": (0.9, 0.06),
    "memory.buckets": (0.8, 0.1),
    # Allocator slack of what comes and goes within a step, GiB of library workspaces.
    "memory.slack": (1.03, 0.015),
    "memory.base": (0.15, 0.25),
    # Inference work space, multiples of the widest layer's tensors.
    "memory.infer": (1.3, 0.1),
}

# Relative standard deviation of each part: states are counted, activations depend on how a layer
# is written, logits on how the loss is, and what a sharding library holds is seldom stated.
_DOUBT = {
    "weights": 0.02,
    "cast_weights": 0.2,
    "gathered_weights": 0.2,
    "gradients": 0.1,
    "optimizer": 0.1,
    "activations": 0.1,
    "logits": 0.35,
    "dequantised": 0.4,
    "base": 0.7,
    "slack": 0.7,
}
# Further doubt about activations that a compiler or selective checkpointing thins out, and about
# the inputs that 4-bit products keep (none, one copy or one in fp32).
_THINNED, _QUANTISED = 0.2, 0.15
# Doubt about logits where a recipe may cut the loss into chunks without the row saying so.
_LOSS, _COMPILED_LOSS = 0.5, 0.8


def memory_doubt(c: Columns, parts: Mapping[str, Floats]) -> Floats:
    """Return the relative standard deviation of the sum of `parts`, taken as independent."""
    total = np.sum(list(parts.values()), axis=0)
    thinned = c.flags["compiled"] | c.is_("checkpointing", "selective")
    thinned |= c.is_("checkpointing", "") & c.is_("task", "pretrain")
    variance = np.zeros(c.size)
    for name, values in parts.items():
        doubt = np.full(c.size, _DOUBT[name])
        if name == "activations":
            doubt = np.hypot(doubt, np.where(thinned, _THINNED, 0.0))
            doubt = np.hypot(doubt, np.where(c.is_("quantization", ""), 0.0, _QUANTISED))
        if name == "logits":
            unsaid = ~c.is_("task", "pretrain") & ~c.is_("framework", "lightning")
            unsaid &= ~c.flags["chunked_loss"]
            loss = np.where(c.flags["compiled"], _COMPILED_LOSS, _LOSS)
            doubt = np.where(unsaid, loss, doubt)
        variance += (doubt * values / total) ** 2
    return np.sqrt(variance)


def memory_parts(c: Columns, theta: Mapping[str, float]) -> dict[str, Floats]:
    """Return peak bytes by part; the sum is the peak of one GPU."""
    mode = mode_of(c)
    states = states_of(c, mode, theta)
    kept, again = saved(c, mode, theta)
    scores = logits(c, mode, theta)
    layers = c["num_layers"] / c["pp"]
    work = np.where(again > 0, again, kept / np.maximum(layers, 1.0))
    work = work * theta["memory.transient"] + again
    # Gradients outlive a micro-step while they are added up.
    adds_up = (c["grad_accum"] > 1) | (c["pp"] > 1)
    early = np.where(adds_up, states.gradients, 0.0)
    zero = np.zeros(c.size)
    moments = np.stack([
        # activations, logits, gradients, work space
        [kept, scores, early, zero],
        [kept, zero, np.maximum(early, states.head_gradients), work],
        [kept / np.maximum(layers, 1.0), zero, states.gradients, work],
    ])  # fmt: skip
    top = np.argmax(moments.sum(axis=1), axis=0)
    peak = moments[top, :, np.arange(c.size)].T
    live = live_inference(c, mode, theta)
    parts = {
        "weights": states.weights,
        "cast_weights": states.cast,
        "gathered_weights": states.gathered + states.loading,
        "gradients": np.where(mode.train, peak[2] + states.buckets, 0.0),
        "optimizer": states.optimizer,
        "activations": np.where(mode.train, peak[0] + peak[3], live),
        "logits": np.where(mode.train, peak[1], scores),
        "dequantised": states.dequantised,
        "base": np.full(c.size, theta["memory.base"] * GIB),
    }
    slack = theta["memory.slack"] - 1.0
    moving = ("gathered_weights", "gradients", "activations", "logits", "dequantised")
    parts["slack"] = slack * np.sum([parts[name] for name in moving], axis=0)
    return parts
