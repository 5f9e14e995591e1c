"""Run an exported model: padding-free batches in, logits in the order of the input out.

    runner = Runner(Path("published/wnut17-ner/1"), device="cpu", threads=2)
    logits = runner.run([[101, 7592, 102], [101, 2088, 2003, 2307, 102]])
    runner.provider                      # what really ran: CPUExecutionProvider

For a tagger or language model `logits` has one row a token, sequences in a row (their offsets are
the cumulated lengths); for a classifier one row a sequence. Sequences are sorted by length and cut
into batches of a bounded number of padded tokens, so that little but real tokens is computed.

On CPU, `threads` batches run side by side on one thread each: no kernel waits for another thread.
One request alone uses all threads inside its kernels. On CUDA, inputs and outputs stay bound to
device memory and small batches replay captured graphs (see cuda_runner.py).

It never falls back silently: asking for a GPU where CUDA does not start is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.contract import DataError, StepError
from components.lib import onnx_graph
from components.lib.dataset import Split

EXPORT_VERSION = 1
PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}
# Padded tokens of one batch on one CPU thread: activations of a small encoder then stay in L2.
CPU_TOKEN_BUDGET = 512
GPU_TOKEN_BUDGET = 65_536
# What one more batch costs, in tokens: about 0.3 ms of dispatch against 10 us a token (MiniLM).
CALL_COST_TOKENS = 32
IMAGE_BATCH = 32
DTYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32,
          "tensor(float16)": np.float16}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """Token ids of many sequences in a row; sequence i is ``input_ids[offsets[i]:offsets[i+1]]``.
    `token_type_ids` is flat alike, None where all are 0."""

    input_ids: NDArray[np.integer]
    offsets: NDArray[np.integer]
    token_type_ids: NDArray[np.integer] | None = None

    @classmethod
    def of(cls, value: Any) -> Sequences:
        """Accept a list of id lists, a dataset `Split`, or `Sequences`."""
        if isinstance(value, cls):
            return value
        if hasattr(value, "offsets"):
            types = value.columns.get("token_type_ids")
            return cls(input_ids=value.input_ids, offsets=value.offsets, token_type_ids=types)
        lengths = [len(ids) for ids in value]
        flat = np.concatenate([np.asarray(ids, np.int64) for ids in value]) if lengths else []
        return cls(input_ids=np.asarray(flat, np.int64), offsets=np.append(0, np.cumsum(lengths)))

    @property
    def lengths(self) -> NDArray[np.integer]:
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def padded(self, rows: NDArray[Any], pad_token_id: int) -> dict[str, NDArray[Any]]:
        """Lay `rows` out as (rows, longest) arrays, padded on the right."""
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        position = np.arange(int(lengths.max()))
        mask = position < lengths[:, None]
        index = np.where(mask, starts[:, None] + position, starts[:, None])
        ids = np.where(mask, self.input_ids[index], pad_token_id)
        types = self.token_type_ids
        segments = np.zeros_like(ids) if types is None else np.where(mask, types[index], 0)
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}


def plan_batches(
    lengths: NDArray[np.integer], *, token_budget: int, max_batch: int = 1024
) -> list[NDArray[np.integer]]:
    """Cut sequences into batches of similar length, longest first.

    The cuts minimise padded tokens plus a fixed cost a batch, over all ways to cut the sorted list
    (dynamic programming from its end).

    Args:
        lengths: tokens of each sequence.
        token_budget: most padded tokens in a batch (one sequence may exceed it).
        max_batch: most sequences in a batch.

    Returns:
        Row numbers of each batch; every row occurs exactly once.
    """
    order = np.argsort(-lengths, kind="stable")
    ordered = lengths[order]
    count = len(order)
    best = np.full(count + 1, np.inf)
    best[count] = 0.0
    cut = np.zeros(count + 1, dtype=np.int64)
    for start in range(count - 1, -1, -1):
        width = max(int(ordered[start]), 1)
        most = min(max(1, token_budget // width), max_batch, count - start)
        ends = np.arange(start + 1, start + most + 1)
        cost = CALL_COST_TOKENS + (ends - start) * width + best[ends]
        choice = int(np.argmin(cost))
        best[start], cut[start] = cost[choice], ends[choice]
    batches, start = [], 0
    while start < count:
        batches.append(order[start : cut[start]])
        start = int(cut[start])
    return batches


def open_session(path: Path, *, provider: str, threads: int, options: dict[str, Any] | None = None):  # noqa: ANN201
    """Open the graph at `path` on `provider` and on nothing else.

    Raises:
        DataError: the file is missing, corrupted, or needs a newer runtime.
        StepError: the provider does not start here.
    """
    import onnxruntime as ort

    if provider == PROVIDERS["gpu"]:
        _preload_cuda(ort)
    if provider not in ort.get_available_providers():
        raise StepError(
            f"{provider} is not in this onnxruntime ({', '.join(ort.get_available_providers())})",
            remedy="install onnxruntime-gpu, alone, or evaluate on the CPU",
        )
    if not path.is_file():
        raise DataError(f"{path}: no ONNX file", remedy="run export again")
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.log_severity_level = 3
    if provider != PROVIDERS["cpu"]:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(str(path), settings, providers=[(provider, options or {})])
    except Exception as error:  # onnxruntime has a class a status code, all bare Exceptions
        raise _explain(path, provider, error) from error
    if session.get_providers()[0] != provider:
        raise StepError(
            f"asked for {provider}, got {session.get_providers()[0]}",
            remedy="check the GPU driver, CUDA 13 and cuDNN 9, or evaluate on the CPU",
        )
    return session


def _preload_cuda(ort: Any) -> None:
    """Load CUDA and cuDNN from the nvidia wheels, if they are there (onnxruntime does not search
    them by itself)."""
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


def _explain(path: Path, provider: str, error: Exception) -> Exception:
    text = str(error).splitlines()[0]
    if "opset" in text.lower() or "Unsupported model IR version" in text:
        import onnxruntime as ort

        return DataError(
            f"{path}: onnxruntime {ort.__version__} is too old for this graph: {text}",
            remedy=f"upgrade onnxruntime, or export with opset {onnx_graph.OPSET}",
        )
    if "is not a registered function/op" in text or "No Op registered" in text:
        return DataError(
            f"{path}: this runtime lacks an operator of the graph: {text}",
            remedy="serve with the onnxruntime that exported it",
        )
    if provider == PROVIDERS["cpu"]:
        return DataError(f"{path}: corrupted ONNX file: {text}", remedy="run export again")
    return StepError(f"{path}: cannot run on {provider}: {text}", remedy="export for this device")


def read_export(folder: Path) -> dict[str, Any]:
    """Return export.json of an exported or published model.

    Raises:
        DataError: missing, not JSON or of another version.
    """
    path = folder / "export.json"
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not an exported model: {error}") from error
    if document.get("schema_version") != EXPORT_VERSION:
        raise DataError(f"{path}: schema_version {document.get('schema_version')!r} is unknown")
    return document


class Runner:
    """An exported model, ready to run. Not to be shared between processes."""

    def __init__(
        self,
        folder: Path,
        device: str = "cpu",
        threads: int = 2,
        *,
        token_budget: int | None = None,
        max_batch: int = 1024,
    ) -> None:
        """Open the model in `folder` (an onnx artifact: model.onnx and export.json).

        Args:
            folder: where model.onnx and export.json are.
            device: ``cpu`` or ``gpu``.
            threads: CPU threads to use.
            token_budget: padded tokens of one batch; None takes the device's default.
            max_batch: sequences of one batch.

        Raises:
            DataError: the folder, the graph or its version is bad.
            StepError: the device is not there.
        """
        self.info = read_export(folder)
        self.folder, self.device, self.threads = folder, device, threads
        self.max_length = int(self.info["max_length"])
        self.image_size = int(self.info.get("image_size") or 0)
        self.per_token = self.info["output"] == "token"
        self.token_budget = (
            token_budget or {"cpu": CPU_TOKEN_BUDGET, "gpu": GPU_TOKEN_BUDGET}[device]
        )
        self.max_batch = max_batch
        self._path = folder / "model.onnx"
        # All threads inside one request; opened first, so that a bad file fails here.
        self._single = open_session(self._path, provider=PROVIDERS[device], threads=threads)
        self._side_by_side: Any = None
        self._dtypes = {i.name: DTYPES[i.type] for i in self._single.get_inputs()}
        self._output = self._single.get_outputs()[0].name

    @property
    def provider(self) -> str:
        """The execution provider that runs the graph."""
        return str(self._single.get_providers()[0])

    def run(self, sequences: Any) -> NDArray[np.floating]:
        """Return the logits of all sequences, in input order.

        Args:
            sequences: id lists, a dataset split or `Sequences`.

        Returns:
            (tokens, labels) for token-level tasks, sequences in a row; else (sequences, labels).

        Raises:
            DataError: a sequence is empty or longer than the model takes.
        """
        result: Any = None
        offsets = (
            sequences.offsets if self.image_size else (batch := Sequences.of(sequences)).offsets
        )
        for rows, logits in self.iterate(sequences if self.image_size else batch):
            if result is None:
                total = int(offsets[-1]) if self.per_token else len(offsets) - 1
                result = np.empty((total, logits.shape[-1]), dtype=np.float32)
            if self.per_token:
                for position, row in enumerate(rows):
                    start, end = offsets[row], offsets[row + 1]
                    result[start:end] = logits[position, : end - start]
            else:
                result[rows] = logits
        return np.empty((0, 0), np.float32) if result is None else result

    def iterate(self, sequences: Any) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Yield (row numbers, padded logits) batch by batch: bounded memory for wide outputs."""
        if self.image_size:
            plan = np.array_split(np.arange(sequences.rows), -(-sequences.rows // IMAGE_BATCH))
            feed = lambda rows: self._pixels(sequences, rows)  # noqa: E731
        else:
            batch = Sequences.of(sequences)
            self.check(batch.lengths)
            plan = self.plan(batch.lengths)
            feed = lambda rows: self.feed(batch, rows)  # noqa: E731
        if self.device != "cpu" or self.threads == 1 or len(plan) == 1:
            for rows in plan:
                yield rows, self._call(self._single, feed(rows))
            return
        if self._side_by_side is None:
            self._side_by_side = open_session(self._path, provider=PROVIDERS["cpu"], threads=1)
        session = self._side_by_side

        def work(rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
            return rows, self._call(session, feed(rows))

        with ThreadPoolExecutor(self.threads) as pool:
            yield from pool.map(work, plan)

    def run_one(
        self, ids: Sequence[int] | NDArray[Any], types: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Return the logits of one request: (tokens, labels) or (labels,). Uses all threads."""
        row = np.asarray(ids)[None]
        segments = np.zeros_like(row) if types is None else types[None]
        arrays = {
            "input_ids": row,
            "attention_mask": np.ones_like(row),
            "token_type_ids": segments,
        }
        return self._call(self._single, self._typed(arrays))[0]

    def run_row(self, split: Split, row: int) -> NDArray[Any]:
        """Return the logits of one row of a data set, as one request."""
        if self.image_size:
            return self._call(self._single, self._pixels(split, np.array([row])))[0]
        types = split.columns.get("token_type_ids")
        start, end = split.offsets[row], split.offsets[row + 1]
        return self.run_one(split.input_ids[start:end], None if types is None else types[start:end])

    def padding_ratio(self, split: Any) -> float:
        """Padded over real tokens of the batches that `run` makes of `split`."""
        if self.image_size:
            return 1.0
        lengths = Sequences.of(split).lengths
        padded = sum(len(rows) * int(lengths[rows].max()) for rows in self.plan(lengths))
        return padded / max(int(lengths.sum()), 1)

    def plan(self, lengths: NDArray[np.integer]) -> list[NDArray[np.integer]]:
        """Return the batches that sequences of these lengths run in."""
        return plan_batches(lengths, token_budget=self.token_budget, max_batch=self.max_batch)

    def check(self, lengths: NDArray[np.integer]) -> None:
        """Refuse sequences the graph was not made for.

        Raises:
            DataError: names the first row that is too long or empty.
        """
        bad = np.flatnonzero((lengths > self.max_length) | (lengths < 1))
        if len(bad):
            row = int(bad[0])
            raise DataError(
                f"sequence {row} has {int(lengths[row])} tokens; the exported model takes 1 to "
                f"{self.max_length}",
                remedy="truncate it, or export with a larger training.max_length",
            )

    def feed(self, batch: Sequences, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Lay `rows` out as the graph's input arrays."""
        return self._typed(batch.padded(rows, self.info["pad_token_id"]))

    def _pixels(self, split: Split, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
        from components.lib.images import pixels

        return self._typed({"pixel_values": pixels(split, rows, self.image_size)})

    def _typed(self, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {name: arrays[name].astype(kind, copy=False) for name, kind in self._dtypes.items()}

    def _call(self, session: Any, feed: dict[str, NDArray[Any]]) -> NDArray[Any]:
        return session.run([self._output], feed)[0]
