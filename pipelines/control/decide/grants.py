"""What `decide` hands to the later tasks' pods, and the limits that only the compiler can set.

KFP takes CPU, memory, GPU type and count, node selector and tolerations from an upstream output;
time-outs and volume sizes stand in the compiled pipeline. The driver reads the first four as
strings (an integer becomes "" there, and a GPU limit is dropped without a word), the node selector
as a struct and the tolerations as a list (a string becomes an empty selector, as silently).
Sources: backend/src/v2/driver/driver.go, k8s.go, resolve.go of KFP 2.17.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipelines.control.pods import in_trainjob, mebibytes, pod_of
from pipelines.cost.requests import (
    COLD_START_S,
    TIMEOUT_FLOOR_S,
    TIMEOUT_MARGIN,
    shm_bytes,
)
from pipelines.plan import Plan, Resources, StepPlan

# Kinds of tasks that come after decide; one grant a kind, so that all variants of a step share it.
# The receipt comes in the exit handler, which can't take outputs: its requests are the compiled.
OUTPUTS = ("cpu", "memory", "gpu", "gpus", "selector", "tolerations")
KINDS = ("place", "train", "compress", "export", "evaluate", "select", "publish")
# How far a run may grow beyond the compiled plan before it has to be compiled again: time-outs and
# /tmp are ceilings, so room in them costs nothing.
HEADROOM = 4
# /dev/shm is sized for the largest common node; memory that nobody writes to is not taken.
MOST_RANKS = 8

Grants = dict[str, Any]


def levelled(plan: Plan) -> Plan:
    """Return `plan` with each kind's steps asking for what the largest of them needs."""
    largest = {kind: _largest(plan, kind) for kind in KINDS}
    steps = (
        replace(step, resources=largest[step.kind]) if step.kind in largest else step
        for step in plan.steps
    )
    return replace(plan, steps=tuple(steps))


def _largest(plan: Plan, kind: str) -> Resources:
    every = [step.resources for step in plan.steps if step.kind == kind]
    return Resources(
        cpu_millicores=max(r.cpu_millicores for r in every),
        memory_bytes=max(r.memory_bytes for r in every),
        ephemeral_bytes=max(r.ephemeral_bytes for r in every),
        shm_bytes=max(r.shm_bytes for r in every),
        gpu_count=max(r.gpu_count for r in every),
        gpu_resource=every[0].gpu_resource,
    )


def grants(plan: Plan, *, trainjob: bool) -> Grants:
    """Return ``<kind>_<what>`` of the outputs of `decide` for the levelled `plan`."""
    found: Grants = {}
    for kind in KINDS:
        pod = pod_of(plan, _first(plan, kind).step, trainjob=trainjob)
        found |= {
            f"{kind}_cpu": f"{pod.resources.cpu_millicores}m",
            f"{kind}_memory": mebibytes(pod.resources.memory_bytes),
            f"{kind}_gpu": pod.resources.gpu_resource,
            f"{kind}_gpus": str(pod.resources.gpu_count),
            f"{kind}_selector": dict(pod.node_selector),
            f"{kind}_tolerations": [dict(taint) for taint in pod.tolerations],
        }
    return found


def _first(plan: Plan, kind: str) -> StepPlan:
    return next(step for step in plan.steps if step.kind == kind)


def with_headroom(plan: Plan) -> Plan:
    """Return `plan` with the time-outs and volume sizes that a dynamic pipeline is compiled with.

    Only tasks after `decide` grow; ingest has its data before anything is decided again, so it gets
    the same room.
    """
    return replace(plan, steps=tuple(_roomy(step) for step in plan.steps))


def _roomy(step: StepPlan) -> StepPlan:
    if step.kind in ("decide", "report"):
        return step
    resources = step.resources
    shm = resources.shm_bytes
    if step.kind in ("train", "evaluate", "select"):
        shm = max(shm, shm_bytes(MOST_RANKS, on_gpu=True))
    return replace(
        step,
        timeout_s=step.timeout_s * HEADROOM,
        resources=replace(
            resources, ephemeral_bytes=resources.ephemeral_bytes * HEADROOM, shm_bytes=shm
        ),
    )


def limits_of(plan: Plan) -> dict[str, Any]:
    """Return ``{trainjob, steps: {step: {timeout_s, tmp_bytes, shm_bytes}}}`` of the plan that a
    dynamic pipeline is compiled with (`with_headroom`)."""
    return {
        "trainjob": in_trainjob(plan),
        "steps": {
            step.step: {
                "timeout_s": step.timeout_s,
                "tmp_bytes": step.resources.ephemeral_bytes,
                "shm_bytes": step.resources.shm_bytes,
            }
            for step in plan.steps
            if step.kind in KINDS
        },
    }


def beyond(plan: Plan, limits: dict[str, Any]) -> list[str]:
    """Return a sentence for each compiled limit that the levelled `plan` needs more than."""
    found = []
    for step in plan.steps:
        compiled = limits["steps"].get(step.step)
        if compiled is None:
            continue
        needs = {
            "timeout_s": step.timeout_s,
            "tmp_bytes": step.resources.ephemeral_bytes,
            "shm_bytes": step.resources.shm_bytes,
        }
        if limits["trainjob"] and step.kind == "train":
            needs = {"timeout_s": step.timeout_s}  # the TrainJob's pods bring their own volumes
        found += [
            f"{step.step} needs {_show(name, need)}, compiled {_show(name, compiled[name])}"
            for name, need in needs.items()
            if need > compiled[name]
        ]
    return found


def seconds_within(timeout_s: int) -> int:
    """Return the longest step (upper estimate) that gets no more than this time-out: the inverse
    of `pipelines.cost.requests.timeout`."""
    return int((timeout_s - TIMEOUT_FLOOR_S - COLD_START_S) / TIMEOUT_MARGIN)


def _show(name: str, value: int) -> str:
    if name == "timeout_s":
        return f"a time-out of {value} s"
    folder = {"tmp_bytes": "/tmp", "shm_bytes": "/dev/shm"}[name]
    return f"{mebibytes(value)} of {folder}"
