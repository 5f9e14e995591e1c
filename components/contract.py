"""Types that travel between steps, and between steps and the author's side.

Standard library only: this module is imported by every container and by the compiler, so it must
load in milliseconds and never pull in a framework.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

STEP_REPORT_VERSION = 1
MANIFEST_VERSION = 1
ERROR_VERSION = 1
REPORT_VERSION = 1

TASKS = (
    "token-classification",
    "text-classification",
    "text-pair-ranking",
    "causal-lm",
    "image-classification",
)

# Label id that the loss and every metric ignore (continuation sub-tokens, special tokens, overlap
# of windows). -100 is torch.nn.CrossEntropyLoss's default ignore_index.
IGNORED_LABEL = -100

MAIN_METRIC = {
    "token-classification": "entity_f1",
    "text-classification": "accuracy",
    "text-pair-ranking": "ndcg@10",
    "causal-lm": "negative_loss",
    "image-classification": "accuracy",
}

STATUS_BY_EXIT_CODE = {
    0: "succeeded",
    1: "step_failed",
    2: "bad_input",
    3: "infeasible",
    4: "gate_failed",
}


class SuanliError(Exception):
    """A failure a person can act on; the command line prints it without a traceback.

    Args:
        message: what is wrong: names the field or file and line, the value and the limit.
        remedy: what to do about it, one sentence.
    """

    kind: ClassVar[str] = "step_failed"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class SpecError(SuanliError):
    """The spec, a command-line argument or an environment setting is wrong."""

    kind = "bad_input"
    exit_code = 2


class DataError(SuanliError):
    """The data, a model folder or a stored artifact is wrong."""

    kind = "bad_input"
    exit_code = 2


class InfeasiblePlanError(SuanliError):
    """No way to run satisfies deadline, budget, memory and placement constraints."""

    kind = "infeasible"
    exit_code = 3


class GateError(SuanliError):
    """No variant keeps the promised quality or latency."""

    kind = "gate_failed"
    exit_code = 4


class StepError(SuanliError):
    """A step failed for a reason that is neither input nor plan (crash, lost device, full disk)."""


def error_document(step: str, error: BaseException) -> dict[str, Any]:
    """Return the content of ``error.json`` for `error` raised by `step`."""
    if isinstance(error, SuanliError):
        kind, code, message, remedy = error.kind, error.exit_code, error.message, error.remedy
    elif isinstance(error, OSError) and error.errno == 28:  # ENOSPC
        kind, code = StepError.kind, StepError.exit_code
        message, remedy = f"disk is full: {error}", "free space or point --workdir elsewhere"
    else:
        kind, code = StepError.kind, StepError.exit_code
        message = f"{type(error).__name__}: {error}"
        remedy = "see the step's log beside error.json for the traceback"
    return {
        "schema_version": ERROR_VERSION,
        "kind": kind,
        "exit_code": code,
        "step": step,
        "message": message,
        "remedy": remedy,
    }


def error_from_document(document: dict[str, Any]) -> SuanliError:
    """Rebuild the error that a step wrote to ``error.json``."""
    classes: dict[str, type[SuanliError]] = {
        "bad_input": DataError,
        "infeasible": InfeasiblePlanError,
        "gate_failed": GateError,
        "step_failed": StepError,
    }
    error = classes.get(str(document.get("kind")), StepError)
    message = f"step {document.get('step')}: {document.get('message')}"
    return error(message, remedy=str(document.get("remedy", "")))


def canonical_json(value: Any) -> str:
    """Serialise `value` so that equal values give equal bytes (sorted keys, no spaces)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_hash(value: Any) -> str:
    """Return the SHA-256 hex digest of `value`'s canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a step found itself running on."""

    cpu_model: str
    cpu_count: int
    memory_bytes: int
    gpu_model: str | None = None
    gpu_count: int = 0
    gpu_memory_bytes: int = 0
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What a step asked for, what it used and how long each phase took.

    `seconds` maps phase to wall seconds and always has ``total``; `workload` holds the shape that
    the cost model predicts from (rows, tokens, padded tokens, steps, batch ...); `metrics` holds
    what the step computed (losses, F1 ...), `series` lists of points (learning curve).
    `output` is the URI the step returned.
    """

    schema_version: int = STEP_REPORT_VERSION
    step: str
    kind: str
    fingerprint: str
    plan_hash: str
    output: str
    cached: bool
    started_at: str
    seconds: dict[str, float]
    workload: dict[str, Any]
    requested: dict[str, Any]
    hardware: Hardware
    bytes_in: int
    bytes_out: int
    peak_memory_bytes: int
    peak_gpu_memory_bytes: int | None
    energy_joules: float | None
    metrics: dict[str, Any]
    series: dict[str, list[dict[str, float]]]
    notes: list[str]
    cpu_seconds: float | None = None  # of the step and its children; reports before it have none

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Rebuild a report.

        Raises:
            DataError: unknown schema version or missing fields.
        """
        version = document.get("schema_version")
        if version != STEP_REPORT_VERSION:
            raise DataError(
                f"step report has schema_version {version!r}, not {STEP_REPORT_VERSION}",
                remedy="rebuild it with the suanli version that wrote it",
            )
        try:
            hardware = Hardware(**document["hardware"])
            return cls(**{**document, "hardware": hardware})
        except (KeyError, TypeError) as error:
            raise DataError(f"step report is incomplete: {error}") from error
