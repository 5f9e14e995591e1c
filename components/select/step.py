"""Choose the cheapest variant that keeps the promise, then score it once on test.

The choice sees validation figures only. The test split is read after the choice is made, for two
models: the tuned one and the chosen one.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

from components.contract import DataError, GateError, SpecError
from components.lib import interval, load, quality, scope
from components.lib.dataset import load_split, read_manifest
from components.lib.runner import Runner
from components.runtime import StepContext
from components.select.rule import Candidate, Promise, judge, pick, table

SELECTION_VERSION = 1
REFERENCES = ("fp32", "fp16")
# Seconds of each load scenario for each of the two models; argument `load_s` changes it.
LOAD_SECONDS = 2.0


def run(context: StepContext) -> str:
    """Select; returns the selection artifact's URI."""
    arguments = context.arguments
    seed = int(arguments.get("seed") or 0)
    promise = Promise.from_arguments(arguments)
    candidates = load_candidates(context)
    reference = reference_of([c.name for c in candidates])
    with context.phase("choose"):
        judged = judge(candidates, reference, promise, seed=seed)
        chosen = pick(judged, promise)
    rows = [candidate.row() for candidate in judged]
    if chosen is None:
        # There will be no selection that the receipt could read the reasons from.
        context.store.put_json(f"runs/{context.run_id}/refused.json", {"variants": rows})
        raise GateError(
            f"no variant keeps the promise ({promise.text(judged[0].metric)})\n{table(rows)}",
            remedy="raise compression.max_quality_drop or serving.p99_latency_ms, or give "
            "compression more variants",
        )
    context.progress(0.3, f"{chosen.name} selected")
    graphs = dict(zip([c.name for c in candidates], context.inputs["onnx"], strict=True))
    scopes = {c.name: c.evaluation.get("scope") for c in candidates}
    final = score_on_test(context, graphs, scopes, reference, chosen.name, promise, seed)
    folder = context.folder("selection")
    source = context.fetch(graphs[chosen.name])
    shutil.copytree(source, folder / "model", copy_function=shutil.copyfile)
    document = {
        "schema_version": SELECTION_VERSION,
        "selected": chosen.name,
        "reference": reference,
        "promise": promise.to_json(),
        "variants": rows,
        **final,
    }
    (folder / "selection.json").write_text(json.dumps(document, indent=1, sort_keys=True))
    context.metrics.update(selected=chosen.name, reference=reference, quality=final["quality"])
    context.progress(1.0, f"{chosen.name}: {final['quality']['selected']:.4f} on test")
    return context.put(folder, kind="selection")


def load_candidates(context: StepContext) -> list[Candidate]:
    """Read the evaluations, in the order of the plan's variants.

    Raises:
        DataError: they were not made on one and the same validation split.
    """
    candidates = []
    for uri in context.inputs["evaluations"]:
        folder = context.fetch(uri)
        document = json.loads((folder / "evaluation.json").read_text())
        counts = quality.load_counts(folder / "outcomes.npz")
        candidates.append(Candidate.of(document, counts))
    shapes = {(c.evaluation["split"], c.metric, len(c.counts)) for c in candidates}
    if len(shapes) != 1:
        raise DataError(
            f"evaluations of different data: {sorted(shapes)}", remedy="evaluate them again"
        )
    split = candidates[0].evaluation["split"]
    if split == "test":
        raise SpecError(
            "variants were evaluated on test: choosing by it would make its score a lie"
        )
    return candidates


def reference_of(names: list[str]) -> str:
    """Return the variant that stands for the tuned model: the uncompressed one.

    Raises:
        SpecError: there is none to compare with.
    """
    for name in REFERENCES:
        if name in names:
            return name
    raise SpecError(
        f"compression.variants: none of {', '.join(REFERENCES)} among {', '.join(names)}",
        remedy="add fp32: what a variant loses is measured against it",
    )


def score_on_test(
    context: StepContext,
    graphs: dict[str, str],
    scopes: dict[str, dict[str, Any] | None],
    reference: str,
    chosen: str,
    promise: Promise,
    seed: int,
) -> dict[str, Any]:
    """Score the reference and the chosen model on test, once, and compare them."""
    arguments = context.arguments
    dataset = context.fetch(context.inputs["dataset"])
    manifest = read_manifest(dataset)
    split = load_split(dataset, "test")
    scores: dict[str, quality.Quality] = {}
    loads: dict[str, Any] = {}
    for name in dict.fromkeys((reference, chosen)):
        runner = Runner(
            context.fetch(graphs[name]),
            device=arguments.get("target", "cpu"),
            threads=int(arguments.get("threads") or 2),
        )
        with context.phase("quality"):
            found = scopes[name]  # its threshold comes from validation
            scores[name] = quality.assess(
                runner,
                split,
                manifest["task"],
                manifest["labels"],
                seed,
                outside=scope.Scope(**found) if found else None,
            )
        context.progress(0.6, f"{name}: load generator")
        with context.phase("load"):
            loads[name] = load.measure(
                runner,
                split,
                seconds=float(arguments.get("load_s") or LOAD_SECONDS),
                requests_per_second=arguments.get("requests_per_second"),
                p99_latency_ms=promise.p99_latency_ms,
                seed=seed,
            )
    tuned, selected = scores[reference], scores[chosen]
    drop = interval.drop_of(
        tuned.metric, tuned.counts, selected.counts, budget=promise.max_quality_drop, seed=seed
    )
    return {
        "quality": {
            "metric": tuned.metric,
            "split": "test",
            "tuned": tuned.value,
            "selected": selected.value,
            "ci95": list(selected.ci95),
            "tuned_ci95": list(tuned.ci95),
            "drop": drop.value,
            "drop_ci95": list(drop.ci95),
            "p_drop_exceeds_budget": drop.p_exceeds,
        },
        "classification_report": selected.report,
        "entities": selected.entities,
        "confusion": selected.confusion,
        "test": {"tuned": tuned.to_json(), "selected": selected.to_json()},
        "load": {"tuned": loads[reference], "selected": loads[chosen]},
    }
