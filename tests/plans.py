"""Plans made by hand, so that tests of the compiler and the report do not move with the cost
model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pipelines.control.decide.node_set import Market
from pipelines.cost.catalog import Instance, catalog_hash, load_catalog
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


def node(name: str, vcpus: int, memory_gib: float, usd: float, **changes: Any) -> Instance:
    """A machine of AWS us-east-1 at a price that no list changes."""
    fields: dict[str, Any] = {
        "cloud": "aws", "region": "us-east-1", "name": name, "vcpus": vcpus,
        "memory_bytes": memory_gib * GIB, "cpu": "zen3", "gpu": "", "gpu_count": 0,
        "local_nvme_bytes": 0.0, "network_bytes_per_second": 1.25e9,
        "alloc_cpu_millicores": vcpus * 1000 - 100, "alloc_memory_bytes": 0.9 * memory_gib * GIB,
        "alloc_ephemeral_bytes": 60.0 * GIB, "on_demand_usd_per_hour": usd,
        "spot_usd_per_hour": usd * 0.4, "interruption_per_hour": 0.0001, "date": "2026-11-01",
        "source": "tests",
    }  # fmt: skip
    return Instance(**{**fields, **changes})


def sample_market() -> Market:
    """Where `sample_plan` was made: two CPU nodes, two GPU nodes, and one in another region."""
    nodes = (
        node("m6i.large", 2, 8, 0.096),
        node("m6i.2xlarge", 8, 32, 0.384),
        node("g5.xlarge", 4, 16, 1.006, gpu="A10G", gpu_count=1),
        node("g5.12xlarge", 48, 192, 5.672, gpu="A10G", gpu_count=4),
        node("m6i.large", 2, 8, 0.107, region="eu-west-1"),
    )
    made = dataclasses.replace(load_catalog(), instances=nodes)
    return Market(catalog=dataclasses.replace(made, hash=catalog_hash(made)))
