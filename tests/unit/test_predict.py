"""predict.py, the program in every published folder: what it reads and what it refuses."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import onnx
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from components.export import encoder
from components.lib import onnx_graph
from components.publish import predict
from tests.unit.test_export_encoder import LABELS, make

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "jane", "lives", "in", "oslo", "[", "]"]
MAX_LENGTH = 16


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as publish lays it out, with a random classifier."""
    folder = tmp_path_factory.mktemp("published")
    task = "text-classification"
    onnx_graph.save(encoder.build(make(task), task, MAX_LENGTH), folder / "model.onnx")
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.save(str(folder / "tokenizer.json"))
    (folder / "labels.json").write_text(json.dumps(LABELS))
    info = {"task": task, "max_length": MAX_LENGTH, "pad_token_id": 0, "output": "sequence"}
    (folder / "export.json").write_text(json.dumps({**info, "opset": 17}))
    return folder


def run(folder: Path, text: str, monkeypatch, capsys) -> list[dict]:
    """Run the program on `text` and return what it prints."""
    monkeypatch.setattr(predict, "HERE", folder)
    monkeypatch.setattr(predict.Predictor.__init__, "__defaults__",
                        (folder, 1, ("CPUExecutionProvider",)))  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["predict.py"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    predict.main()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    "line, read",
    [
        ("jane lives in oslo", "jane lives in oslo"),
        ('["jane", "lives"]', ["jane", "lives"]),
        ("[breaking] oslo lives", "[breaking] oslo lives"),
        ("[2026] oslo", "[2026] oslo"),
        ("[1, 2]", "[1, 2]"),
    ],
)
def test_lines(line: str, read: object):
    assert predict.parse(line) == read


def test_a_result_a_line_whatever_the_line(published: Path, monkeypatch, capsys):
    text = "jane lives in oslo\n[oslo] lives\n\n" + "jane " * 100 + "\n"
    rows = run(published, text, monkeypatch, capsys)
    assert len(rows) == 3
    assert {row["label"] for row in rows} <= set(LABELS)
    alone = run(published, "[oslo] lives\n", monkeypatch, capsys)
    assert alone[0]["score"] == pytest.approx(rows[1]["score"], abs=1e-5)


def test_a_damaged_model_is_an_error_and_no_traceback(
    tmp_path: Path, published: Path, monkeypatch, capsys
):
    folder = tmp_path / "damaged"
    shutil.copytree(published, folder)
    whole = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit, match=r"error: .*model\.onnx: .*SHA256SUMS"):
        run(folder, "jane\n", monkeypatch, capsys)


def test_a_runtime_too_old_says_so(tmp_path: Path, published: Path, monkeypatch, capsys):
    folder = tmp_path / "new"
    shutil.copytree(published, folder)
    model = onnx.load(folder / "model.onnx")
    model.opset_import[0].version = 999
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(SystemExit, match=r"onnxruntime [\d.]+ cannot open it.*knows opset 17"):
        run(folder, "jane\n", monkeypatch, capsys)


def test_longer_than_the_export_is_refused(published: Path):
    made = predict.Predictor(published, threads=1)
    with pytest.raises(ValueError, match="sequence 1 has 17 tokens; the model takes 1 to 16"):
        made.logits([[5], [5] * 17])
