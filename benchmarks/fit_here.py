"""Measure steps of MiniLM on this machine's CPU and fit the constants of transformer_cpu.

    python -m benchmarks.fit_here measure --part train    # a minute; quiet machine
    python -m benchmarks.fit_here measure --part graphs   # half a minute
    python -m benchmarks.fit_here measure --part machine  # the rates alone, again
    python -m benchmarks.fit_here fit

Data is the project's own: headlines, one or several in a row, so that batch and length vary. What
the constants predict for public data sets (benchmarks/here_accuracy.py) is not in the fit.
`measure` adds to benchmarks/results/here-steps-<date>.json; `fit` writes
pipelines/cost/data/cpu_steps.json.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import datetime
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.cost.here import machine_here
from pipelines.cost.machine import Machine, machine_of_here
from pipelines.cost.model_names import by_name
from pipelines.cost.transformer_cpu import DATA, Constants, optimiser_seconds, pass_seconds

RESULTS = Path(__file__).parent / "results"
# Headlines in a row, rows in a batch.
CASES = ((1, 4), (1, 8), (1, 32), (3, 8), (3, 32), (8, 8), (8, 32))
PRECISIONS = ("fp32", "bf16")
STEPS, WARM = 14, 4
VALIDATION_ROWS = 128
# Rows of one call of a graph, and the headlines in each.
CALLS = ((1, 1), (1, 3), (1, 8), (8, 1), (32, 1), (4, 8), (16, 3))
SECONDS_A_CALL = 0.4
# Log spread of a constant around where it starts: they are known to a factor, but a product can't
# run faster than the large one that the machine was measured by.
PRIOR_SPREAD, SHARE, SHARE_SPREAD = 0.7, 0.85, 0.07


def dataset(folder: Path, headlines: int) -> Path:
    """Ingest rows of so many headlines each; returns the artifact's folder."""
    from benchmarks.infer import context
    from components.ingest import step
    from components.ingest.made import headlines as made
    from components.storage import Store, Tiers

    uris = {}
    rows = max(batch for _, batch in CASES) * STEPS
    for split, count in (("train", rows), ("validation", VALIDATION_ROWS), ("test", 8)):
        texts = itertools.cycle(made.rows(split, 17))
        path = folder / f"{split}-{headlines}.csv"
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("text", "label"))
            for _ in range(count):
                some = list(itertools.islice(texts, headlines))
                writer.writerow(("; ".join(row["text"] for row in some), some[0]["label"]))
        uris[split] = {"uri": str(path)}
    arguments = {
        "task": "text-classification", "name": f"headlines-{headlines}",
        "model": {"id": "minilm-l6"}, "max_length": 256, "seed": 0,
        "data": {**uris, "format": "csv", "columns": {"text": "text", "label": "label"}},
    }  # fmt: skip
    store = Store(Tiers.under(folder / f"store-{headlines}"))
    uri = step.run(context(store, "ingest", arguments, {}))
    return store.fetch(uri, folder / f"dataset-{headlines}")


def measure_train(folder: Path) -> list[dict[str, Any]]:
    """Return median seconds of the phases of a training step, of each case and precision."""
    from components.lib.dataset import load_split
    from components.train.job import Job
    from components.train.loop import train
    from components.train.setup import load_data
    from components.train.world import World, join

    @dataclasses.dataclass(slots=True, kw_only=True)
    class Clock(World):
        """Keeps every duration of a phase."""

        took: dict[str, list[float]] = dataclasses.field(default_factory=dict)

        @contextlib.contextmanager
        def phase(self, name: str) -> Iterator[None]:
            start = time.perf_counter()
            yield
            self.took.setdefault(name, []).append(time.perf_counter() - start)

    world, found = join(), []
    folders = {length: dataset(folder, length) for length, _ in CASES}
    for precision in PRECISIONS:
        for length, batch in CASES:
            clock = Clock(rank=0, size=1, device=world.device)
            job = Job(
                task="text-classification", model={"id": "minilm-l6"},
                dataset=str(folders[length]), checkpoints=str(folder / f"{time.monotonic_ns()}"),
                output=str(folder / "model"), epochs=1, global_batch=batch, micro_batch=batch,
                precision=precision, learning_rate=1e-4, stop_after_steps=STEPS,
            )  # fmt: skip
            run = train(job, clock, load_data(job))
            lengths = load_split(folders[length], "train").lengths
            checked = load_split(folders[length], "validation").lengths
            trained = sum(p.numel() for p in run.trainee.model.parameters())
            found.append({
                "part": "train", "precision": precision, "batch": batch,
                "length": float(lengths.mean()), "span": float((lengths**2).sum() / lengths.sum()),
                "trained_parameters": trained, "validation_rows": len(checked),
                "validation_length": float(checked.mean()),
                "validation_s": clock.took["evaluate"][0],
                **{f"{name}_s": statistics.median(clock.took[name][WARM:])
                   for name in ("forward", "backward", "optimiser")},
            })  # fmt: skip
            print(found[-1])
    return found


def measure_graphs(folder: Path) -> list[dict[str, Any]]:
    """Return seconds of calls of the exported fp32 and INT8 graphs, on one thread and on all."""
    import os

    from benchmarks import infer_routes as routes
    from components.lib.modelling import load_model, save_model
    from components.lib.references import resolve_model_folder
    from components.lib.sessions import open_session

    paths: dict[str, Path] = {}
    found = []
    for length in dict.fromkeys(length for _, length in CALLS):
        data = dataset(folder, length)
        model = folder / "plain"
        if not model.is_dir():
            model.mkdir()
            source = resolve_model_folder({"id": "minilm-l6"})
            info = {"labels": ["a", "b", "c"], "task": "text-classification", "variant": "tuned"}
            loaded = load_model(source, "text-classification", labels=info["labels"])
            save_model(loaded, model, tokenizer=data / "tokenizer", info=info)
        subject = routes.Subject.load("headlines", model, data, 0)
        paths = paths or routes.our_graphs(subject, folder)
        split = subject.split("train")
        for rows, wanted in CALLS:
            if wanted != length:
                continue
            batches = list(np.arange(rows * 4).reshape(4, rows))
            feeds = subject.feeds(split, batches)
            size = float(np.mean([feed["input_ids"].shape[1] for feed in feeds]))
            for name, threads in itertools.product(("fp32", "int8"), (1, os.cpu_count() or 1)):
                session = open_session(paths[name], provider="CPUExecutionProvider",
                                       threads=threads)  # fmt: skip
                kept = {i.name for i in session.get_inputs()}
                ready = [{k: v for k, v in feed.items() if k in kept} for feed in feeds]
                seconds = steady(lambda s=session, r=ready: [s.run(None, f) for f in r]) / 4
                found.append({"part": "graphs", "precision": name, "rows": rows, "length": size,
                              "threads": threads, "seconds": seconds})  # fmt: skip
                print(found[-1])
    return found


def steady(work: Callable[[], Any]) -> float:
    """Median seconds of repeated runs."""
    work()
    taken: list[float] = []
    while sum(taken) < SECONDS_A_CALL or len(taken) < 3:
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


# -- fit -------------------------------------------------------------------------------------------


def fit(rows: list[dict[str, Any]], machine: Machine) -> dict[str, Any]:
    """Return the constants of each kind of pass, with the errors that are left."""
    train = [row for row in rows if row["part"] == "train"]
    graphs = [row for row in rows if row["part"] == "graphs"]
    shape = by_name("minilm-l6")
    assert shape is not None
    document: dict[str, Any] = {}
    forwards = [
        (row["precision"], row["batch"], row["length"], row["span"], None, row["forward_s"])
        for row in train
    ]
    checks = [
        (row["precision"], 64.0, row["validation_length"], row["span"], None,
         row["validation_s"] * 64.0 / row["validation_rows"])
        for row in train
    ]  # fmt: skip
    calls = [
        (row["precision"], row["rows"], row["length"], row["length"], row["threads"],
         row["seconds"])
        for row in graphs
    ]  # fmt: skip
    for name, observed in (("torch", forwards), ("torch_evaluation", checks), ("onnx", calls)):
        if observed:
            document[name] = fit_pass(observed, machine, shape)
    for precision in PRECISIONS:
        mine = [row for row in train if row["precision"] == precision]
        ratios = [row["backward_s"] / row["forward_s"] for row in mine]
        document["torch"].setdefault("backward", {})[precision] = round(
            statistics.median(ratios), 3
        )
    unit = optimiser_seconds(machine, 1.0, 1.0)
    cost = [row["optimiser_s"] / (row["trained_parameters"] * unit) for row in train]
    document["torch"]["optimiser_bytes"] = round(statistics.median(cost), 1)
    return document


def fit_pass(observed: list[Any], machine: Machine, shape: Any) -> dict[str, Any]:
    """Least squares on log seconds with weak priors, by coordinate search over log constants."""
    kinds = list(dict.fromkeys(row[0] for row in observed))
    start = {"operators": 30.0, "attention_share": 0.35}
    for kind in kinds:
        start |= {f"share.{kind}": SHARE, f"element_s.{kind}": 15e-9, f"half_tokens.{kind}": 30.0}
    # Only graphs were run on one thread and on several.
    if any(row[4] == 1 for row in observed):
        start |= {"wake": 10.0} | {f"serial.{kind}": 0.1 for kind in kinds}
    names = list(start)
    spread = np.array([SHARE_SPREAD if n.startswith("share") else PRIOR_SPREAD for n in names])

    def constants(x: np.ndarray) -> Constants:
        values = dict(zip(names, np.exp(x), strict=True))
        return Constants(
            share={k: values[f"share.{k}"] for k in kinds},
            element_s={k: values[f"element_s.{k}"] for k in kinds},
            half_tokens={k: values[f"half_tokens.{k}"] for k in kinds},
            operators=values["operators"], attention_share=values["attention_share"],
            serial={k: values.get(f"serial.{k}", 0.0) for k in kinds},
            wake=values.get("wake", 0.0),
        )  # fmt: skip

    target = np.log([row[-1] for row in observed])

    def predicted(x: np.ndarray) -> np.ndarray:
        made = constants(x)
        return np.log([
            pass_seconds(machine, shape, rows=rows, length=length, span=span, precision=kind,
                         constants=made, threads=threads)
            for kind, rows, length, span, threads, _ in observed
        ])  # fmt: skip

    centre = np.log(list(start.values()))
    x = centre.copy()
    for _ in range(30):
        at = predicted(x)
        jacobian = np.empty((len(target), len(x)))
        for i in range(len(x)):
            moved = x.copy()
            moved[i] += 1e-4
            jacobian[:, i] = (predicted(moved) - at) / 1e-4
        error = at - target
        scale = 0.05**2
        normal = jacobian.T @ jacobian / scale + np.diag(spread**-2.0)
        gradient = jacobian.T @ error / scale + (x - centre) / spread**2
        x = x - np.clip(np.linalg.solve(normal, gradient), -0.5, 0.5)
    error = np.expm1(predicted(x) - target)
    print("errors", {"median": round(float(np.median(np.abs(error))), 3),
                     "largest": round(float(np.abs(error).max()), 3)})  # fmt: skip
    made = dataclasses.asdict(constants(x))
    rounded = json.loads(json.dumps(made), parse_float=lambda text: float(f"{float(text):.3g}"))
    del rounded["backward"], rounded["optimiser_bytes"]
    return {
        **rounded,
        "evidence": {"rows": len(error), "median_error": round(float(np.median(np.abs(error))), 4)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("measure", "fit"))
    parser.add_argument("--part", choices=("train", "graphs", "machine"), default="train")
    today = datetime.date.today().isoformat()
    parser.add_argument("--results", type=Path, default=RESULTS / f"here-steps-{today}.json")
    options = parser.parse_args()
    document = {"date": today, "rows": []}
    if options.results.is_file():
        document = json.loads(options.results.read_text())
    if options.what == "measure":
        parts = {"train": measure_train, "graphs": measure_graphs, "machine": lambda folder: []}
        with tempfile.TemporaryDirectory() as folder:
            new = parts[options.part](Path(folder))
        here = machine_here()
        document["machine"] = {"cpu": here.cpu_model, **dataclasses.asdict(machine_of_here(here))}
        document["rows"] = [r for r in document["rows"] if r["part"] != options.part] + new
        options.results.write_text(json.dumps(document, indent=1) + "\n")
        return
    values = {k: v for k, v in document["machine"].items() if k != "cpu"}
    fitted = fit(document["rows"], Machine(**values))
    source = f"benchmarks/fit_here.py, {document['machine']['cpu']} x {values['cores']:g}, "
    made = {"source": source + document["date"], **fitted}
    DATA.write_text(json.dumps(made, indent=1) + "\n")
    print(DATA.read_text())


if __name__ == "__main__":
    main()
