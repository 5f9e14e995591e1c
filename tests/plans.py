"""Plans made by hand, so that tests of the compiler and the report do not move with the cost
model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.plan import Alternative, Estimate, Plan, Resources, StepPlan
from pipelines.spec import Spec, parse_spec

GIB = 1 << 30

SPEC = """\
name: newsroom-ner
task: token-classification
model: {id: minilm-l6}
data:
  train: {uri: "s3://corpus/train.conll"}
  validation: {uri: "s3://corpus/dev.conll"}
  test: {uri: "s3://corpus/test.conll"}
  format: conll
objective: {deadline: 2h, budget_usd: 5}
storage: {warm: "s3://suanli-warm/store", credentials: {secret: object-store}}
"""

CPU = Resources(cpu_millicores=1900, memory_bytes=3 * GIB, ephemeral_bytes=8 * GIB)
GPU = Resources(
    cpu_millicores=3800,
    memory_bytes=12 * GIB + 1,
    ephemeral_bytes=40 * GIB,
    shm_bytes=2 * GIB,
    gpu_count=1,
)
GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def sample_spec(text: str = SPEC) -> Spec:
    return parse_spec(text, source="sample.yaml", folder=Path("/data"))


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value * 0.8, high=value * 1.3)


def step(name: str, *, gpu: bool = False, seconds: float = 30.0, **arguments: Any) -> StepPlan:
    node = "g5.xlarge" if gpu else "m6i.large"
    return StepPlan(
        step=name,
        kind=name.split("-")[0],
        node=node,
        capacity="spot" if gpu else "on-demand",
        nodes=1,
        processes_per_node=1,
        resources=GPU if gpu else CPU,
        timeout_s=1800,
        seconds=estimate(seconds),
        peak_memory_bytes=estimate(2.0 * GIB),
        peak_gpu_memory_bytes=estimate(6.0 * GIB) if gpu else None,
        usd=estimate(seconds / 3600 * (1.0 if gpu else 0.1)),
        node_selector={"node.kubernetes.io/instance-type": node},
        tolerations=(GPU_TAINT,) if gpu else (),
        arguments=arguments,
        why="the cheapest that fits",
    )


def sample_plan(variants: tuple[str, ...] = ("fp32", "prune50+int8")) -> Plan:
    """A cloud plan: training on a GPU node, everything else on small CPU nodes."""
    spec = sample_spec()
    steps = [
        step("ingest", task=spec.task),
        step("decide"),
        step("place", tiers=["hot", "warm"]),
        step("train", gpu=True, seconds=120.0, training={"epochs": 3, "precision": "bf16"}),
    ]
    for variant in variants:
        suffix = variant.replace("+", "-")
        steps += [
            step(f"{kind}-{suffix}", variant=variant) for kind in ("compress", "export", "evaluate")
        ]
    steps += [step("select", variants=list(variants)), step("publish"), step("report")]
    return Plan(
        name=spec.name,
        task=spec.task,
        spec=spec.document,
        profile={},
        catalog={},
        calibration={},
        steps=tuple(steps),
        variants=variants,
        storage=(),
        seconds=Estimate.sum([s.seconds for s in steps]),
        usd=Estimate.sum([s.usd for s in steps if s.usd]),
        first_order={},
        alternatives=(
            Alternative(
                label="1 x g4dn.xlarge spot",
                node="g4dn.xlarge",
                nodes=1,
                gpus=1,
                capacity="spot",
                precision="fp16",
                seconds=700.0,
                usd=0.05,
                risk=0.02,
                on_front=False,
                chosen=False,
                reason="slower and no cheaper",
            ),
        ),
        candidates={"considered": 10, "pruned": 4, "feasible": 6},
    )
