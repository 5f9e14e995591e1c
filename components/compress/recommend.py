"""Which variants are worth trying for a model and a target, whether a wanted one can be made, and
what the search for it costs, candidate by candidate. Standard library only: the planner imports
this.

Costs are in epochs of the tuned model's own training, the unit the planner knows the price of:

- the teacher reads the training set once (a forward is a third of a training step);
- each candidate trains for its rounds, the winner for the epochs of the tuning, at the share of a
  whole step that a smaller model takes;
- importance and ranking read a few hundred rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from components.compress.variant import Cut, parse
from components.contract import SpecError

FORWARD_SHARE = 1 / 3
# Of a training step that does not shrink with the encoder: embeddings, loss, batches.
FIXED_SHARE = 0.15
# Steps of a search's first round; each later one trains twice as long.
FIRST_ROUND_STEPS = 24
# In training steps of 32 rows: fp32 gradients and covariances of some hundred calibration rows,
# once for all ways to cut, and forwards of 256 ranking rows for each candidate and round.
CALIBRATION_STEPS = 24.0
RANKING_STEPS = 5.0
# Memory for the teacher's answers.
KEEP_BYTES = 2 << 30
# Most of an epoch's tokens that may come from texts without labels.
UNLABELLED_SHARE = 0.75
# Below this depth a layer's fixed costs outweigh what cutting it saves.
LEAST_LAYERS = 3
PRUNED = 50
# Kept equal to components.lib.pruned.LAYOUTS by a test: that module needs torch.
PRUNABLE = (
    "bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "vit", "llama",
    "mistral", "qwen2", "qwen3",
)  # fmt: skip
DECODERS = ("llama", "mistral", "qwen2", "qwen3")
# Training with 8-bit rounding keeps the model, a teacher, gradients and moments in fp32, 27 bytes a
# parameter: 27 GB here, and larger models get nowhere within a search's time.
MOST_ROUNDED_PARAMETERS = 1e9
# Two to three minutes on two cores with bf16 units.
MOST_EPOCH_FLOPS = 4e13


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What one cut costs, in epochs of the tuned model's training.

    Attributes:
        cut: as the variant names it.
        ways: candidates.
        scoring: importance of structures, for all candidates together.
        rounds: for each round what one candidate costs.
        finish: training the winner to the end.
    """

    cut: str
    ways: int
    scoring: float
    rounds: tuple[float, ...]
    finish: float

    @property
    def total(self) -> float:
        """All of it."""
        alive = [-(-self.ways // 2**number) for number in range(len(self.rounds))]
        halving = sum(a * r for a, r in zip(alive, self.rounds, strict=True))
        return self.scoring + halving + self.finish


def recommended(
    *, target: str, family: str, layers: int, epoch_flops: float, task: str, pretrained: bool = True
) -> dict[str, str]:
    """Return the variants of ``auto`` with the reason for each, from the safest to the smallest;
    the reference comes first.

    Args:
        target: ``cpu`` or ``gpu``.
        family: transformers' ``model_type``.
        layers: the model's depth.
        epoch_flops: of the layers, forward and backward: beyond `MOST_EPOCH_FLOPS` the time that
            ``auto`` may take (pipelines.cost.compression) is too short to learn anything back.
        task: the class of a text needs fewer layers than its words do: on two sets half of the
            layers lost no more than half of each layer and were a third faster, on one of words
            they lost by far (benchmarks.compress, validation).
        pretrained: where there are no pretrained weights, a smaller `model.config` does it.

    Cuts are proposed for encoders on CPUs: the step trains on CPU cores, and a decoder's quality
    hangs on every layer. Listed by name they are made for any target and for decoders, too.
    """
    last = {"cpu": "int8", "gpu": "fp16"}[target]
    reasons = {
        "fp32": "the tuned model itself: what quality is measured against",
        last: "no training, a small loss",
    }
    encoder = family in PRUNABLE and family not in DECODERS
    if encoder and target == "cpu" and pretrained and layers >= LEAST_LAYERS:
        if epoch_flops > MOST_EPOCH_FLOPS:
            return reasons
        # Ranges from training data: a static graph rounds less than one that measures each batch.
        reasons["embed4+int8-static"] = "no training: a fifth of the size, a small loss"
        cut = f"prune{PRUNED}"
        if task == "text-classification":
            cut = f"distill{max(layers // 2, 2)}"
        reasons[f"{cut}+int8-static"] = (
            "half of the layers' parameters, learnt back from the tuned model"
        )
    return reasons


def trains_rounding(family: str, parameters: float) -> bool:
    """Whether the loss of 8-bit rounding is looked at, and trained away where it is too much."""
    return family in PRUNABLE and parameters <= MOST_ROUNDED_PARAMETERS


def check(variants: Sequence[str], *, target: str, family: str, layers: int) -> None:
    """Refuse what the compress step would refuse, before anything is trained.

    Raises:
        SpecError: the family can't be cut, or the model has no more layers than are to be kept.
    """
    for variant in variants:
        left = layers
        for cut in parse(variant, target).cuts:
            if family not in PRUNABLE:
                raise unsupported(family, f"{variant!r} of a {family} model")
            if cut.method != "distill":
                continue
            if cut.amount >= left:
                raise too_shallow(cut, left)
            left = cut.amount


def unsupported(family: str, what: str = "") -> SpecError:
    """The error for a family without a layout for pruning: names it and what works."""
    return SpecError(
        f"compression.variants: {what + ': ' if what else ''}{family} models can't be pruned or "
        "cut in depth",
        remedy=f"use int8 or fp16, or a model of {', '.join(PRUNABLE)}",
    )


def too_shallow(cut: Cut, layers: int) -> SpecError:
    """The error for keeping as many layers as there are, or more."""
    return SpecError(
        f"compression.variants: distill{cut.amount} of a model with {layers} layers",
        remedy=f"use distill{max(layers - 1, 1)} or less",
    )


def kept_share(variant: str, layers: int) -> float:
    """Share of the layers' parameters that `variant` keeps."""
    share = 1.0
    for cut in parse(variant, "cpu").cuts:
        share *= kept_of(cut, layers)
        if cut.method == "distill":
            layers = min(layers, cut.amount)
    return share


def kept_of(cut: Cut, layers: int) -> float:
    """Share of the layers' parameters that `cut` keeps; of a speed-up, what it keeps if products
    were all that takes time."""
    match cut.method:
        case "prune":
            return 1 - cut.amount / 100
        case "speed":
            return 1 / cut.amount
    return min(1.0, cut.amount / layers)


def searches(
    variant: str, *, layers: int, epochs: float, steps_per_epoch: int
) -> tuple[Search, ...]:
    """Return the search of each cut of `variant`, from left to right."""
    made, share = [], 1.0
    cuts = parse(variant, "cpu").cuts
    for number, cut in enumerate(cuts):
        ways = ways_of(cut, layers)
        kept = share * kept_of(cut, layers)
        step = (FIXED_SHARE + (1 - FIXED_SHARE) * kept) / steps_per_epoch
        rounds = [
            min(FIRST_ROUND_STEPS, steps_per_epoch) * 2**n * step + RANKING_STEPS / steps_per_epoch
            for n in range((ways - 1).bit_length())
        ]
        made.append(
            Search(
                cut=f"{cut.method}{cut.amount}",
                ways=ways,
                scoring=(CALIBRATION_STEPS / steps_per_epoch if cut.method != "distill" else 0.0)
                + (0.0 if number else FORWARD_SHARE),
                rounds=tuple(rounds),
                finish=step * steps_per_epoch * epochs / (len(cuts) - number),
            )
        )
        share = kept
        if cut.method == "distill":
            layers = min(layers, cut.amount)
    return tuple(made)


def unlabelled_rows(labelled_tokens: float, rows: int, tokens: float) -> int:
    """Rows without labels in an epoch, which has every labelled row once: all of them, or as many
    as hold `UNLABELLED_SHARE` of its tokens.

    Args:
        labelled_tokens: of the training split.
        rows: texts without labels.
        tokens: of these.
    """
    if not rows:
        return 0
    most = labelled_tokens * UNLABELLED_SHARE / (1 - UNLABELLED_SHARE)
    return min(rows, max(1, int(most * rows / max(tokens, 1))))


def training_epochs(variant: str, *, layers: int, epochs: float, steps_per_epoch: int) -> float:
    """Compute of the compress step of `variant`, in epochs of the whole model's training."""
    found = searches(variant, layers=layers, epochs=epochs, steps_per_epoch=steps_per_epoch)
    return sum(search.total for search in found)


def ways_of(cut: Cut, layers: int) -> int:
    """Candidates that the search makes at most (components/compress/search.py)."""
    if cut.method == "distill":
        return 1
    return most_layers_gone(cut, layers) + 1 + int(layers_whole(cut, layers) < layers)


def most_layers_gone(cut: Cut, layers: int) -> int:
    """The most dispensable layers that go as a whole before heads and neurons do."""
    return min(int(layers * (1 - kept_of(cut, layers))), layers // 3)


def layers_whole(cut: Cut, layers: int) -> int:
    """Layers that reach the goal of `cut` with the least cut from them besides."""
    return max(1, math.ceil(layers * kept_of(cut, layers) - 1e-9))
