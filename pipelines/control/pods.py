"""What a step's pod asks for and what its program receives, whoever writes it down: the compiler
(`dag`) or, with dynamic requests, the decide step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipelines.control.train_nodes.step import launch_arguments
from pipelines.plan import Plan, StepPlan

MIB = 1 << 20


def mebibytes(size_bytes: int) -> str:
    """Return a Kubernetes quantity, rounded up (KFP takes whole numbers with a suffix only)."""
    return f"{-(-size_bytes // MIB)}Mi"


def in_trainjob(plan: Plan) -> bool:
    """Whether training spans nodes: its own pod then only follows a TrainJob."""
    return plan.step("train").nodes > 1


def pod_of(plan: Plan, name: str, *, trainjob: bool | None = None) -> StepPlan:
    """Return what the step's own pod asks for. Training on several nodes happens in a TrainJob's
    pods; its own pod only follows them, from a node as small as the receipt's.

    Args:
        trainjob: whether the pipeline was compiled with a TrainJob; follows from the plan unless
            given.
    """
    step = plan.step(name)
    if step.kind != "train" or not (in_trainjob(plan) if trainjob is None else trainjob):
        return step
    small = plan.step("report")
    return replace(
        step,
        kind=small.kind,
        resources=small.resources,
        node_selector=small.node_selector,
        tolerations=small.tolerations,
    )


def config_of(plan: Plan, name: str, *, launch: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what the step called `name` receives as its `config`.

    Args:
        launch: ``{image, claim, queue, secret}`` of the TrainJob's pods, when training is one.
    """
    step = plan.step(name)
    arguments = dict(step.arguments)
    if name == "report":  # a plan can't contain itself
        arguments["plan"] = plan.to_json()
    if launch is not None and step.kind == "train":
        arguments["launch"] = launch_arguments(step, name=plan.name, **launch)
    requested = {
        "node": step.node,
        "capacity": step.capacity,
        "cpu_millicores": step.resources.cpu_millicores,
        "memory_bytes": step.resources.memory_bytes,
        "gpu_count": step.resources.gpu_count,
        "ephemeral_bytes": step.resources.ephemeral_bytes,
        "timeout_s": step.timeout_s,
    }
    if step.kind == "train" and step.usd is not None and step.seconds.value > 0:
        # For the money so far in its progress; not an argument, since a price changes no result.
        requested["usd_per_hour"] = round(3600.0 * step.usd.value / step.seconds.value, 6)
    return {
        "step": name,
        "arguments": arguments,
        "plan_hash": plan.hash,
        "requested": requested,
    }
