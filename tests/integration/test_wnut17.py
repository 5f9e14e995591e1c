"""The real data set from raw files to a published model that plain ONNX Runtime scores the same."""

import json
from pathlib import Path

import pytest
import yaml

from tests.published import entity_f1, read_conll
from tests.support import SHARED, needs_shared, suanli

# Variants of the spec's `auto` but the pruning search, which benchmarks/wnut17.py runs: it takes as
# long as all the rest, and smaller flows test it.
VARIANTS = ["fp32", "int8", "embed4+int8-static"]
# Arithmetic of one sentence and of a batch may differ in the last bit; plain `int8` scales
# activations by the batch they run in, so one sentence at a time rounds some predictions otherwise.
TOLERANCE, BY_BATCH_TOLERANCE = 0.002, 0.01


@needs_shared
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_wnut17(tmp_path: Path) -> None:
    """At the spec's four epochs; the bar of 0.42 is a mean of three seeds (benchmarks/wnut17.py),
    so one seed is held to 0.40."""
    source = SHARED / "specs" / "wnut17.yaml"
    document = yaml.safe_load(source.read_text())
    for split in ("train", "validation", "test"):
        document["data"][split]["uri"] = str(source.parent / document["data"][split]["uri"])
    document["compression"]["variants"] = VARIANTS
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(document))
    done = suanli("run", spec, "--workdir", tmp_path, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    [folder] = (tmp_path / "wnut17-ner").iterdir()
    report = json.loads((folder / "report.json").read_text())
    quality = report["quality"]
    sentences = read_conll(SHARED / "data" / "wnut17" / "emerging.test.annotated")
    score = entity_f1(folder / report["artifacts"]["model"], sentences)
    print(f"tuned {quality['tuned']:.4f}, selected {quality['selected']:.4f}, again {score:.4f}")
    assert quality["tuned"] >= 0.40
    assert quality["tuned"] - quality["selected"] <= 0.02
    by_batch = report["selected"].rpartition("+")[2] == "int8"
    tolerance = BY_BATCH_TOLERANCE if by_batch else TOLERANCE
    assert score == pytest.approx(quality["selected"], abs=tolerance)
    averages = ("micro avg", "macro avg", "weighted avg")
    table = report["classification_report"]
    supports = sum(row["support"] for label, row in table.items() if label not in averages)
    assert supports == sum(len(words) for words, _ in sentences)
