"""The ingest step end to end: every format, every split rule, every refusal."""

from __future__ import annotations

import gzip
import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from components.contract import DataError, SpecError, SuanliError
from components.ingest import shards, synthetic
from components.lib.dataset import load_split
from components.storage import Store, Tiers
from tests.ingesting import ingest, ingest_uri, write
from tests.support import SHARED, needs_shared

NER = "Ann\tB-PER\nran\tO\n\nin\tO\nRome\tB-LOC\n"
ROWS = [
    {
        "text": f"text number {n} about {'cats' if n % 3 else 'dogs'}",
        "label": "cat" if n % 3 else "dog",
    }
    for n in range(60)
]


def three(entry):
    return {"train": entry, "validation": entry, "test": entry}


def csv_of(rows):
    return "text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in rows)


def encoded(rows, form, folder):
    if form == "csv":
        return write(folder, "d.csv", csv_of(rows))
    if form == "tsv":
        return write(folder, "d.tsv", csv_of(rows).replace(",", "\t"))
    if form == "semicolon":
        return write(folder, "d.csv", csv_of(rows).replace(",", ";"))
    if form == "csv.gz":
        return write(folder, "d.csv.gz", gzip.compress(csv_of(rows).encode()))
    if form == "jsonl":
        return write(folder, "d.jsonl", "\n".join(map(json.dumps, rows)))
    if form == "jsonl.zst":
        body = "\n".join(map(json.dumps, rows)).encode()
        return write(folder, "d.jsonl.zst", zstandard.compress(body))
    if form == "json":
        return write(folder, "d.json", json.dumps({"data": rows}))
    if form == "json-nested":
        return write(folder, "d.json", json.dumps({"a": {"b": [{"x": r} for r in rows]}}))
    if form == "json-lists":
        lists = [[r["text"], r["label"]] for r in rows]
        return write(folder, "d.json", json.dumps({"train": lists, "val": lists, "test": lists}))
    path = folder / f"d.{form}"
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    if form == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as sink:
            sink.write_table(table)
    return {"uri": str(path)}


FORMS = [
    "csv",
    "tsv",
    "semicolon",
    "csv.gz",
    "jsonl",
    "jsonl.zst",
    "json",
    "json-nested",
    "json-lists",
    "parquet",
    "arrow",
]


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_shards(tmp_path, form):
    columns = {"rows": "a.b", "text": "x.text", "label": "x.label"} if form == "json-nested" else {}
    data = {**three(encoded(ROWS, form, tmp_path / "in")), "columns": columns}
    _, manifest = ingest(tmp_path, data, "text-classification")
    reference = {**three(encoded(ROWS, "csv", tmp_path / "reference"))}
    _, expected = ingest(tmp_path, reference, "text-classification")
    assert manifest["splits"] == expected["splits"]
    assert manifest["labels"] == ["cat", "dog"]
    assert manifest["splits"]["train"]["rows"] == 60


def test_the_same_input_gives_the_same_artifact_anywhere(tmp_path):
    uris = set()
    for place in ("one", "two"):
        entry = write(tmp_path / place, "d.conll", NER)
        uris.add(ingest_uri(tmp_path / place / "w", three(entry), task="token-classification"))
    assert len(uris) == 1


def test_shards_are_named_by_content_and_read_back(tmp_path):
    folder, manifest = ingest(tmp_path, three(write(tmp_path, "d.conll", NER)))
    for entry in manifest["splits"]["train"]["shards"]:
        body = (folder / entry["file"]).read_bytes()
        assert hashlib.sha256(body).hexdigest() == entry["sha256"]
        assert entry["file"] == f"train-{entry['sha256'][:16]}.parquet"
        assert entry["bytes"] == len(body)
    split = load_split(folder, "train")
    assert manifest["labels"] == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert split.values("labels", 0).tolist() == [-100, 3, 0, -100]
    assert split.values("labels", 1).tolist() == [-100, 0, 1, -100]
    assert manifest["splits"]["train"]["words"] == 4
    assert (folder / "tokenizer" / "tokenizer.json").is_file()
    assert "Dataset sample" in (folder / "dataset-card.md").read_text()


def test_a_mapped_split_equals_one_in_memory(tmp_path, monkeypatch):
    folder, _ = ingest(tmp_path, three(write(tmp_path, "d.conll", NER)))
    plain = load_split(folder, "train")
    monkeypatch.setattr("components.lib.dataset.MAPPED_BYTES", 0)
    mapped = load_split(folder, "train")
    assert isinstance(mapped.input_ids, np.memmap)
    assert np.array_equal(plain.input_ids, mapped.input_ids)
    assert np.array_equal(plain.offsets, mapped.offsets)
    for name, column in plain.columns.items():
        assert np.array_equal(column, mapped.columns[name])


def test_iob1_is_detected_and_converted(tmp_path):
    text = "Ann I-PER\nLee I-PER\nmet O\n\nRome I-LOC\nParis B-LOC\n"
    folder, manifest = ingest(tmp_path, three(write(tmp_path, "d.conll", text)))
    assert (manifest["source_scheme"], manifest["scheme"]) == ("IOB1", "BIO2")
    labels = [
        manifest["labels"][i] for i in load_split(folder, "train").columns["labels"] if i >= 0
    ]
    assert labels == ["B-PER", "I-PER", "O", "B-LOC", "B-LOC"]


def test_fractions_are_stratified_seeded_and_keep_repeats_together(tmp_path):
    rows = [*ROWS, *ROWS[:9]]
    entry = write(tmp_path, "d.csv", csv_of(rows))
    data = {"train": entry, "validation": {"fraction": 0.2}, "test": {"fraction": 0.1}}
    folder, manifest = ingest(tmp_path, data, "text-classification", seed=3)
    sizes = {name: part["rows"] for name, part in manifest["splits"].items()}
    assert sum(sizes.values()) == len(rows)
    assert 10 <= sizes["validation"] <= 18
    assert manifest["statistics"]["leakage"]["train/validation"]["exact"] == 0
    share = {n: load_split(folder, n).columns["label"].mean() for n in ("train", "validation")}
    assert abs(share["train"] - share["validation"]) < 0.15
    again = ingest(tmp_path / "b", data, "text-classification", seed=3)[1]
    other = ingest(tmp_path / "c", data, "text-classification", seed=4)[1]
    assert again["splits"] == manifest["splits"]
    assert other["splits"] != manifest["splits"]


def test_repeats_and_leakage_are_reported(tmp_path):
    words = " ".join(f"word{n}" for n in range(60))
    near = f"{words} today,cat\n"
    test = write(tmp_path, "b.csv", csv_of(ROWS[:5]) + near)
    train = write(tmp_path, "c.csv", csv_of([*ROWS, ROWS[0]]) + near.replace("today", "Tomorrow"))
    data = {"train": train, "validation": test, "test": test}
    _, manifest = ingest(tmp_path, data, "text-classification")
    assert manifest["statistics"]["duplicates"]["train"]["exact"] == 1
    leak = manifest["statistics"]["leakage"]["train/test"]
    assert leak["exact"] == 5
    assert leak["near"] >= 6
    assert any("leakage" in warning for warning in manifest["warnings"])


def test_personal_data_is_redacted_and_counted(tmp_path):
    texts = [
        "mail jo.doe@example.org now",
        "call +49 30 1234567 or 13812345678",
        "card 4111 1111 1111 1111",
        "at 10.0.0.1 since 1984",
        "DE89 3704 0044 0532 0130 00 paid 12.50",
    ]
    rows = [{"text": t, "label": str(n % 2)} for n, t in enumerate(texts)]
    data = {**three(encoded(rows, "jsonl", tmp_path)), "redact": True}
    folder, manifest = ingest(tmp_path, data, "text-classification")
    assert manifest["statistics"]["redacted"] == {
        "CARD": 3,
        "EMAIL": 3,
        "IBAN": 3,
        "IP": 3,
        "PHONE": 6,
    }
    from components.lib.references import load_tokenizer

    tokenizer = load_tokenizer(folder / "tokenizer")
    split = load_split(folder, "train")
    text = " ".join(tokenizer.decode(split.sequence(n).tolist()) for n in range(split.rows))
    assert "example" not in text
    assert "4111" not in text
    assert "1984" in text
    assert "12. 50" in text


def test_ranking_and_completions(tmp_path):
    rows = [
        {"query": f"q{n // 3}", "passage": f"p {n}", "relevance": n % 3, "qid": f"id-{n // 3}"}
        for n in range(90)
    ]
    columns = {"text": "query", "text_pair": "passage", "label": "relevance", "group": "qid"}
    entry = write(tmp_path, "r.jsonl", "\n".join(map(json.dumps, rows)))
    data = {
        "train": entry,
        "validation": {"fraction": 0.2},
        "test": {"fraction": 0.2},
        "columns": columns,
    }
    folder, _ = ingest(tmp_path, data, "text-pair-ranking")
    parts = {n: load_split(folder, n) for n in ("train", "validation", "test")}
    groups = {n: set(p.columns["group"].tolist()) for n, p in parts.items()}
    assert not groups["train"] & groups["validation"]
    assert not groups["train"] & groups["test"]
    assert parts["train"].columns["label"].dtype == np.float32
    entry = write(tmp_path, "c.jsonl", '{"prompt": "a", "completion": "b c"}\n' * 3)
    folder, _ = ingest(tmp_path, three(entry), "causal-lm")
    assert (load_split(folder, "train").values("labels", 0) == -100).sum() == 2


def test_parallel_encoding_gives_the_same_shards(tmp_path, monkeypatch):
    entry = write(tmp_path, "d.csv", csv_of(ROWS * 3))
    data = {"train": entry, "validation": {"fraction": 0.2}, "test": entry}
    monkeypatch.setattr(shards, "BLOCK_ROWS", 16)
    _, single = ingest(tmp_path / "a", data, "text-classification")
    monkeypatch.setattr(shards, "PARALLEL_BYTES", 0)
    _, several = ingest(tmp_path / "b", data, "text-classification")
    assert len(single["splits"]["train"]["shards"]) > 1
    assert several["splits"] == single["splits"]


def test_a_broken_attempt_keeps_its_finished_blocks(tmp_path, monkeypatch):
    data = three(write(tmp_path, "d.csv", csv_of(ROWS)))
    monkeypatch.setattr(shards, "BLOCK_ROWS", 16)
    real, done = shards.write_block, []

    def dies_at_the_third(encoder, settings, block):
        if len(done) == 2:
            raise OSError(5, "disk went away")
        done.append(block.number)
        return real(encoder, settings, block)

    monkeypatch.setattr(shards, "write_block", dies_at_the_third)
    with pytest.raises(OSError, match="disk went away"):
        ingest(tmp_path, data, "text-classification")
    repeated = []

    def counted(encoder, settings, block):
        repeated.append((block.split, block.number))
        return real(encoder, settings, block)

    monkeypatch.setattr(shards, "write_block", counted)
    _, manifest = ingest(tmp_path, data, "text-classification")
    assert len(repeated) == 3 * 4 - 2
    monkeypatch.setattr(shards, "write_block", real)
    _, fresh = ingest(tmp_path / "fresh", data, "text-classification")
    assert manifest == fresh


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    entry = write(tmp_path, "d.conll", NER)
    from components.ingest import step

    real = step.check_labels

    def then_grows(scans):
        real(scans)
        with (tmp_path / "d.conll").open("a") as stream:
            stream.write("\nmore\tO\n")

    monkeypatch.setattr(step, "check_labels", then_grows)
    with pytest.raises(DataError, match=r"d\.conll: changed while it was read"):
        ingest(tmp_path, three(entry))


def refused(tmp_path, data, message, task="token-classification", **arguments):
    with pytest.raises(SuanliError, match=message) as caught:
        ingest(tmp_path / "w", data, task, **arguments)
    assert caught.value.exit_code == 2
    error = Store(Tiers.under(tmp_path / "w")).get_json("runs/test/errors/ingest.json")
    assert error["kind"] == "bad_input"
    assert not list((tmp_path / "w").rglob("manifests/*"))


def test_bad_input_is_refused_with_its_place(tmp_path):
    good = write(tmp_path, "good.conll", NER)
    cases = [
        ({"uri": str(tmp_path / "nowhere.conll")}, "no such file"),
        (write(tmp_path, "empty.conll", ""), r"empty\.conll: file is empty"),
        (write(tmp_path, "blank.conll", "\n \n\t\n"), r"blank\.conll|no rows"),
        (write(tmp_path, "thin.conll", "a\tO\nb\n"), r"thin\.conll:2: 1 columns"),
        (write(tmp_path, "wide.conll", "a\tO\nb\tO\tO\n"), r"wide\.conll:2: 3 columns"),
        (write(tmp_path, "scheme.conll", "a\tQ-X\n"), r"scheme\.conll:1: 'Q-X'"),
        (write(tmp_path, "latin.conll", b"a\tO\n\xe9\tO\n"), r"latin\.conll:2: byte 1"),
        ({"uri": "ftp://x/y.conll"}, "scheme 'ftp'"),
        ({"uri": "synthetic://ner/other"}, "is not known"),
    ]
    for entry, message in cases:
        refused(tmp_path, {**three(good), "train": entry}, message)
    foreign = write(tmp_path, "foreign.conll", "x\tO\n\ny\tB-ORG\n")
    refused(
        tmp_path, {**three(good), "test": foreign}, r"foreign\.conll:3: label 'ORG' of the test"
    )


def test_bad_tables_are_refused_with_their_place(tmp_path):
    good = write(tmp_path, "good.csv", csv_of(ROWS))
    bomb = gzip.compress(b"text,label\n" + (b"a" * 4000 + b",b\n") * 20_000)
    cases = [
        (write(tmp_path, "ragged.csv", "text,label\na,b\nc\n"), r"ragged\.csv:3: 1 cells"),
        (write(tmp_path, "quote.csv", 'text,label\n"a"b,c\n'), r"quote\.csv:2: not valid CSV"),
        (write(tmp_path, "open.csv", 'text,label\na,b\n"x,y\n'), r"open\.csv:3: "),
        (write(tmp_path, "twice.csv", "text,text\na,b\n"), r"twice\.csv:1: column 'text' occurs"),
        (write(tmp_path, "names.csv", "txet,label\na,b\n"), r"did you mean 'txet'"),
        (write(tmp_path, "nolabel.csv", "text,label\na,\n"), r"nolabel\.csv:2: label is empty"),
        (
            write(tmp_path, "bad.jsonl", '{"text": "a", "label": "b"}\n{"text"'),
            r"bad\.jsonl:2: not JSON",
        ),
        (
            write(tmp_path, "type.jsonl", '{"text": 3, "label": "b"}'),
            r"type\.jsonl:1: text is a number",
        ),
        (
            write(tmp_path, "gone.jsonl", '{"text": "a", "label": "b"}\n{"text": "a"}'),
            r"gone\.jsonl:2: label is missing",
        ),
        (write(tmp_path, "half.jsonl", '{"text": "\\ud800", "label": "b"}'), "half a surrogate"),
        (write(tmp_path, "nul.jsonl", '{"text": "\\u0000", "label": "b"}'), "NUL"),
        (write(tmp_path, "bomb.csv.gz", bomb), "decompression bomb"),
        (
            write(tmp_path, "cut.csv.gz", gzip.compress(csv_of(ROWS).encode())[:-9]),
            r"cut\.csv\.gz: damaged",
        ),
        (write(tmp_path, "fake.parquet", b"PAR1 no"), r"fake\.parquet: not a readable parquet"),
        (write(tmp_path, "what.bin", "x"), "format cannot be told"),
    ]
    for entry, message in cases:
        refused(tmp_path, {**three(good), "train": entry}, message, "text-classification")
    with pytest.raises(SpecError, match=r"data\.train"):
        ingest(tmp_path, {"train": {}}, "text-classification")


def test_symlinks_must_not_leave_the_folder(tmp_path):
    (tmp_path / "secret.jsonl").write_text('{"text": "a", "label": "b"}\n')
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "a.jsonl").symlink_to(tmp_path / "secret.jsonl")
    refused(tmp_path, three({"uri": str(folder)}), "symbolic link leaves", "text-classification")


def test_a_folder_of_shards_is_read_in_order_and_mixed_schemas_are_refused(tmp_path):
    folder = tmp_path / "shards"
    write(folder, "b.csv", csv_of(ROWS[30:]))
    write(folder, "a.csv", csv_of(ROWS[:30]))
    _, manifest = ingest(tmp_path, three({"uri": str(folder)}), "text-classification")
    _, whole = ingest(
        tmp_path, three(write(tmp_path, "d.csv", csv_of(ROWS))), "text-classification"
    )
    assert manifest["splits"] == whole["splits"]
    write(folder, "c.csv", "sentence_text,klass\na,b\n")
    refused(tmp_path, three({"uri": str(folder)}), r"c\.csv:2 has no column", "text-classification")


def test_images(tmp_path):
    from PIL import Image

    for label in ("left", "right"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for n in range(10):
            colour = (n * 20, 0 if label == "left" else 255, 9)
            Image.new("RGB", (700 if n == 0 else 20, 20), colour).save(
                tmp_path / "images" / label / f"{n}.png"
            )
    data = {
        "train": {"uri": str(tmp_path / "images")},
        "validation": {"fraction": 0.2},
        "test": {"fraction": 0.2},
    }
    folder, manifest = ingest(tmp_path, data, "image-classification", model={"config": "vit-tiny"})
    assert manifest["labels"] == ["left", "right"]
    split = load_split(folder, "train")
    assert split.rows == 12
    assert split.images[0][:4] == b"\x89PNG"
    cases = {"broken.png": b"\x89PNG\r\n\x1a\nnothing", "text.jpg": b"<script>", "empty.gif": b""}
    for name, body in cases.items():
        path = tmp_path / "images" / "left" / name
        path.write_bytes(body)
        refused(tmp_path, data, f"{name}: ", "image-classification", model={"config": "vit-tiny"})
        path.unlink()
    huge = tmp_path / "images" / "left" / "huge.png"
    Image.new("1", (20_000, 6_000)).save(huge)
    refused(
        tmp_path, data, "20000 x 6000 pixels", "image-classification", model={"config": "vit-tiny"}
    )


def test_the_synthetic_set_is_ingested_as_profiled(tmp_path):
    uris = {s: f"synthetic://ner/{s}?seed=17" for s in ("train", "validation", "test")}
    _, manifest = ingest(tmp_path, {s: {"uri": u} for s, u in uris.items()})
    for split, uri in uris.items():
        profile = synthetic.figures(synthetic.sentences(uri))
        assert manifest["splits"][split]["examples"] == profile["rows"]
        assert manifest["splits"][split]["words"] == profile["words"]
    assert manifest["source_scheme"] == "BIO2"


@needs_shared
def test_published_data_is_counted_right(tmp_path):
    wnut = SHARED / "data" / "wnut17"
    files = {
        "train": "wnut17train.conll",
        "validation": "emerging.dev.conll",
        "test": "emerging.test.annotated",
    }
    data = {s: {"uri": str(wnut / f)} for s, f in files.items()}
    _, manifest = ingest(tmp_path, {**data, "format": "conll"})
    found = {s: (p["examples"], p["words"]) for s, p in manifest["splits"].items()}
    assert found == {"train": (3394, 62730), "validation": (1009, 15733), "test": (1287, 23394)}
    assert sum(manifest["statistics"]["splits"]["test"]["label_counts"].values()) == 1079
    for name, message in (
        ("emerging.test.conll", "several labels"),
        ("emerging.test", "one column only"),
    ):
        refused(
            tmp_path / name, {**data, "test": {"uri": str(wnut / name)}, "format": "conll"}, message
        )
    clinc = {"uri": str(SHARED / "data" / "clinc150" / "data_full.json")}
    _, manifest = ingest(tmp_path, three(clinc), "text-classification")
    assert {s: p["rows"] for s, p in manifest["splits"].items()} == {
        "train": 15_100,
        "validation": 3_100,
        "test": 5_500,
    }
    assert len(manifest["labels"]) == 151
    tweets = SHARED / "data" / "twitter-financial-news"
    data = {
        "train": {"uri": str(tweets / "sent_train.csv")},
        "validation": {"fraction": 0.1},
        "test": {"uri": str(tweets / "sent_valid.csv")},
    }
    _, manifest = ingest(tmp_path, data, "text-classification")
    assert manifest["splits"]["train"]["rows"] + manifest["splits"]["validation"]["rows"] == 9543
    assert manifest["statistics"]["splits"]["test"]["label_counts"] == {
        "0": 347,
        "1": 475,
        "2": 1566,
    }


def test_sources_too_large_for_a_table_of_rows_are_drawn_by_hash(tmp_path, monkeypatch):
    rows = [{"text": f"unique text {n}", "label": str(n % 2)} for n in range(3000)]
    entry = write(tmp_path, "d.csv", csv_of([*rows, *rows[:50]]))
    data = {"train": entry, "validation": {"fraction": 0.1}, "test": {"fraction": 0.2}}
    monkeypatch.setattr("components.ingest.scan.KEPT_ROWS", 1000)
    _, manifest = ingest(tmp_path, data, "text-classification", seed=1)
    sizes = {split: part["rows"] for split, part in manifest["splits"].items()}
    assert sum(sizes.values()) == 3050
    assert 250 < sizes["validation"] < 370
    assert 520 < sizes["test"] < 700
    assert sum(manifest["statistics"]["rows_compared"].values()) == 1000
    monkeypatch.setattr("components.ingest.scan.KEPT_ROWS", 10_000)
    _, whole = ingest(tmp_path / "b", data, "text-classification", seed=1)
    assert whole["statistics"]["leakage"]["train/test"]["exact"] == 0
