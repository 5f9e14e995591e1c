"""Learning from measurements: hierarchical multiplicative residuals, shrunk to zero.

The log of measured over predicted is a sum of effects, one a level of a hierarchy (software stack;
GPU; GPU x stack; GPU x stack x precision ...), each with a normal prior of its level's spread,
plus noise. This is the classic random-effects model (Henderson 1975); its posterior mean shrinks
an effect by how few rows speak for it, its posterior variance gives the interval, and an unseen
effect keeps its prior (zero, full variance). The same code fits the shipped residuals and a
user's own receipts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from components.contract import DataError
from pipelines.cost.columns import Floats

CALIBRATION_VERSION = 1
# Standard normal quantile of the 80 % interval.
Z80 = 1.2816


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One measurement: `effects` maps ``level:key`` to its loading (1 for a group).

    `log_ratio` is log(measured / predicted without calibration); `weight` its relative worth
    (rows of a large table count less); `quantity` is ``time`` or ``memory``.
    """

    effects: Mapping[str, float]
    log_ratio: float
    weight: float = 1.0
    quantity: str = "time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Posterior of the effects of one quantity.

    `effects` maps ``level:key`` to (mean, variance); `spreads` maps level to the prior standard
    deviation; `unseen` what an effect without any measurement adds to it (the coefficients were
    fitted with the seen ones in view); `noise` is the standard deviation of a row around its
    effects; `transfers` is the speed, in bytes a second, at which data came to and went from each
    device; `evidence` says what it was fitted to.
    """

    effects: dict[str, tuple[float, float]]
    spreads: dict[str, float]
    noise: float
    unseen: dict[str, float] = field(default_factory=dict)
    transfers: dict[str, float] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)

    def of(self, name: str) -> tuple[float, float]:
        """Return (mean, variance) of one effect; of one never seen, its level's prior.

        `unseen` may have a figure for a class within a level (``new_gpu:tensorrt.infer``, what
        stands before the bar of an effect's name); a class without one takes that of the class
        it belongs to, by the dots of its name.
        """
        found = self.effects.get(name)
        if found is not None:
            return found
        level, _, kind = name.split("|", 1)[0].partition(":")
        extra = self.unseen.get(level, 0.0)
        while kind:
            if f"{level}:{kind}" in self.unseen:
                extra = self.unseen[f"{level}:{kind}"]
                break
            kind = kind.rpartition(".")[0]
        return 0.0, self.spreads.get(level, 0.0) ** 2 + extra**2

    def apply(self, effects: Mapping[str, float]) -> tuple[float, float]:
        """Return (mean, standard deviation) of the log ratio of a row with `effects`."""
        mean, variance = 0.0, self.noise**2
        for name, loading in effects.items():
            value, spread = self.of(name)
            mean += loading * value
            variance += loading**2 * spread
        return mean, math.sqrt(variance)

    def to_json(self) -> dict[str, Any]:
        """Return the reviewed file's content."""
        return {
            "schema_version": CALIBRATION_VERSION,
            "noise": round(self.noise, 5),
            "spreads": self.spreads,
            "unseen": self.unseen,
            "effects": {
                k: [round(m, 5), round(v, 6)] for k, (m, v) in sorted(self.effects.items())
            },
            **({"transfers": self.transfers} if self.transfers else {}),
            "evidence": self.evidence,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Rebuild a calibration.

        Raises:
            DataError: another schema version or a malformed document.
        """
        if document.get("schema_version") != CALIBRATION_VERSION:
            raise DataError(
                f"calibration has schema_version {document.get('schema_version')!r}, "
                f"this version reads {CALIBRATION_VERSION}",
                remedy="write it again with suanli calibrate",
            )
        try:
            return cls(
                effects={k: (float(m), float(v)) for k, (m, v) in document["effects"].items()},
                spreads={k: float(v) for k, v in document["spreads"].items()},
                noise=float(document["noise"]),
                unseen={k: float(v) for k, v in document.get("unseen", {}).items()},
                transfers={k: float(v) for k, v in document.get("transfers", {}).items() if v > 0},
                evidence=dict(document.get("evidence", {})),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"calibration is malformed: {error}") from error

    def dumps(self) -> str:
        """Return the file's text."""
        return json.dumps(self.to_json(), indent=1) + "\n"


# Prior spreads of a user's own levels (`pipelines.cost.learnt`). A machine may be off by a third
# before anything is known, a kind of step on it by a seventh more. A GPU's steps have little in
# common: of what the model errs on a GPU held out, most is a model's own, at its size (errors of
# 2,111 published rows; benchmarks/one_run.py shows what a run is worth).
USER_SPREADS = {
    "device": 0.3, "operation": 0.15, "precision": 0.1, "size": 0.1,
    "gpu_node": 0.03, "gpu": 0.02, "gpu_operation": 0.04, "gpu_precision": 0.03, "gpu_size": 0.12,
}  # fmt: skip
USER_NOISE = 0.05


def fit_residuals(
    observations: Sequence[Observation],
    *,
    spreads: Mapping[str, float] = USER_SPREADS,
    noise: float = USER_NOISE,
    evidence: Mapping[str, Any] | None = None,
) -> Calibration:
    """Fit the effects to `observations` (all of one quantity).

    Args:
        spreads: prior standard deviation by level; an effect of another level is ignored.
        noise: standard deviation of a row of weight 1 around its effects.

    Raises:
        DataError: an observation is not finite.
    """
    for observation in observations:
        if not math.isfinite(observation.log_ratio) or not observation.weight > 0:
            raise DataError(
                f"measurement with log ratio {observation.log_ratio} and weight "
                f"{observation.weight} can't be learned from",
                remedy="leave out steps with zero or missing times",
            )
    names = sorted({
        name for o in observations for name in o.effects if name.split(":", 1)[0] in spreads
    })  # fmt: skip
    index = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(observations), len(names)))
    for row, observation in enumerate(observations):
        for name, loading in observation.effects.items():
            if name in index:
                matrix[row, index[name]] = loading
    prior = np.array([spreads[name.split(":", 1)[0]] for name in names])
    target = np.array([o.log_ratio for o in observations])
    weight = np.array([o.weight for o in observations])
    mean, covariance = posterior(matrix, target, weight / noise**2, prior)
    return Calibration(
        effects={n: (float(mean[i]), float(covariance[i, i])) for n, i in index.items()},
        spreads=dict(spreads),
        noise=noise,
        evidence={"rows": len(observations), **(evidence or {})},
    )


def posterior(
    matrix: Floats, target: Floats, precision: Floats, prior: Floats
) -> tuple[Floats, Floats]:
    """Return mean and covariance of the effects.

    Args:
        matrix: loadings, rows x effects.
        target: log ratios, rows.
        precision: 1 / noise variance of each row.
        prior: standard deviation of each effect.
    """
    normal = matrix.T @ (matrix * precision[:, None]) + np.diag(prior**-2.0)
    covariance: Floats = np.linalg.inv(normal).astype(float)
    mean = covariance @ (matrix.T @ (precision * target))
    return mean, covariance


def error_before_after(
    observations: Iterable[Observation], calibration: Calibration
) -> dict[str, float]:
    """Return median and mean absolute relative error without and with `calibration`."""
    rows = list(observations)
    if not rows:
        return {}
    before = np.array([o.log_ratio for o in rows])
    after = np.array([o.log_ratio - calibration.apply(o.effects)[0] for o in rows])
    errors = {"before": np.abs(np.expm1(-before)), "after": np.abs(np.expm1(-after))}
    return {
        f"{name}_{kind}": float(function(error))
        for name, error in errors.items()
        for kind, function in (("median", np.median), ("mean", np.mean))
    }
