"""What is sent to a KFP server, and recognised there again: a submission and its fingerprint."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from components.contract import SpecError, SuanliError, content_hash
from pipelines.plan import Plan

SUBMISSION_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """What the budget guard knows of a step."""

    step: str
    seconds: float
    usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What makes a run the same run again, and what it may cost.

    `fingerprint` covers the spec, the identity of the data and the images: not prices or the plan
    made from them, so that a new price alone retrains nothing.
    """

    schema_version: int = SUBMISSION_VERSION
    name: str
    fingerprint: str
    plan_hash: str
    predicted_seconds: float
    predicted_usd: float | None
    budget_usd: float | None
    steps: tuple[PlannedStep, ...]

    @property
    def run_name(self) -> str:
        return f"{self.name}-{self.fingerprint[:12]}"

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any], *, source: str) -> Self:
        """Rebuild a submission.

        Raises:
            SpecError: another schema version, or missing fields.
        """
        try:
            if document["schema_version"] != SUBMISSION_VERSION:
                raise SpecError(
                    f"{source}: schema_version {document['schema_version']!r} is not "
                    f"{SUBMISSION_VERSION}",
                    remedy="render again with this version of suanli",
                )
            steps = tuple(PlannedStep(**step) for step in document["steps"])
            return cls(**{**document, "steps": steps})
        except (KeyError, TypeError) as error:
            raise SpecError(
                f"{source}: not a submission: {error}", remedy="render the spec again"
            ) from None


def submission_of(plan: Plan, ir_yaml: str, *, data: Any = None) -> Submission:
    """Describe the run of `plan` compiled to `ir_yaml`.

    Args:
        data: identity of the source files (`data_identity`); the plan's profile unless given.
    """
    identity = [plan.spec, data or plan.profile, sorted(images_of(ir_yaml))]
    return Submission(
        name=plan.name,
        fingerprint=content_hash(identity),
        plan_hash=plan.hash,
        predicted_seconds=plan.seconds.value,
        predicted_usd=plan.usd.value if plan.usd else None,
        budget_usd=plan.spec["objective"]["budget_usd"],
        steps=tuple(
            PlannedStep(
                step=step.step,
                seconds=step.seconds.value,
                usd=step.usd.value if step.usd else None,
            )
            for step in plan.steps
        ),
    )


def data_identity(plan: Plan) -> Any:
    """Return what identifies the source files now (sha256, or etag and size), or None when they
    can't be reached from here: then the profile that the plan was made from stands in."""
    from components.ingest.sources import identity

    splits = plan.step("ingest").arguments.get("data") or {}
    uris = {name: part["uri"] for name, part in splits.items() if _has_uri(part)}
    try:
        return {name: identity(uri) for name, uri in sorted(uris.items())} or None
    except (SuanliError, OSError):
        return None


def _has_uri(part: Any) -> bool:
    return isinstance(part, dict) and bool(part.get("uri"))


def images_of(ir_yaml: str) -> set[str]:
    """Return the container images that the compiled pipeline names."""
    pipeline = next(iter(yaml.load_all(ir_yaml, Loader=yaml.CSafeLoader)))
    executors = pipeline["deploymentSpec"]["executors"].values()
    return {executor["container"]["image"] for executor in executors}


def load_rendered(folder: Path) -> tuple[Submission, str]:
    """Read what `suanli render` wrote: the submission and the compiled pipeline.

    Raises:
        SpecError: a file is missing or not what render writes.
    """
    try:
        document = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        pipeline = (folder / "pipeline.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SpecError(
            f"{folder}: not a rendered folder: {error}", remedy="suanli render SPEC -o DIR"
        ) from None
    return Submission.from_json(document, source=str(folder / "run.json")), pipeline
