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
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.contract import DataError
from components.lib import cuda_runner
from components.lib.dataset import Split
from components.lib.sequences import Sequences, plan_batches
from components.lib.sessions import DTYPES, PROVIDERS, open_session, read_export

# Largest difference of a packed graph's logits from the padded graph's, over their spread (fp16).
PACKED_TOLERANCE = 5e-2
PACKED_FILE = "packed.onnx"
# Padded over real tokens above which removing the padding on the device pays for itself.
PACKING_PAYS = 1.05
# Padded tokens of one batch on one CPU thread: activations of a small encoder then stay in L2.
CPU_TOKEN_BUDGET = 512
GPU_TOKEN_BUDGET = 65_536
IMAGE_BATCH = 32


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
        options = cuda_runner.OPTIONS if device == "gpu" else None
        # All threads inside one request; opened first, so that a bad file fails here.
        self._single = open_session(
            self._path, provider=PROVIDERS[device], threads=threads, options=options
        )
        self._side_by_side: Any = None
        self._packed: Any = None
        self._dtypes = {i.name: DTYPES[i.type] for i in self._single.get_inputs()}
        self._output = self._single.get_outputs()[0].name
        self._cuda = self._cuda_calls(self._single) if device == "gpu" else None
        self.notes: list[str] = []

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
                arrays = feed(rows)
                packed = self._packed_for(arrays)
                yield (
                    rows,
                    packed.unrecorded(arrays) if packed else self._call(self._single, arrays),
                )
            return
        if self._side_by_side is None:
            self._side_by_side = open_session(self._path, provider=PROVIDERS["cpu"], threads=1)
        session = self._side_by_side

        def work(rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
            return rows, self._call(session, feed(rows))

        with ThreadPoolExecutor(self.threads) as pool:
            ahead = deque(pool.submit(work, rows) for rows in plan[: 2 * self.threads])
            for rows in plan[2 * self.threads :]:  # bounded: logits of a language model are wide
                yield ahead.popleft().result()
                ahead.append(pool.submit(work, rows))
            while ahead:
                yield ahead.popleft().result()

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
        if self._cuda is not None:
            return self._cuda.call(feed)
        return session.run([self._output], feed)[0]

    def _cuda_calls(self, session: Any) -> cuda_runner.CudaCalls:
        shape = session.get_outputs()[0].shape
        labels = shape[-1] if isinstance(shape[-1], int) else len(self._labels())
        return cuda_runner.CudaCalls(
            session, max_length=self.max_length, labels=labels, per_token=self.per_token
        )

    def _labels(self) -> list[str]:
        return json.loads((self.folder / "labels.json").read_text()) or [""]

    def _packed_for(self, feed: dict[str, NDArray[Any]]) -> cuda_runner.CudaCalls | None:
        """Return the graph without padding when this batch has enough of it and, compared on the
        first such batch, both graphs agree."""
        path = self.folder / PACKED_FILE
        if self.device != "gpu" or self._packed is False or not path.is_file():
            return None
        mask = feed["attention_mask"]
        if mask.size < PACKING_PAYS * mask.sum():
            return None
        if self._packed is None:
            self._packed = self._try_packed(path, feed)
        return self._packed or None

    def _try_packed(self, path: Path, feed: dict[str, NDArray[Any]]) -> Any:
        session = open_session(path, provider=PROVIDERS["gpu"], threads=self.threads)
        calls = self._cuda_calls(session)
        real = feed["attention_mask"].astype(bool) if self.per_token else ...
        expected, found = self._call(self._single, feed)[real], calls.unrecorded(feed)[real]
        difference = float(np.abs(expected - found).max())
        if difference <= PACKED_TOLERANCE * float(expected.std()):
            return calls
        self.notes.append(f"packed graph dropped: logits differ by {difference:.2e}")
        return False
