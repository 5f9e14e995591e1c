"""Every file of the public bad-input collections gives right data or a clear error."""

from __future__ import annotations

import csv
import json
import os
import re

import pytest

from components.contract import DataError, SpecError, SuanliError
from components.ingest.readers.json_rows import parse, read_json
from components.ingest.readers.tabular import read_cells
from components.ingest.scan import scan
from components.lib.dataset import load_split
from tests.ingesting import ingest, write
from tests.support import SHARED, needs_shared

JSON = sorted((SHARED / "data/badinput-jsontestsuite").glob("*/*.json"))
CSV = sorted((SHARED / "data/badinput-csv-spectrum/csvs").glob("*.csv"))
OTHERS = sorted((SHARED / "data/badinput-blns").glob("blns*"))
# Through the whole step goes one file, and one name, in so many; `make soak` takes all.
FULL = bool(os.environ.get("SUANLI_FULL_BADINPUT"))
pytestmark = needs_shared


def test_the_collections_are_there():
    assert len(JSON) == 340
    assert len(CSV) == 12
    assert len(OTHERS) == 4


@pytest.mark.parametrize("path", JSON, ids=lambda p: p.name)
def test_json_documents(path):
    """y_ must parse, n_ must be refused; none may crash, whatever rows they hold."""
    body = path.read_bytes()
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = None
    if text is not None and path.name[:2] in ("y_", "n_") and not body.startswith(b"\xef\xbb\xbf"):
        if path.name.startswith("y_"):
            assert parse(text, path, 1) == json.loads(text)
        else:
            with pytest.raises(SuanliError, match=re.escape(path.name)):
                parse(text, path, 1)
    # As a source it is no classification data: always a clear error.
    with pytest.raises(SuanliError) as caught:
        scan(
            "text-classification",
            ((path, e) for e in read_json(path, "text-classification", {}, "train")),
        )
    assert caught.value.exit_code == 2
    assert str(caught.value)


@pytest.mark.parametrize("name", ["json", "jsonl"])
@pytest.mark.parametrize("path", JSON[:: 1 if FULL else 8], ids=lambda p: p.name)
def test_json_files_through_the_whole_step(path, name, tmp_path):
    """None of them is classification data, as a document or as lines."""
    refused(path, name, tmp_path)


@pytest.mark.parametrize("name", ["conll", "csv", "tsv", "json", "jsonl", "parquet", "arrow"])
@pytest.mark.parametrize("path", OTHERS, ids=lambda p: p.name)
def test_naughty_files_through_the_whole_step(path, name, tmp_path):
    """Files that are nothing of the kind they are said to be."""
    refused(path, name, tmp_path)


def refused(path, name, tmp_path):
    entry = write(tmp_path / "data", f"d.{name}", path.read_bytes())
    before = set(tmp_path.iterdir()) | {tmp_path / "w"}
    task = "token-classification" if name == "conll" else "text-classification"
    with pytest.raises(SuanliError) as caught:
        ingest(tmp_path / "w", dict.fromkeys(("train", "validation", "test"), entry), task)
    assert caught.value.exit_code == 2
    assert str(caught.value)
    assert set(tmp_path.iterdir()) <= before


@pytest.mark.parametrize("path", CSV, ids=lambda p: p.name)
def test_csv_spectrum_is_read_right(path):
    expected = json.loads((path.parents[1] / "json" / f"{path.stem}.json").read_text())
    if isinstance(expected, dict):  # one row; its file names another telephone number upstream
        expected = [{**expected, "Contact Phone Number": "2095257564"}]
    cells = [row for _, row in read_cells(path, tabs=False)]
    found = [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]
    assert [{k: v.replace("\r\n", "\n") for k, v in row.items()} for row in found] == [
        {k: v.replace("\r\n", "\n") for k, v in row.items()} for row in expected
    ]


@pytest.fixture(scope="module")
def naughty():
    return json.loads((SHARED / "data/badinput-blns/blns.json").read_text())


def usable(text):
    """What a CoNLL column can hold at all."""
    return text.strip(" \t\r\n") and not set(text) & set("\t\n\r\0")


def test_naughty_strings_as_words(naughty, tmp_path):
    words = [word.strip(" ") for word in naughty if usable(word)]
    text = "".join(f"{word}\tB-X\nplain\tO\n\n" for word in words)
    entry = write(tmp_path, "d.conll", text)
    folder, manifest = ingest(tmp_path, {"train": entry, "validation": entry, "test": entry})
    # A comment mark at the start of a sentence is the only thing that may be left out.
    assert manifest["splits"]["train"]["words"] == 2 * len(words)
    labels = load_split(folder, "train").columns["labels"]
    assert (labels == 1).sum() == len(words)
    assert (labels == 0).sum() == len(words)


def test_naughty_strings_as_texts_and_labels(naughty, tmp_path):
    texts = [text for text in naughty if "\0" not in text]
    rows = [{"text": text, "label": text.strip() or "blank"} for text in texts]
    body = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    entry = write(tmp_path, "d.jsonl", body)
    data = {"train": entry, "validation": entry, "test": entry}
    folder, manifest = ingest(tmp_path, data, "text-classification")
    labels = [manifest["labels"][n] for n in load_split(folder, "train").columns["label"]]
    assert labels == [row["label"] for row in rows]
    card = (folder / "dataset-card.md").read_text()
    assert "<script" not in card.replace("\\<script", "")


def test_naughty_strings_as_csv(naughty, tmp_path):
    texts = [text for text in naughty if "\0" not in text]
    path = tmp_path / "d.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows((text, str(n % 3)) for n, text in enumerate(texts))
    data = {s: {"uri": str(path)} for s in ("train", "validation", "test")}
    _, manifest = ingest(tmp_path, data, "text-classification")
    assert manifest["splits"]["train"]["rows"] == len(texts)


@pytest.mark.parametrize("first", range(23) if FULL else [0])
def test_naughty_strings_as_column_and_file_names(naughty, tmp_path, first):
    inside = tmp_path / "inside"
    before = set(tmp_path.iterdir()) | {inside}
    for number, name in enumerate(naughty[first::23]):
        file = name.replace("/", "_").replace("\0", "_")[:60] or "x"
        if len(file.encode()) > 200 or file in (".", ".."):
            continue
        entry = write(inside, f"{number}-{file}.jsonl", json.dumps({"text": "a", name: "b"}) + "\n")
        data = {**dict.fromkeys(("train", "validation", "test"), entry), "columns": {"label": name}}
        try:
            _, manifest = ingest(inside / "w", data, "text-classification")
        except (DataError, SpecError):
            continue  # both leave with exit code 2
        else:
            assert manifest["labels"] == ["b"]
            assert "/" not in manifest["sources"][0]["uri"]
    assert set(tmp_path.iterdir()) == before
