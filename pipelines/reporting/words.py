"""Names that people use for what report.json names exactly."""

from __future__ import annotations

from typing import Any

from pipelines.reporting import figures

Json = dict[str, Any]
LEAST_GAIN = 1.05
METRIC_NAMES = {
    "entity_f1": "entity F1",
    "accuracy": "accuracy",
    "ndcg@10": "NDCG@10",
    "negative_loss": "negative loss",
}
STATUS_WORDS = {
    "succeeded": "succeeded",
    "step_failed": "a step failed",
    "bad_input": "bad input",
    "infeasible": "infeasible",
    "gate_failed": "gate failed",
}


def sentence(text: object) -> str:
    """`text` with its first word capitalised, unless that word is a name such as ``bf16``."""
    first, space, rest = str(text).partition(" ")
    return f"{first.capitalize() if first.isalpha() else first}{space}{rest}"


def metric_name(report: Json) -> str:
    """The main metric as people call it."""
    metric = str(report["quality"].get("metric") or "quality")
    return METRIC_NAMES.get(metric, metric)


def figure_of(row: Json, key: str) -> float:
    """A variant's figure, its median latency for ``p50``; 0 when there is none."""
    value = (row.get("latency_ms") or {}).get(key) if key == "p50" else row.get(key)
    return float(value) if figures.is_number(value) else 0.0  # type: ignore[arg-type]


def worth_saying(gain: object) -> bool:
    """A factor that a reader would call a gain; less is noise or a loss."""
    return figures.is_number(gain) and float(gain) >= LEAST_GAIN  # type: ignore[arg-type]


def kept_words(report: Json) -> tuple[str, str]:
    """Verb and preposition between the selected and the tuned model's score.

    Only a loss can be kept a part of: a negative score (a negative loss), and one that got better,
    stand side by side.
    """
    tuned, selected = (report["quality"].get(key) for key in ("tuned", "selected"))
    part = figures.is_number(tuned) and tuned > 0
    better = part and figures.is_number(selected) and selected > tuned
    return ("keeps", "of") if part and not better else ("reaches", "against")
