"""Ways to run one tuned encoder on this CPU: PyTorch, other people's exports, and ours.

A route is a function from feeds (padded int64 arrays by input name) to logits, one array a feed.
"""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.contract import IGNORED_LABEL
from components.export import encoder, parity, quantise, smooth, torchscript
from components.lib import calibrate, fusion, onnx_graph
from components.lib.dataset import Split, load_split, read_manifest
from components.lib.modelling import load_model, read_info
from components.lib.sequences import Sequences
from components.lib.sessions import DTYPES, PROVIDERS, open_session

Feed = dict[str, np.ndarray]
Run = Callable[[Sequence[Feed]], list[np.ndarray]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One way to run the model. `size_bytes` is that of its weights on disk."""

    name: str
    run: Run
    size_bytes: int
    peer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A tuned model and its data."""

    name: str
    task: str
    labels: list[str]
    model: Path
    dataset: Path
    max_length: int
    pad_token_id: int

    @classmethod
    def load(cls, name: str, model: Path, dataset: Path, pad_token_id: int) -> Subject:
        manifest = read_manifest(dataset)
        return cls(
            name=name,
            task=manifest["task"],
            labels=manifest["labels"],
            model=model,
            dataset=dataset,
            max_length=manifest["max_length"],
            pad_token_id=pad_token_id,
        )

    def split(self, name: str) -> Split:
        return load_split(self.dataset, name)

    def feeds(self, split: Split, batches: Sequence[np.ndarray]) -> list[Feed]:
        """Lay rows out as padded arrays."""
        flat = Sequences.of(split)
        made = []
        for rows in batches:
            arrays = flat.padded(rows, self.pad_token_id)
            made.append({n: arrays[n].astype(np.int64) for n in ("input_ids", "attention_mask")})
        return made

    def torch_model(self, attention: str) -> Any:
        return load_model(self.model, self.task, attention=attention).eval()


def torch_route(subject: Subject, threads: int, *, compiled: bool) -> Route:
    """PyTorch fp32 as people serve it: transformers' default attention, no gradients."""
    import torch

    torch.set_num_threads(threads)
    model = subject.torch_model("sdpa")
    size = (subject.model / "model.safetensors").stat().st_size
    call = torch.compile(model, dynamic=True) if compiled else model

    def run(feeds: Sequence[Feed]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [
                call(**{n: torch.from_numpy(a) for n, a in feed.items()}).logits.numpy()
                for feed in feeds
            ]

    name = "torch.compile fp32" if compiled else "pytorch eager fp32"
    return Route(name=name, run=run, size_bytes=size, peer=True)


def session_route(
    name: str, path: Path, threads: int, *, peer: bool, side_by_side: bool = False
) -> Route:
    """An ONNX file on ONNX Runtime: all threads inside a call, or, as `Runner` does, calls side by
    side on one thread each, and all threads inside a call that is alone."""
    whole = open_session(path, provider=PROVIDERS["cpu"], threads=threads)
    kinds = {item.name: DTYPES[item.type] for item in whole.get_inputs()}

    def call(session: Any, feed: Feed) -> np.ndarray:
        return session.run(None, {n: feed[n].astype(k, copy=False) for n, k in kinds.items()})[0]

    def in_turn(feeds: Sequence[Feed]) -> list[np.ndarray]:
        return [call(whole, feed) for feed in feeds]

    def together(feeds: Sequence[Feed]) -> list[np.ndarray]:
        if len(feeds) == 1:
            return in_turn(feeds)
        return list(pool.map(lambda feed: call(narrow, feed), feeds))

    if side_by_side:
        narrow = open_session(path, provider=PROVIDERS["cpu"], threads=1)
        pool = ThreadPoolExecutor(threads)
    run: Run = together if side_by_side else in_turn
    size = sum(p.stat().st_size for p in path.parent.glob(f"{path.name}*"))
    return Route(name=name, run=run, size_bytes=size, peer=peer)


def our_graphs(subject: Subject, folder: Path) -> dict[str, Path]:
    """Write our graphs; returns their files by variant."""
    model = subject.torch_model("eager")
    graph = encoder.build(model, subject.task, subject.max_length)
    train = subject.split("train")
    rows = calibrate.calibration_rows(train.lengths)
    rows = rows[np.argsort(train.lengths[rows], kind="stable")]
    feeds = subject.feeds(train, np.array_split(rows, 16))
    even = smooth.smooth(graph, calibrate.observe(graph, quantise.activations(graph), feeds))
    ranges = calibrate.ranges(even, quantise.activations(even), feeds)
    bits = int(read_info(subject.model).get("table_bits", 8))
    made = {
        "fp32": graph,
        "int8": quantise.int8(even, table_bits=bits),
        "int8-static": quantise.int8(even, ranges, table_bits=bits),
    }
    paths = {}
    for name, value in made.items():
        paths[name] = folder / f"ours-{name}.onnx"
        onnx_graph.save(value, paths[name])
    return paths


def stock_graphs(subject: Subject, folder: Path) -> dict[str, Path]:
    """ONNX Runtime's documented route: trace, its transformer optimizer, quantize_dynamic."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = subject.torch_model("eager")
    plain, fused, small = (folder / f"stock-{n}.onnx" for n in ("plain", "fp32", "int8"))
    torchscript.trace(model, subject.task, plain)
    config = model.config
    fusion.fuse(
        plain,
        fused,
        model_type=config.model_type,
        heads=config.num_attention_heads,
        hidden=config.hidden_size,
        gpu=False,
    )
    logging.getLogger().setLevel(logging.ERROR)
    # Without the com.microsoft import the quantizer's shape inference refuses the fused graph.
    whole = onnx_graph.load(fused)
    if onnx_graph.MICROSOFT not in {item.domain for item in whole.opset_import}:
        whole.opset_import.append(onnx.helper.make_opsetid(onnx_graph.MICROSOFT, 1))
        onnx_graph.save(whole, fused)
    extra = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    quantize_dynamic(str(fused), str(small), weight_type=QuantType.QInt8, extra_options=extra)
    return {"fp32": fused, "int8": small}


def exporter_graphs(subject: Subject, folder: Path) -> dict[str, Path]:
    """transformers.exporters with its fusions for the CPU, plain and with its dynamic int8."""
    import torch
    from transformers.exporters import (
        OnnxConfig,
        OnnxExporter,
        OnnxRuntimeDynamicConfig,
        OnnxRuntimeQuantizer,
    )

    lengths = torch.tensor([[12], [9]])
    mask = (torch.arange(12) < lengths).long()
    inputs = {"input_ids": torch.randint(1000, 2000, (2, 12)), "attention_mask": mask}
    paths = {}
    for name in ("fp32", "int8"):
        # Fusions and quantizer in one configuration; eager attention is what its fusions match.
        quantizer = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig()) if name == "int8" else None
        config = OnnxConfig(dynamic=True, ort_fusions="cpu", quantizer=quantizer)
        exported = OnnxExporter().export(subject.torch_model("eager"), inputs, config=config)
        target = folder / f"exporters-{name}"
        exported.save_pretrained(target)
        paths[name] = next(target.glob("*.onnx"))
    return paths


def olive_graph(subject: Subject, folder: Path, python: Path) -> Path:
    """Olive's route for an encoder on a CPU (`olive optimize --precision int8`), in the environment
    that `python` belongs to."""
    output = folder / "olive"
    model = folder / "olive-model"
    subject.torch_model("eager").save_pretrained(model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).write_bytes((subject.model / name).read_bytes())
    command = [
        *(str(python.absolute()), "-m", "olive", "optimize", "--model_name_or_path", str(model)),
        *("--task", subject.task, "--precision", "int8", "--provider", "CPUExecutionProvider"),
        *("--output_path", str(output)),
    ]
    done = subprocess.run(  # it leaves a cache where it runs
        command, cwd=folder, capture_output=True, text=True, timeout=540, check=False
    )
    files = sorted(output.rglob("*.onnx"))
    if not files:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise RuntimeError("olive made no model: " + " | ".join(lines[-3:])[:400])
    return files[0]


def score(subject: Subject, split: Split, logits: list[np.ndarray], batches: Any) -> float:
    """Return the main metric (entity F1 or accuracy) of logits that came batch by batch."""
    from components.lib import metrics
    from components.lib.quality import tagged_words

    if subject.task == "text-classification":
        predicted = np.empty(split.rows, dtype=int)
        for rows, values in zip(batches, logits, strict=True):
            predicted[rows] = values.argmax(axis=1)
        return metrics.accuracy(split.columns["label"], predicted)
    predicted = np.empty(split.tokens, dtype=int)
    for rows, values in zip(batches, logits, strict=True):
        for position, row in enumerate(rows):
            start, end = split.offsets[row], split.offsets[row + 1]
            predicted[start:end] = values[position, : end - start].argmax(axis=1)
    scored, starts = tagged_words(split)
    assert (split.columns["labels"][scored] != IGNORED_LABEL).all()
    true = split.columns["labels"][scored]
    return metrics.entity_score(true, predicted[scored], starts, subject.labels).f1


def largest_difference(
    logits: list[np.ndarray], reference: list[np.ndarray], feeds: list[Feed], per_token: bool
) -> float:
    """Return the largest difference of a real token's logit."""
    pairs = zip(logits, reference, feeds, strict=True)
    real = parity.real
    return max(
        float(np.abs(real(a, f, per_token) - real(b, f, per_token)).max()) for a, b, f in pairs
    )


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
