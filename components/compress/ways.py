"""The ways to make a cut that a search tries: which layers, heads and neurons stay."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from components.compress import importance, mend, recommend, repair, structure
from components.compress.latency import Table
from components.compress.material import Material
from components.compress.variant import Cut
from components.contract import InfeasiblePlanError
from components.lib.pruned import encoder_parameters, keep_layers, layers_of, shrink, sizes_of

CALIBRATION_ROWS = 256
INFLUENCE_ROWS = 96
# A cut model, what it is called and which of the whole model's layers each of its layers was.
Way = tuple[str, torch.nn.Module, list[int]]


def distil_ways(layers: int, model: torch.nn.Module) -> list[Way]:
    """The way to keep `layers` layers: evenly spaced ones.

    Those that the predictions need most start nearer to the tuned model, so that a short trial
    prefers them, and ended behind on validation of banking77 and of the financial tweets (three of
    six layers, 90 s): no trial is worth its time.

    Raises:
        SpecError: the model has no more layers than that.
    """
    depth = len(layers_of(model))
    if layers >= depth:
        raise recommend.too_shallow(Cut(method="distill", amount=layers), depth)
    kept = evenly_spaced(layers, depth)
    return [(f"evenly spaced layers {[i + 1 for i in kept]}", _with_layers(model, kept), kept)]


def prune_ways(cut: Cut, model: torch.nn.Module, material: Material, table: Table) -> list[Way]:
    """Ways to make `cut`, which removes a share of the layers' parameters or makes them so many
    times as fast by the table: heads and neurons alone; the most dispensable layers first and heads
    and neurons for the rest; evenly spaced layers, cut further only as far as they must be. By
    importance a parameter and a millisecond, or a millisecond alone. What is left is mended.

    Raises:
        InfeasiblePlanError: too much is asked for.
    """
    depth = len(layers_of(model))
    rows = material.calibration_rows(CALIBRATION_ROWS)
    scores = importance.measure(model, material, rows)
    moments = mend.moments_of(model, material.batches(rows[: mend.MENDING_ROWS]))
    most = recommend.most_layers_gone(cut, depth)
    gone = importance.cheapest_layers(model, material, rows[:INFLUENCE_ROWS], most)
    if cut.method == "speed":
        wanted_ms = table.of_layers(sizes_of(model)) / cut.amount
        goal = structure.Goal(latency_ms=wanted_ms, latency_weight=1.0)
    else:
        kept_share = recommend.kept_of(cut, depth)
        goal = structure.Goal(parameters=encoder_parameters(model) * kept_share)
    depths = [[i for i in range(depth) if i not in gone[:count]] for count in range(most + 1)]
    even = evenly_spaced(recommend.layers_whole(cut, depth), depth)
    if even not in depths:
        depths.append(even)
    found: list[Way] = []
    problem = None
    for kept in depths:
        made = _with_layers(model, kept)
        left = importance.Importance(
            heads=[scores.heads[i] for i in kept], neurons=[scores.neurons[i] for i in kept]
        )
        try:
            choice = structure.choose(left, structure.Prices.of(made), table, goal)
        except InfeasiblePlanError as error:
            problem = error
            continue
        shrink(made, choice.heads, choice.neurons)
        mend.mend(made, model, kept, choice.heads, choice.neurons, moments)
        uneven = choice.sizes != [sizes_of(model)[i] for i in kept]
        which = f"layers {[i + 1 for i in kept]}" if len(kept) < depth else f"{depth} layers"
        found.append((f"{which}, {'uneven' if uneven else 'whole'}", made, kept))
    if not found and problem is not None:
        raise problem
    return found


def evenly_spaced(layers: int, depth: int) -> list[int]:
    """Positions of `layers` of `depth` layers, the last one among them."""
    return sorted({round((i + 1) * depth / layers) - 1 for i in range(layers)})


def _with_layers(model: torch.nn.Module, kept: Sequence[int]) -> torch.nn.Module:
    made = repair.clone(model)
    if len(kept) < len(layers_of(made)):
        keep_layers(made, kept)
    return made
