"""Texts without labels: from the spec through ingest to the loss that they have no part in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from components.compress.material import Material, load_material
from components.compress.recommend import UNLABELLED_SHARE, unlabelled_rows
from components.compress.repair import Settings, Student, Weights, clone
from components.contract import IGNORED_LABEL, DataError, SpecError, SuanliError
from components.ingest.sources import stage
from components.ingest.unlabelled import Wanted, read_unlabelled
from components.lib import distil
from components.lib.dataset import SPLITS, load_split
from components.lib.modelling import new_model
from pipelines.control.decide.parameters import located_spec
from pipelines.dag import compile_pipeline
from pipelines.plan import Plan, make_plan
from pipelines.spec import Spec, parse_spec
from tests.inference_support import conll, csv
from tests.ingesting import ingest, ingest_uri, write

WORDS = "token-classification"
TEXTS = "text-classification"


def spec_of(extra: str, folder: Path = Path("/data"), task: str = TEXTS) -> Spec:
    text = f"name: tiny\ntask: {task}\nmodel: {{id: minilm-l6}}\ndata:\n"
    text += f"  train: {{uri: train.csv}}\n{extra}"
    return parse_spec(text, source="s.yaml", folder=folder)


# -- spec and plan --------------------------------------------------------------------------------


def test_a_spec_without_texts_keeps_its_fingerprint() -> None:
    assert "unlabelled" not in spec_of("").document["data"]
    spec = spec_of("  unlabelled: {uri: more.txt, limit: 5}\n")
    assert spec.data.unlabelled is not None
    assert spec.data.unlabelled.limit == 5
    assert Spec.model_validate(spec.document).document == spec.document


@pytest.mark.parametrize(
    ("extra", "task", "words"),
    [
        ("{uri: more.txt}", "causal-lm", ["s.yaml:6", "data.unlabelled", "'more.txt'", "causal"]),
        ("{uri: more.txt}", "text-pair-ranking", ["data.unlabelled", "only one for"]),
        ("{uri: ftp://x/y}", TEXTS, ["s.yaml:6", "data.unlabelled.uri", "'ftp'"]),
        ("{uri: a, limit: 0}", TEXTS, ["data.unlabelled.limit", "greater than 0"]),
        ("{uri: a, colum: b}", TEXTS, ["data.unlabelled.colum", "'column'"]),
        ("{fraction: 0.1}", TEXTS, ["data.unlabelled.fraction", "unknown key"]),
    ],
)
def test_bad_specs(extra: str, task: str, words: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        spec_of(f"  unlabelled: {extra}\n", task=task)
    assert caught.value.exit_code == 2
    for word in words:
        assert word in f"{caught.value} {caught.value.remedy}"


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Plan]:
    """A plan without and one with four times as many texts as labelled rows."""
    folder = tmp_path_factory.mktemp("plan")
    csv(folder / "train.csv", 1000, 0)
    (folder / "more.txt").write_text("the market was very busy when we came back\n" * 4000)
    end = "compression: {variants: [distill3+int8-static]}\n"
    specs = (spec_of(e + end, folder) for e in ("", "  unlabelled: {uri: more.txt}\n"))
    without, having = (make_plan(spec, here=True) for spec in specs)
    return without, having


def test_the_plan_counts_the_texts(plans: tuple[Plan, Plan]) -> None:
    without, having = plans
    assert having.profile["unlabelled"]["rows"] == 4000
    assert having.profile["unlabelled"]["tokens"] == 4000 * 11
    for step in ("ingest", "place", "compress-distill3-int8-static"):
        assert having.step(step).seconds.value > without.step(step).seconds.value, step
    cut = [plan.step("compress-distill3-int8-static") for plan in plans]
    assert cut[1].peak_memory_bytes.value > cut[0].peak_memory_bytes.value
    assert cut[1].arguments["budget_s"] > cut[0].arguments["budget_s"]
    assert having.step("train").seconds.value == pytest.approx(
        without.step("train").seconds.value, rel=0.05
    )
    sizes = [{part["artifact"]: part["bytes"] for part in p.storage}["dataset"] for p in plans]
    assert sizes[1] > sizes[0] + 4000 * 11


def test_a_compiled_pipeline_and_its_spec_carry_them(plans: tuple[Plan, Plan]) -> None:
    having = plans[1]
    uri = having.step("ingest").arguments["data"]["unlabelled"]["uri"]
    assert Path(uri).is_absolute()
    assert located_spec(having)["data"]["unlabelled"]["uri"] == uri
    assert Spec.model_validate(located_spec(having)).data.unlabelled is not None
    pipeline, *_ = yaml.safe_load_all(compile_pipeline(having))
    assert uri in json.dumps(pipeline)


# -- ingest ---------------------------------------------------------------------------------------


def read(path: Path, task: str, **wanted: Any) -> list[tuple[int, Any]]:
    source = stage("unlabelled", str(path), path.parent)
    found = read_unlabelled(source, task=task, wanted=Wanted(**wanted))
    return [(example.line, example.text) for _, example in found]


def test_every_format_gives_the_same_texts(tmp_path: Path) -> None:
    rows = [{"text": "a b", "label": "x"}, {"text": " ", "label": ""}, {"text": "c d", "label": 3}]
    expected = ["a b", "c d"]
    files = {
        "a.txt": "a b\n\n  \nc d\n",
        "a.csv": "text,label\na b,x\n ,\nc d,3\n",
        "a.jsonl": "\n".join(map(json.dumps, rows)),
        "a.json": json.dumps({"unlabelled": rows}),
    }
    for name, body in files.items():
        (tmp_path / name).write_text(body)
        assert [text for _, text in read(tmp_path / name, TEXTS)] == expected, name
    pq.write_table(pa.table({"body": ["a b", "", "c d"]}), tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet", TEXTS, column="body")
    assert found == [(1, "a b"), (3, "c d")]
    assert read(tmp_path / "a.txt", TEXTS, limit=1) == [(1, "a b")]


def test_a_tagger_reads_words(tmp_path: Path) -> None:
    files = {
        "a.txt": "Ann ran\n\n in  Rome\n",
        "a.conll": "Ann\tB-PER\nran\tO\n\nin\tO\nRome\tX-WRONG\n",
        "b.conll": "Ann\nran\n\nin\nRome\n",
        "a.jsonl": '{"tokens": ["Ann", "ran"]}\n{"tokens": ["in", "Rome"]}\n',
    }
    for name, body in files.items():
        (tmp_path / name).write_text(body)
        assert [t for _, t in read(tmp_path / name, WORDS)] == [["Ann", "ran"], ["in", "Rome"]]


@pytest.mark.parametrize(
    ("name", "body", "wanted", "words"),
    [
        ("a.txt", "", {}, ["a.txt", "empty"]),
        ("a.txt", "\n \n", {}, ["a.txt", "no texts", "data.unlabelled.uri"]),
        ("a.txt", b"fine\nna\xefve\n", {}, ["a.txt:2", "UTF-8"]),
        ("a.csv", "body,label\nx,1\n", {}, ["data.unlabelled.column", "a.csv:2", "body, label"]),
        ("a.csv", "body\nx\n", {"column": "bodi"}, ["a.csv:2", "'bodi'", "did you mean 'body'"]),
        ("a.jsonl", '{"text": "a"}\n{"text": 3}\n', {}, ["a.jsonl:2", "a number, not text"]),
        ("a.jsonl", '{"text": ["a", "b"]}\n', {}, ["a.jsonl:1", "the text is a list"]),
        ("a.dat", "x\n", {}, ["a.dat", "data.unlabelled.format"]),
        ("a.conll", "a\tO\n", {}, ["a.conll", "CoNLL"]),
    ],
)
def test_bad_texts(
    tmp_path: Path, name: str, body: str | bytes, wanted: dict[str, Any], words: list[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(body.encode() if isinstance(body, str) else body)
    with pytest.raises(SuanliError) as caught:
        read(path, TEXTS, **wanted)
    assert caught.value.exit_code == 2
    for word in words:
        assert word in f"{caught.value} {caught.value.remedy}"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt.*no such file"):
        read(tmp_path / "none.txt", TEXTS)


def made(folder: Path, task: str) -> tuple[Path, dict[str, Any]]:
    """Ingest 40 labelled rows and 300 texts: those of the labelled source, labels and all."""
    folder.mkdir()
    if task == WORDS:
        train, more = conll(folder / "train.conll", 40, 0), conll(folder / "more.conll", 300, 1)
    else:
        train, more = csv(folder / "train.csv", 40, 0), csv(folder / "more.csv", 300, 1)
    data = {"train": {"uri": str(train)}, "unlabelled": {"uri": str(more)}}
    return ingest(folder, data, task, max_length=32)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("datasets")
    return {task: made(folder / task, task) for task in (WORDS, TEXTS)}


@pytest.mark.parametrize("task", [WORDS, TEXTS])
def test_no_label_gets_into_the_split(datasets: dict[str, Any], task: str) -> None:
    folder, manifest = datasets[task]
    split = load_split(folder, "unlabelled")
    column = split.columns["labels" if task == WORDS else "label"]
    assert len(column) == (split.tokens if task == WORDS else split.rows)
    assert (column == IGNORED_LABEL).all()
    assert split.rows >= 300
    assert manifest["splits"]["unlabelled"]["examples"] == 300
    assert manifest["statistics"]["splits"]["unlabelled"]["label_counts"] == {}
    # The labelled splits are parts of their own source alone.
    labelled = [manifest["splits"][name]["examples"] for name in SPLITS]
    assert sum(labelled) == 40


def test_other_texts_are_another_dataset_and_the_same_ones_are_cached(tmp_path: Path) -> None:
    train = {"uri": str(csv(tmp_path / "train.csv", 60, 0))}
    more = write(tmp_path, "more.txt", "one\ntwo\n")
    data = {"train": train, "unlabelled": more}
    first = ingest_uri(tmp_path, data, task=TEXTS)
    assert ingest_uri(tmp_path, data, task=TEXTS) == first
    write(tmp_path, "more.txt", "one\nthree\n")
    changed = ingest_uri(tmp_path, data, task=TEXTS)
    assert changed != first
    # One text of two: what is read of the file is part of the step's arguments.
    limited = {**data, "unlabelled": {**more, "limit": 1}}
    folder, manifest = ingest(tmp_path, limited, TEXTS)
    assert manifest["splits"]["unlabelled"]["rows"] == 1
    assert load_split(folder, "unlabelled").rows == 1


def test_texts_of_test_are_warned_of(tmp_path: Path) -> None:
    test = write(tmp_path, "test.csv", "text,label\nthe very same text,dog\nanother one,cat\n")
    train = write(tmp_path, "train.csv", "text,label\n" + "a dog,dog\na cat,cat\n" * 20)
    more = write(tmp_path, "more.txt", "the very same text\nsomething else here\n")
    data = {"train": train, "validation": test, "test": test, "unlabelled": more}
    _, manifest = ingest(tmp_path, data, TEXTS)
    assert manifest["statistics"]["leakage"]["unlabelled/test"]["exact"] == 1
    assert any("of 2 test rows 1 stand in unlabelled too" in w for w in manifest["warnings"])


# -- compression ----------------------------------------------------------------------------------


def material_of(folder: Path, task: str, tmp_path: Path, seed: int = 0) -> Material:
    return load_material(folder, task, tmp_path, image_size=0, global_batch=16, seed=seed)


def test_the_share_of_an_epoch() -> None:
    assert unlabelled_rows(1000, 0, 0) == 0
    assert unlabelled_rows(1000, 10, 200) == 10
    rows = unlabelled_rows(1000, 5000, 100_000)
    assert rows * 20 / (1000 + rows * 20) == pytest.approx(UNLABELLED_SHARE, abs=0.01)


def epochs_of(material: Material, count: int) -> Iterator[list[int]]:
    batches = material.epochs()
    for _ in range(count):
        rows: list[int] = []
        for batch in islice(batches, material.steps_per_epoch):
            rows += batch.rows.tolist()
        yield rows


@pytest.mark.parametrize("task", [WORDS, TEXTS])
def test_an_epoch_has_every_labelled_row_once(
    datasets: dict[str, Any], task: str, tmp_path: Path
) -> None:
    material = material_of(datasets[task][0], task, tmp_path)
    labelled, rest = material.train.rows, material.lessons.rows - material.train.rows
    assert 0 < material.drawn < rest
    found = list(epochs_of(material, 5))
    for rows in found:
        assert sorted(row for row in rows if row < labelled) == list(range(labelled))
        assert len(rows) == labelled + material.drawn
        assert max(rows) < material.lessons.rows
    # Each text comes once before any comes again.
    assert material.drawn * 5 > rest
    order = np.concatenate([material.unlabelled_in(epoch) for epoch in range(5)])
    assert sorted(order[:rest]) == list(range(labelled, labelled + rest))
    drawn = [sorted(row for row in rows if row >= labelled) for rows in found]
    assert drawn == [sorted(material.unlabelled_in(epoch)) for epoch in range(5)]
    again = material_of(datasets[task][0], task, tmp_path)
    assert list(epochs_of(again, 5)) == found
    other = material_of(datasets[task][0], task, tmp_path, seed=1)
    assert list(epochs_of(other, 5)) != found


@pytest.mark.parametrize("task", [WORDS, TEXTS])
def test_rows_without_labels_have_no_part_in_the_labels_loss(
    datasets: dict[str, Any], task: str, tmp_path: Path
) -> None:
    folder, manifest = datasets[task]
    material = material_of(folder, task, tmp_path)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = new_model({"config": "bert-tiny"}, task, manifest["labels"])
    teacher = distil.Teacher(clone(model), task, dtype=torch.float32, keep_bytes=0)

    def gradient(weights: Weights, rows: list[int]) -> torch.Tensor:
        student = Student(
            clone(model), teacher, material, Settings(weights=weights), layer_map=[0, 1]
        )
        batch = material.task.collate(material.lessons, np.array(rows), packed=False)
        loss = student._loss(batch)
        if not loss.requires_grad:
            return torch.zeros(1)
        loss.backward()
        grads = [p.grad for p in student.model.parameters() if p.grad is not None]
        return torch.cat([grad.flatten() for grad in grads])

    first = material.train.rows
    without = [first, first + 1, first + 2]
    labels = Weights(task=1.0, logits=0.0, hidden=0.0)
    assert not gradient(labels, without).any()
    # Beside labelled rows they change nothing either: neither the sum nor what divides it.
    alone = gradient(labels, [0, 1])
    assert alone.any()
    torch.testing.assert_close(gradient(labels, [0, 1, *without]), alone, atol=1e-6, rtol=1e-4)
    # The teacher's answers on them are taught: here it is the student itself, moved a little.
    with torch.no_grad():
        for parameter in teacher.model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    for weights in (Weights(task=0.0, hidden=0.0), Weights(task=0.0, logits=0.0)):
        assert gradient(weights, without).any()
