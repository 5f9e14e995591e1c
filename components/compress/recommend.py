"""Which variants are worth trying for a model and a target, and what each costs: what
``variants: auto`` stands for. Standard library only: the planner imports this.

Costs are in epochs of the tuned model's own training, the unit the planner knows the price of:

- the teacher reads the training set once (a forward is a third of a training step);
- each candidate trains for its rounds, the winner for the epochs of the tuning, at the share of a
  whole step that a smaller model takes;
- importance and ranking read a few hundred rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from components.compress.variant import Cut, parse

FORWARD_SHARE = 1 / 3
# Of a training step that does not shrink with the encoder: embeddings, loss, batches.
FIXED_SHARE = 0.15
FIRST_ROUND_STEPS = 40
# Gradients of 256 calibration rows for each way to cut, forwards of 256 ranking rows for each
# candidate and round, in training steps of 32 rows.
CALIBRATION_STEPS = 8.0
RANKING_STEPS = 5.0
# Below this width a layer's fixed costs outweigh what cutting it saves.
LEAST_LAYERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """A variant and its price.

    Attributes:
        variant: as the spec names it.
        training_epochs: compute of the compress step, in epochs of the tuned model's training.
        kept_share: of the layers' parameters.
        reason: why it is worth trying.
    """

    variant: str
    training_epochs: float
    kept_share: float
    reason: str


def recommended(
    *,
    target: str,
    family: str,
    layers: int,
    epochs: float,
    steps_per_epoch: int,
    prunable: tuple[str, ...] = (),
) -> list[Recommendation]:
    """Return variants from the safest to the smallest; the reference comes first.

    Args:
        target: ``cpu`` or ``gpu``.
        family: transformers' ``model_type``.
        layers: the model's depth.
        epochs: of the tuning.
        steps_per_epoch: optimiser steps of one of them.
        prunable: families that can be cut; default those of `components.lib.pruned`.
    """
    last = {"cpu": "int8", "gpu": "fp16"}[target]
    reasons = {
        "fp32": "the tuned model itself: what quality is measured against",
        last: "no training, a small loss",
        f"prune50+{last}": "half of the layers' parameters, learnt back from the tuned model",
        f"prune65+{last}": "for budgets that leave room below half",
    }
    if layers > LEAST_LAYERS:
        half = (layers + 1) // 2
        reasons[f"distill{half}+{last}"] = "fewer layers: the lowest latency of a single request"
    families = prunable or PRUNABLE
    return [
        Recommendation(
            variant=variant,
            training_epochs=training_epochs(
                variant, layers=layers, epochs=epochs, steps_per_epoch=steps_per_epoch
            ),
            kept_share=kept_share(variant, layers),
            reason=reason,
        )
        for variant, reason in reasons.items()
        if family in families or not parse(variant, target).cuts
    ]


# Kept equal to components.lib.pruned.LAYOUTS by a test: that module needs torch.
PRUNABLE = (
    "bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "vit", "llama",
)  # fmt: skip


def kept_share(variant: str, layers: int) -> float:
    """Share of the layers' parameters that `variant` keeps."""
    share = 1.0
    for cut in parse(variant, "cpu").cuts:
        share *= _kept(cut, layers)
        if cut.method == "distill":
            layers = min(layers, cut.amount)
    return share


def _kept(cut: Cut, layers: int) -> float:
    return 1 - cut.amount / 100 if cut.method == "prune" else min(1.0, cut.amount / layers)


def training_epochs(variant: str, *, layers: int, epochs: float, steps_per_epoch: int) -> float:
    """Compute of the compress step of `variant`, in epochs of the whole model's training."""
    cuts = parse(variant, "cpu").cuts
    if not cuts:
        return 0.0
    total, share = FORWARD_SHARE, 1.0
    for number, cut in enumerate(cuts):
        ways = _ways(cut, layers)
        kept = share * _kept(cut, layers)
        step = FIXED_SHARE + (1 - FIXED_SHARE) * kept
        rounds = (ways - 1).bit_length()
        alive, steps = ways, 0.0
        for number_of_round in range(rounds):
            trained = min(FIRST_ROUND_STEPS, steps_per_epoch) * 2**number_of_round
            steps += alive * (trained * step + RANKING_STEPS)
            alive = (alive + 1) // 2
        steps += ways * CALIBRATION_STEPS
        total += steps / steps_per_epoch + step * epochs / (len(cuts) - number)
        share = kept
        if cut.method == "distill":
            layers = min(layers, cut.amount)
    return total


def _ways(cut: Cut, layers: int) -> int:
    """Candidates that the search makes (components/compress/search.py)."""
    if cut.method == "distill":
        return 2
    return min(int(layers * cut.amount / 100), layers // 3) + 1
