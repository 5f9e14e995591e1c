"""From a tuned model through cuts to a scored graph: sizes are as promised, quality is learnt back,
and every later step reads what compress wrote."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from components.compress import evened, latency, recommend, round8, search
from components.compress import step as compress
from components.compress.variant import parse
from components.contract import DataError, SpecError
from components.evaluate import step as evaluate
from components.export import step as export
from components.lib import pruned
from components.lib.modelling import load_model, read_info
from components.storage import Store
from tests.inference_support import make_context, make_dataset, make_model, make_store
from tests.train_support import make_job, run_job

TASKS = ("token-classification", "text-classification")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A store with a dataset and a tuned model for each task."""
    folder = tmp_path_factory.mktemp("compress")
    store = make_store(folder / "store")
    made: dict[str, Any] = {"store": store}
    for task in TASKS:
        (folder / task).mkdir()
        dataset = make_dataset(store, folder / task, task, rows=160)
        shutil.rmtree(Path(store.tiers.hot) / "scratch")  # as the runtime does after a step
        job = make_job(
            folder / task, folder_of(store, dataset, folder), task, epochs=4, learning_rate=2e-3
        )
        finished = run_job(job)
        assert finished["event"] == "finished", finished
        assert finished["best_metric"] > 0.8, finished
        model = store.put_folder(Path(job.output), kind="model")
        made[task] = {"dataset": dataset, "model": model}
    return made


def compressed(tuned: dict[str, Any], task: str, variant: str, **arguments: Any) -> tuple[str, Any]:
    """Run the step; returns the artifact's URI and the context."""
    asked = {"task": task, "variant": variant, "target": "cpu", "threads": 1, **arguments}
    asked.setdefault("training", {"epochs": 6, "global_batch": 32, "precision": "fp32"})
    context = make_context(tuned["store"], "compress", asked, dict(tuned[task]))
    uri = compress.run(context)
    shutil.rmtree(context.scratch)  # as the runtime does after a step
    return uri, context


def folder_of(store: Store, uri: str, target: Path) -> Path:
    return store.fetch(uri, target / uri.rsplit("/", 1)[1][:16])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("variant", ["prune50+int8", "distill1"])
def test_cut_models_keep_their_quality_through_export(
    tuned: dict[str, Any], task: str, variant: str, tmp_path: Path
) -> None:
    store, dataset = tuned["store"], tuned[task]["dataset"]
    uri, context = compressed(tuned, task, variant)
    whole = load_model(folder_of(store, tuned[task]["model"], tmp_path), task)
    folder = folder_of(store, uri, tmp_path)
    cut, info = load_model(folder, task), read_info(folder)
    share = pruned.encoder_parameters(cut) / pruned.encoder_parameters(whole)
    assert 0.47 <= share <= 0.5
    assert info["variant"] == variant
    assert info["onnx_precision"] == ("int8" if "int8" in variant else "fp32")
    assert info["parameters"] == sum(p.numel() for p in cut.parameters())
    assert context.metrics["compressed"] > context.metrics["tuned"] - 0.1
    # Whole layers compete with uneven ones, for as many candidates as the plan priced.
    candidates = context.metrics["candidates"]
    recipe = parse(variant, "cpu")
    assert len(candidates) <= recommend.ways_of(recipe.cuts[0], 2)
    assert any("[2]" in candidate["name"] for candidate in candidates), candidates
    assert sum(candidate["won"] for candidate in candidates) == 1

    inputs = {"model": uri, "dataset": dataset}
    asked = {"task": task, "variant": variant, "target": "cpu", "max_length": 64}
    graph = export.run(make_context(store, "export", asked, inputs))
    exported = json.loads((folder_of(store, graph, tmp_path) / "export.json").read_text())
    assert exported["fusion"] == "encoder", exported["fallbacks"]
    assert exported["parity_fused_fp32"]["passed"]
    inputs = {"onnx": graph, "dataset": dataset}
    scored = evaluate.run(make_context(store, "evaluate", {**asked, "screening_s": 0.1}, inputs))
    found = json.loads((folder_of(store, scored, tmp_path) / "evaluation.json").read_text())
    assert found["value"] == pytest.approx(context.metrics["compressed"], abs=0.03)


def test_a_wanted_speed_is_reached_by_the_table(tuned: dict[str, Any]) -> None:
    _, context = compressed(tuned, "token-classification", "speed2+int8", budget_s=1.0)
    entries = context.metrics["latency_table"]
    table = latency.Table(
        heads=tuple(map(tuple, entries["heads_ms"])),
        neurons=tuple(map(tuple, entries["neurons_ms"])),
        measured=entries["measured"],
        setting=entries["setting"],
    )
    whole = table.of_layers([pruned.Sizes(heads=2, neurons=512)] * 2)
    for candidate in context.metrics["candidates"]:
        assert candidate["table_ms"] <= whole / 2 * 1.001
        sizes = [pruned.Sizes(heads=h, neurons=n) for h, n in candidate["layers"]]
        assert candidate["table_ms"] == pytest.approx(table.of_layers(sizes))


def test_embeddings_in_4_bits_halve_the_file(tuned: dict[str, Any], tmp_path: Path) -> None:
    task, store = "text-classification", tuned["store"]
    dataset, found = tuned[task]["dataset"], {}
    for variant in ("int8-static", "embed4+int8-static"):
        uri, _ = compressed(tuned, task, variant)
        asked = {"task": task, "variant": variant, "target": "cpu", "max_length": 64}
        graph = export.run(make_context(store, "export", asked, {"model": uri, "dataset": dataset}))
        found[variant] = json.loads((folder_of(store, graph, tmp_path) / "export.json").read_text())
    whole, half = found.values()
    assert half["size_bytes"] < 0.62 * whole["size_bytes"]  # bert-tiny is mostly embeddings
    assert half["operators"]["GatherBlockQuantized"] == 1
    assert half["precision"] == "int8-static", half["fallbacks"]


def test_cuts_are_made_from_left_to_right(tuned: dict[str, Any], tmp_path: Path) -> None:
    task = "text-classification"
    training = {"epochs": 1, "global_batch": 32, "precision": "fp32"}
    attention = {"relations": 1.0}  # whatever number of heads is left
    uri, context = compressed(
        tuned, task, "distill1+prune60", training=training, distillation=attention
    )
    model = load_model(folder_of(tuned["store"], uri, tmp_path), task)
    assert len(pruned.layers_of(model)) == 1
    # 60 % of what distill1 left, half of the whole
    assert context.metrics["removed_share"] == pytest.approx(0.8, abs=0.02)


def test_the_search_takes_its_time_and_no_more(
    tuned: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on 50 ms whenever it is read: the machine's own load is left out."""
    monkeypatch.setattr(search, "MOST_EPOCHS", 10_000)  # these data are learnt in a second
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: 0.05 * next(clock))
    budget = 15.0
    planned = {"cut": "prune50", "ways": 1, "scoring_s": 1.0, "round_s": [], "finish_s": 7.0}
    start = time.perf_counter()
    _, context = compressed(
        tuned, "text-classification", "prune50", budget_s=budget, search=[planned]
    )
    taken = time.perf_counter() - start
    assert 0.85 * budget <= taken <= 1.15 * budget
    candidates = context.metrics["candidates"]
    assert [c["predicted_s"] for c in candidates if c["won"]] == [7.0]
    for candidate in candidates:  # what the receipt's table of the search shows
        assert candidate["seconds"] > 0
        assert candidate["steps"] > 0
        assert all(round_["divergence"] > 0 for round_ in candidate["rounds"])
    longest = max(candidates, key=lambda candidate: candidate["steps"])
    assert longest["won"]
    assert any(note.startswith("accuracy on validation") for note in context.notes)


@pytest.mark.parametrize("variant", ["prune50+int8", "distill1+prune30"])
def test_a_budget_too_small_to_train_in_still_ends_with_a_model(
    tuned: dict[str, Any], variant: str, tmp_path: Path
) -> None:
    task = "text-classification"
    uri, context = compressed(tuned, task, variant, budget_s=1.0)
    assert sum(c["steps"] for c in context.metrics["candidates"]) == 0
    assert "the budget of 1 s left no time to train what was cut" in context.notes
    cut = load_model(folder_of(tuned["store"], uri, tmp_path), task)
    assert pruned.encoder_parameters(cut) == context.metrics["encoder_parameters"]


def test_rounding_that_costs_too_much_is_trained_away(
    tuned: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One value channel 500 times as large, and read 500 times as small, changes nothing in exact
    arithmetic; with one scale for the tensor it leaves the other channels no levels. The exporter
    evens such channels out, so nothing is trained for them; where it can't, training helps."""
    monkeypatch.setattr(round8, "MOST_EPOCHS", 20)
    task, store = "text-classification", tuned["store"]
    original = tuned[task]["model"]
    folder = tmp_path / "hard"
    shutil.copytree(folder_of(store, original, tmp_path), folder)
    model = load_model(folder, task)
    for layer in pruned.layers_of(model):
        value, output = layer.attention.self.value, layer.attention.output.dense
        value.weight.data[0] *= 500
        value.bias.data[0] = 500.0
        output.weight.data[:, 0] /= 500
    model.save_pretrained(folder)
    hard = {**tuned, task: {**tuned[task], "model": store.put_folder(folder, kind="model")}}
    training = {"epochs": 20, "global_batch": 32, "precision": "fp32"}
    asked = {"training": training, "max_quality_drop": 0.01}
    _, context = compressed(hard, task, "int8", **asked)
    assert context.metrics["retrained"] is False, context.metrics
    monkeypatch.setattr(evened, "factors_of", lambda model, batches: {})
    uri, context = compressed(hard, task, "int8", **asked)
    assert context.metrics["retrained"], context.metrics
    assert context.metrics["compressed"] >= context.metrics["tuned"] - 0.05
    assert uri != hard[task]["model"]
    # Where rounding costs nothing the tuned weights stay as they are.
    uri, context = compressed(tuned, task, "int8", **asked)
    assert context.metrics["retrained"] is False
    kept = load_model(folder_of(store, uri, tmp_path), task).state_dict()
    first = load_model(folder_of(store, original, tmp_path), task).state_dict()
    assert all(torch.equal(kept[name], first[name]) for name in first)


def test_the_same_arguments_give_the_same_model(tuned: dict[str, Any]) -> None:
    # Costs are counted for a target that is not here; measured ones differ from run to run.
    here = {"target": "gpu"}
    training = {"epochs": 1, "global_batch": 32, "precision": "fp32"}
    uris = {
        compressed(tuned, "token-classification", "prune40", training=training, **here)[0]
        for _ in range(2)
    }
    assert len(uris) == 1


@pytest.mark.parametrize("task", TASKS)
def test_texts_without_labels_are_learnt_from(
    tuned: dict[str, Any], task: str, tmp_path: Path
) -> None:
    store = tuned["store"]
    richer = make_dataset(store, tmp_path, task, rows=40, texts=200)
    shutil.rmtree(Path(store.tiers.hot) / "scratch")  # as the runtime does after a step
    made = {**tuned, task: {**tuned[task], "dataset": richer}}
    training = {"epochs": 3, "global_batch": 32, "precision": "fp32"}
    uri, context = compressed(made, task, "distill1", training=training)
    read = context.metrics["unlabelled"]
    assert read["rows"] >= 200
    assert 0 < read["an_epoch"] <= read["rows"]
    assert read["an_epoch"] <= read["rows_read"] <= min(3 * read["an_epoch"], read["rows"])
    assert 0 < read["tokens_read"] <= read["tokens"]
    assert context.workload["steps"] > 3 * 2  # more than the labelled rows alone would make
    assert any(f"the model read {read['rows_read']:,} (" in note for note in context.notes)
    assert compressed(made, task, "distill1", training=training)[0] == uri


def test_a_teacher_that_knows_nothing_is_refused(tuned: dict[str, Any], tmp_path: Path) -> None:
    store = tuned["store"]
    random = make_model(
        store, tmp_path / "random", "text-classification", ["dog", "market", "walk"]
    )
    model = load_model(folder_of(store, random, tmp_path), "text-classification")
    model.classifier.bias.data[0] += 100.0  # one answer to everything
    model.save_pretrained(tmp_path / "random")
    poor = store.put_folder(tmp_path / "random", kind="model")
    broken = {**tuned, "text-classification": {**tuned["text-classification"], "model": poor}}
    with pytest.raises(DataError, match="nothing to teach"):
        compressed(broken, "text-classification", "prune50")


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("distill2", "2 layers"),
        ("distill7+int8", "2 layers"),
        ("prune50+int8+fp16", "2 precisions"),
        ("prune99", "prune95"),
        ("speed1", "between speed2 and speed9"),
        ("shrink50", "unknown"),
        ("embed4", "without int8"),
    ],
)
def test_impossible_variants_are_refused(tuned: dict[str, Any], variant: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        compressed(tuned, "token-classification", variant)


def test_a_dataset_of_another_task_is_refused(tuned: dict[str, Any]) -> None:
    mixed = {
        **tuned,
        "token-classification": {
            "model": tuned["token-classification"]["model"],
            "dataset": tuned["text-classification"]["dataset"],
        },
    }
    with pytest.raises(DataError, match="ingested for text-classification"):
        compressed(mixed, "token-classification", "prune50")


def test_a_decoder_loses_depth_and_width(tmp_path: Path) -> None:
    task, store = "causal-lm", make_store(tmp_path / "store")
    (tmp_path / "data").mkdir()
    dataset = make_dataset(store, tmp_path / "data", task, rows=24)
    shutil.rmtree(Path(store.tiers.hot) / "scratch")
    model = make_model(store, tmp_path / "whole", task, [])
    training = {"epochs": 1, "global_batch": 8, "precision": "fp32"}
    made = {"store": store, task: {"dataset": dataset, "model": model}}
    uri, context = compressed(made, task, "distill3+prune30", training=training)
    folder = folder_of(store, uri, tmp_path)
    cut = load_model(folder, task)
    assert len(pruned.layers_of(cut)) == 3
    sizes = pruned.sizes_of(cut)
    assert sizes == [pruned.Sizes(heads=3, neurons=s.neurons) for s in sizes]
    assert context.metrics["removed_share"] == pytest.approx(1 - 0.75 * 0.7, abs=0.03)
    assert read_info(folder)["table_bits"] == 8  # it is the output's table, too


def test_labels_stay_in_order(tuned: dict[str, Any], tmp_path: Path) -> None:
    uri, _ = compressed(tuned, "token-classification", "int8")
    folder = folder_of(tuned["store"], uri, tmp_path)
    whole = folder_of(tuned["store"], tuned["token-classification"]["model"], tmp_path)
    assert (folder / "labels.json").read_bytes() == (whole / "labels.json").read_bytes()
