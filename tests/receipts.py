"""Stores as a run leaves them (finished, failed, broken off), for tests of the receipt."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from components.contract import DataError, Hardware, StepReport, error_document
from components.runtime import emit_event
from components.storage import Store, Tiers
from pipelines.plan import Alternative, Estimate, Plan
from tests.plans import GIB, sample_plan

RUN_ID = "20260101-120000-abcdef"
MIB = 1 << 20
NAMES = ("newsroom-ner", "news-topics", "search-ranking")
LABELS = ["O", "B-person", "I-person", "B-location", "I-location"]
HARDWARE = Hardware(
    cpu_model="AMD EPYC",
    cpu_count=4,
    memory_bytes=16 * GIB,
    gpu_model="NVIDIA A10G",
    gpu_count=1,
    gpu_memory_bytes=24 * GIB,
    versions={"python": "3.11.2", "torch": "2.13.0"},
)
VARIANTS = ("fp32", "int8", "prune50+int8")


def rich_plan(variants: tuple[str, ...] = VARIANTS) -> Plan:
    """`sample_plan` with everything that a receipt can show."""
    plan = sample_plan(variants)
    return dataclasses.replace(
        plan,
        catalog={"hash": "c" * 64, "date": "2026-07-01", "stale_days": 12},
        calibration={"hash": "d" * 64, "observations": 41},
        alternatives=tuple(_alternatives()),
        candidates={"considered": 1840, "pruned": 1210, "feasible": 212},
        first_order={
            "terms": {"compute": 96.0, "storage": 4.0},
            "seconds": 100.0,
            "usd": 0.028,
            "text": "T = D/(B n) T_batch + P/(S n) = 96 s + 4 s",
        },
        storage=tuple(
            {"artifact": a, "tier": t, "bytes": b, "usd_per_month": u, "reason": r}
            for a, t, b, u, r in (
                ("dataset", "hot", 41 * MIB, 0.0041, "read once an epoch by train"),
                ("model", "warm", 91 * MIB, 0.0021, "kept to compress again"),
                ("onnx", "cold", 23 * MIB, 0.0001, "superseded after the next run"),
            )
        ),
        notes=("prices of eu-west-1 are older than 90 days",),
    )


# by (chosen, on the front)
REASONS = {
    (True, True): "cheapest inside deadline and budget",
    (False, True): "more expensive",
    (False, False): "beaten by node-7 in time and price",
}


def _alternatives() -> list[Alternative]:
    rows = []
    for index in range(36):
        seconds = 90.0 * 1.17 ** (index % 12) * (1 + 0.35 * (index // 12))
        usd = 0.9 / math.sqrt(seconds) * (1 + 0.6 * (index // 12))
        front = index < 12
        rows.append(
            Alternative(
                label=f"1 x node-{index}",
                node=f"g{index}.xlarge",
                nodes=1,
                gpus=1,
                capacity="spot" if index % 2 else "on-demand",
                precision="bf16",
                seconds=seconds,
                usd=usd,
                risk=min(0.99, index / 40),
                on_front=front,
                chosen=index == 7,
                reason=REASONS[index == 7, front],
            )
        )
    return rows


def evaluation(variant: str, labels: list[str] = LABELS) -> dict[str, Any]:
    """An evaluation.json as the evaluate step writes it."""
    gain = {"fp32": 1.0, "int8": 3.1, "prune50+int8": 5.4}.get(variant, 1.0)
    return {
        "schema_version": 1,
        "task": "token-classification",
        "variant": variant,
        "split": "validation",
        "metric": "entity_f1",
        "value": round(0.46 - 0.004 * gain, 4),
        "ci95": [0.42, 0.49],
        "metrics": {},
        "classification_report": classification_report(labels),
        "entities": ENTITIES,
        "confusion": confusion(labels),
        "latency_ms": {"p50": 11.2 / gain, "p90": 14.1 / gain, "p99": 21.0 / gain, "mean": 12.0},
        "throughput_per_s": 160.0 * gain,
        "tokens_per_s": 3000.0 * gain,
        "provider": "CPUExecutionProvider",
        "size_bytes": round(90.4 * MIB / (4 if "int8" in variant else 1)),
        "parameters": 22_600_000 // (2 if "prune" in variant else 1),
        "usd_per_million": 0.9 / gain,
        "parity_max_abs_diff": 2.1e-6,
    }


ENTITIES = {
    "default": {"precision": 0.5, "recall": 0.39, "f1": 0.438},
    "strict": {"precision": 0.49, "recall": 0.38, "f1": 0.428},
}


def classification_report(labels: list[str]) -> dict[str, Any]:
    rows = {
        label: {
            "precision": 0.99 / (1 + index / 4),
            "recall": 0.98 / (1 + index / 3),
            "f1": 0.985 / (1 + index / 3.4),
            "support": 9000 // (index * 8 + 1),
        }
        for index, label in enumerate(labels)
    }
    total = sum(row["support"] for row in rows.values())
    for name, value in (("micro avg", 0.95), ("macro avg", 0.61), ("weighted avg", 0.94)):
        rows[name] = {"precision": value, "recall": value, "f1": value, "support": total}
    return rows


def confusion(labels: list[str]) -> dict[str, Any]:
    size = len(labels)
    matrix = [[8000 // (i + 1) if i == j else (7 * i + 3 * j) % 23 for j in range(size)]
              for i in range(size)]  # fmt: skip
    return {"labels": labels, "matrix": matrix}


def selection(variants: tuple[str, ...] = VARIANTS, labels: list[str] = LABELS) -> dict[str, Any]:
    """A selection.json as the select step writes it."""
    keys = ("size_bytes", "parameters", "latency_ms", "throughput_per_s", "usd_per_million",
            "provider", "parity_max_abs_diff")  # fmt: skip
    rows = []
    for name in variants:
        found = evaluation(name)
        keeps = "prune" not in name
        reason = "within the quality budget" if keeps else "loses 0.018, more than 0.010"
        rows.append(
            {
                "name": name,
                "quality_validation": found["value"],
                **{key: found[key] for key in keys},
                "accepted": keeps,
                "reason": reason,
            }
        )
    return {
        "schema_version": 1,
        "selected": variants[1] if len(variants) > 1 else variants[0],
        "reference": "fp32",
        "variants": rows,
        "quality": {
            "metric": "entity_f1",
            "split": "test",
            "tuned": 0.4412,
            "selected": 0.4377,
            "ci95": [0.409, 0.467],
            "p_drop_exceeds_budget": 0.112,
        },
        "classification_report": classification_report(labels),
        "entities": ENTITIES,
        "confusion": confusion(labels),
        "test": {},
    }


@dataclasses.dataclass(kw_only=True)
class Receipts:
    """Writes runs into a store below `folder`, the way `components.runtime` does."""

    folder: Path
    plan: Plan = dataclasses.field(default_factory=rich_plan)
    run_id: str = RUN_ID
    labels: list[str] = dataclasses.field(default_factory=lambda: list(LABELS))

    def __post_init__(self) -> None:
        self.store = Store(Tiers.under(self.folder / "store"))

    def _artifact(self, kind: str, name: str, document: dict[str, Any]) -> str:
        folder = self.folder / "made" / name.replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{kind}.json").write_text(json.dumps(document))
        return self.store.put_folder(folder, kind=kind)

    def _output(self, step: Any) -> str:
        if step.kind == "evaluate":
            document = evaluation(step.arguments["variant"], self.labels)
            return self._artifact("evaluation", step.step, document)
        if step.kind == "select":
            document = selection(self.plan.variants, self.labels)
            return self._artifact("selection", "select", document)
        return self._artifact("other", step.step, {"step": step.step})

    def finish(self, name: str, *, cached: bool = False, factor: float = 1.07) -> None:
        """Leave what a finished step leaves."""
        step = self.plan.step(name)
        total = step.seconds.value * factor
        report = StepReport(
            step=name,
            kind=step.kind,
            fingerprint="f" * 64,
            plan_hash=self.plan.hash,
            output=self._output(step),
            cached=cached,
            started_at="2026-01-01T12:00:00+00:00",
            seconds={"stage_in": 0.4, "work": total - 0.5, "stage_out": 0.1, "total": total},
            workload={"rows": 1000},
            requested={},
            hardware=HARDWARE,
            bytes_in=10 * MIB,
            bytes_out=20 * MIB,
            peak_memory_bytes=round(step.peak_memory_bytes.value * 0.9),
            peak_gpu_memory_bytes=None,
            energy_joules=None,
            metrics=_search() if "prune50" in name and step.kind == "compress" else {},
            series=_series() if step.kind == "train" else {},
            notes=["bf16: the device supports it"] if step.kind == "train" else [],
            cpu_seconds=0.9 * total,
        )
        self.store.put_json(f"runs/{self.run_id}/steps/{name}.json", report.to_json())
        event = "cached" if cached else "finished"
        emit_event(self.store, self.run_id, name, event, {"seconds": total})

    def fail(self, name: str, error: BaseException) -> None:
        """Leave what a failing step leaves."""
        document = error_document(name, error)
        self.store.put_json(f"runs/{self.run_id}/errors/{name}.json", document)
        emit_event(self.store, self.run_id, name, "failed", {"message": str(error)})

    def start(self, name: str) -> None:
        emit_event(self.store, self.run_id, name, "started", {})

    def finish_before(self, name: str | None, **options: Any) -> None:
        """Finish every step before `name` (all but report when None)."""
        for step in self.plan.steps:
            if step.step in (name, "report"):
                return
            self.finish(step.step, **options)


def _search() -> dict[str, Any]:
    """What the compress step says of its search (components.compress.cutting)."""
    fates = (("even", 31, 4.2, True), ("wide", 24, 0.9, False), ("deep", 24, 0.8, False))
    candidates = [
        {
            "name": name,
            "layers": [[6, 700 - 10 * layer] for layer in range(6)],
            "encoder_parameters": 5_311_000 + steps,
            "table_ms": 3.25,
            "rounds": [{"steps": 24, "seconds": 0.7, "divergence": 0.0213}],
            "steps": steps,
            "seconds": seconds,
            "predicted_s": seconds * 1.1,
            "won": won,
            "trained": True,
        }
        for name, steps, seconds, won in fates
    ]
    return {"variant": "prune50+int8", "tuned": 0.4412, "compressed": 0.4391,
            "compressed_in_8_bits": 0.4379, "removed_share": 0.503, "budget_s": 7.0,
            "candidates": candidates}  # fmt: skip


def _series() -> dict[str, list[dict[str, float]]]:
    steps = range(0, 400, 10)
    return {
        "loss": [{"step": s, "epoch": s / 100, "loss": 2.2 * math.exp(-s / 90)} for s in steps],
        "validation": [{"epoch": e, "entity_f1": 0.46 - 0.3 / (e + 1)} for e in range(1, 5)],
    }


def without_price(plan: Plan) -> Plan:
    """The same plan on a machine whose hour costs nothing known."""
    steps = tuple(
        dataclasses.replace(s, usd=None, node="here", capacity="here") for s in plan.steps
    )
    one = dataclasses.replace(plan.alternatives[7], usd=None, node="here", capacity="here")
    return dataclasses.replace(plan, steps=steps, usd=None, alternatives=(one,),
                               seconds=Estimate(value=400.0, low=300.0, high=500.0))  # fmt: skip


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "<!--",
    "]]>",
    "&lt;script&gt;",
    "\u202etxt.exe",
    "\x1b[31mred\x00",
    "\ud800",
    "",
]


def hostile_run(folder: Path, strings: list[str]) -> Receipts:
    """A run whose labels, names, errors and nodes are all hostile."""
    plan = rich_plan()
    alternatives = tuple(
        dataclasses.replace(a, label=s, reason=s, node=s)
        for a, s in zip(plan.alternatives, strings * 36, strict=False)
    )
    plan = dataclasses.replace(plan, alternatives=alternatives, notes=tuple(strings))
    labels = [f"{index}{text}" for index, text in enumerate(strings)]
    run = Receipts(folder=folder, plan=plan, labels=labels)
    run.finish_before("publish")
    run.fail("publish", DataError(strings[0], remedy=strings[1]))
    return run


def many_receipts(count: int) -> list[dict[str, Any]]:
    """Receipts of `count` runs of three specs, whose predictions get better; every 40th run of the
    first spec loses quality and every 50th costs double."""
    receipts = []
    for index in range(count):
        start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=index)
        error = 0.4 / (1 + index / 60) * (1 + 0.3 * math.sin(index))
        usd = 0.05 * (2.0 if index % 50 == 49 else 1 + 0.05 * math.sin(index * 1.7))
        quality = 0.44 + 0.004 * math.sin(index * 0.9) - (0.05 if index % 40 == 39 else 0.0)
        seconds = 100.0 * (1 + 0.05 * math.sin(index))
        failed = index % 37 == 36
        receipts.append(
            {
                "schema_version": 1,
                "status": "step_failed" if failed else "succeeded",
                "error": {"step": "train", "message": "out of memory"} if failed else None,
                "run": {
                    "run_id": f"run-{index:04}",
                    "name": NAMES[index % 3],
                    "task": "token-classification",
                    "started_at": start.isoformat(),
                },
                "quality": {
                    "metric": "entity_f1",
                    "split": "test",
                    "tuned": quality + 0.003,
                    "selected": None if failed else quality,
                    "max_quality_drop": 0.01,
                },
                "selected": None if failed else "int8",
                "cost": {"predicted_usd": 0.05, "measured_usd": usd},
                "steps": [
                    {
                        "name": "train",
                        "predicted": {"seconds": seconds / (1 + error), "low": 1.0, "high": 200.0},
                        "measured": {"seconds": seconds, "usd": usd},
                    }
                ],
            }
        )
    return receipts
