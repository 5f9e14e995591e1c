"""What is sent to a KFP server, and recognised there again: a submission and its fingerprint."""

from __future__ import annotations

import dataclasses
import difflib
import json
from dataclasses import dataclass, replace
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


def submission_of(
    plan: Plan, ir_yaml: str, *, data: Any = None, parameters: dict[str, Any] | None = None
) -> Submission:
    """Describe the run of `plan` compiled to `ir_yaml`.

    Args:
        data: identity of the source files (`data_identity`); the plan's profile unless given.
        parameters: the run's parameters that differ from the pipeline's defaults.
    """
    identity = [plan.spec, data or plan.profile, sorted(images_of(ir_yaml))]
    if is_dynamic(ir_yaml):
        identity += ["dynamic", parameters or {}]
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


def version_name(name: str, ir_yaml: str) -> str:
    """Name of a pipeline version: its spec is immutable, so another content is another version."""
    return f"{name}-{content_hash(ir_yaml)[:12]}"


def is_dynamic(ir_yaml: str) -> bool:
    """Whether the pipeline was compiled with ``--requests dynamic``."""
    return "budget_usd" in _pipeline(ir_yaml).get("root", {}).get("inputDefinitions", {}).get(
        "parameters", {}
    )


def with_parameters(
    submission: Submission, ir_yaml: str, texts: dict[str, str]
) -> tuple[Submission, dict[str, Any]]:
    """Return the submission of a run with parameters, and their values as KFP wants them.

    The decision is made as the pipeline's decide step will make it, except that the data is probed
    from here, so that a run that can't be is refused before it is created.

    Args:
        texts: parameters by name, as a command line gives them.

    Raises:
        SpecError: the pipeline has no such parameter, or not this value.
        InfeasiblePlanError: see `pipelines.control.decide.dynamic.decide_again`.
    """
    if not texts:
        return submission, {}
    known = _pipeline(ir_yaml).get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    for name in texts:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise SpecError(
                f"the pipeline has no parameter {name!r}",
                remedy=f"did you mean {near[0]}?" if near
                else f"parameters: {', '.join(sorted(known))}"
                + ("" if is_dynamic(ir_yaml) else "; compile with --requests dynamic for more"),
            )  # fmt: skip
    store = {"store": texts["store"]} if "store" in texts else {}
    changed = {name: text for name, text in texts.items() if name != "store"}
    if not changed:
        fingerprint = content_hash([submission.fingerprint, store])
        return replace(submission, fingerprint=fingerprint), dict(store)
    from pipelines.control.decide.dynamic import decide_again
    from pipelines.control.decide.parameters import from_text

    arguments = decide_arguments(ir_yaml)
    values = from_text(changed, arguments["spec"])
    again = decide_again(arguments, values)
    made = submission_of(again, ir_yaml, data=data_identity(again), parameters={**values, **store})
    return made, {**values, **store}


def decide_arguments(ir_yaml: str) -> dict[str, Any]:
    """Return what the compiled pipeline tells its decide step."""
    for component in _pipeline(ir_yaml)["components"].values():
        for task in component.get("dag", {}).get("tasks", {}).values():
            if task["taskInfo"]["name"] == "decide":
                constant = task["inputs"]["parameters"]["config"]["runtimeValue"]["constant"]
                arguments: dict[str, Any] = json.loads(constant)["arguments"]
                return arguments
    raise SpecError("the pipeline has no decide step", remedy="compile it with suanli compile")


def _pipeline(ir_yaml: str) -> dict[str, Any]:
    pipeline: dict[str, Any] = next(iter(yaml.load_all(ir_yaml, Loader=yaml.CSafeLoader)))
    return pipeline


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
    executors = _pipeline(ir_yaml)["deploymentSpec"]["executors"].values()
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
