"""Read a dataset while it still arrives.

A `Stager` brings the shards of a dataset from whatever tier holds them, a few ahead, and lays their
columns into flat files at the places that the index gives them (`shard_index`). Readers in other
processes map those files at once and wait, through `Arrivals`, only for the shards whose rows they
are about to use. When all have come, the files are the whole dataset, mapped, and the hot tier
holds the artifact.

Below ``<dataset>/.stream``: ``<split>/<column>.npy``; ``<split>/ready-<n>`` once shard n is in
them; ``alive``, touched while the stager lives; ``failed.json`` when it cannot go on.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.contract import StepError, SuanliError
from components.lib.dataset import Split
from components.lib.flat_split import FlatSplit
from components.lib.prefetch import make_room
from components.lib.shard_index import SplitIndex
from components.storage import Store

# Files on their way at a time, which bounds the memory that they take.
AHEAD_SHARDS = 4
FOLDER = ".stream"
ALIVE, FAILED = "alive", "failed.json"
HEARTBEAT_SECONDS = 1.0
# A stager that was killed touches nothing any more; a machine that swaps may take its time.
SILENT_SECONDS = 60.0
POLL_SECONDS = 0.005


def stream_files(
    store: Store, uri: str, names: Sequence[str], destination: Path, *, ahead: int = AHEAD_SHARDS
) -> Iterator[Path]:
    """Lay out files of an artifact one after the other, each verified, and yield their paths; the
    next `ahead` are on their way meanwhile. When all were read the hot tier holds them.

    Raises:
        DataError: a file is missing everywhere or corrupted.
        KeyError: the artifact has no file of that name.
    """
    entries = {entry["path"]: entry for entry in store.manifest(uri)["files"]}
    coming: deque[Future[Path]] = deque()
    with ThreadPoolExecutor(ahead) as pool:
        try:
            waiting = deque(names)
            while waiting or coming:
                while waiting and len(coming) <= ahead:
                    entry = entries[waiting.popleft()]
                    coming.append(pool.submit(store.lay_out, entry, destination))
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()


class Stager:
    """Brings a dataset in the background; a context manager, whose files are there on entry.

    Leaving ends it after the files that are on their way, complete or not.

    Args:
        store: the tiers.
        uri: the dataset.
        folder: where it is laid out.
        index: of the splits that are needed.
        order: (split, shard number), as they will be needed.

    Attributes:
        bytes: of the shards that have come.
        seconds: from the start to the last of them.
        failure: why it could not go on.
    """

    def __init__(
        self,
        store: Store,
        uri: str,
        folder: Path,
        index: dict[str, SplitIndex],
        order: Sequence[tuple[str, int]],
    ) -> None:
        self.bytes = 0
        self.seconds = 0.0
        self.failure: StepError | None = None
        self._store, self._uri, self._folder = store, uri, folder
        self._order = order
        self._flat = {n: FlatSplit(folder / FOLDER / n, part) for n, part in index.items()}
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"stager-{work.__name__}", daemon=True)
            for work in (self._bring, self._beat)
        ]

    def __enter__(self) -> Stager:
        # What an earlier attempt left is laid in again: it may have died before the disk had it.
        shutil.rmtree(self._folder / FOLDER, ignore_errors=True)
        for flat in self._flat.values():
            flat.allocate()
        (self._folder / FOLDER / ALIVE).touch()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _beat(self) -> None:
        while not self._stopped.wait(HEARTBEAT_SECONDS):
            os.utime(self._folder / FOLDER / ALIVE)

    def _bring(self) -> None:
        try:
            make_room(self._store, self._store.size_bytes(self._uri))
            self._shards()
        except Exception as error:  # whatever it is, the readers must not wait for ever
            remedy = getattr(error, "remedy", None) or "run again: what has come is kept"
            why = (
                str(error) if isinstance(error, SuanliError) else f"{type(error).__name__}: {error}"
            )
            self.failure = StepError(f"the dataset does not arrive whole: {why}", remedy=remedy)
            _leave(self._folder / FOLDER / FAILED, self.failure)
            return
        with suppress(SuanliError, OSError):  # of no concern to training
            self._rest()

    def _shards(self) -> None:
        files = [self._flat[split].index.files[number] for split, number in self._order]
        start = time.perf_counter()
        coming = stream_files(self._store, self._uri, files, self._folder)
        for (split, number), path in zip(self._order, coming, strict=False):
            if self._stopped.is_set():
                coming.close()
                return
            self._flat[split].fill(number, path)
            self.bytes += path.stat().st_size
            self.seconds = time.perf_counter() - start

    def _rest(self) -> None:
        """Bring what training does not read, so that the hot tier holds the artifact for others."""
        if self._store.local_root("hot") is None:
            return
        manifest = self._store.manifest(self._uri)
        here = {self._flat[split].index.files[number] for split, number in self._order}
        names = [e["path"] for e in manifest["files"] if e["path"] not in here]
        coming = stream_files(self._store, self._uri, names, self._folder)
        for _ in coming:
            if self._stopped.is_set():
                coming.close()
                return
        self._store.keep_hot(manifest, self._folder)


def _leave(path: Path, error: StepError) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"message": error.message, "remedy": error.remedy}))
    partial.replace(path)


class Arrivals:
    """What a reader knows of a dataset that a `Stager`, perhaps of another process, brings."""

    def __init__(self, folder: Path, index: dict[str, SplitIndex]) -> None:
        self._folder = folder / FOLDER
        self.index = index
        self._flat = {n: FlatSplit(self._folder / n, part) for n, part in index.items()}
        self._shard_of_row = {name: part.shard_of_row for name, part in index.items()}
        self._ready = {name: np.zeros(len(part.files), bool) for name, part in index.items()}

    def split(self, name: str) -> Split:
        """Return a split of which only the rows that were waited for may be read."""
        return self._flat[name].split()

    def labels(self, name: str) -> NDArray[np.int64]:
        """Return the classes that occur among the scored labels of a split."""
        return np.array(list(self.index[name].label_counts), np.int64)

    def class_counts(self, name: str, classes: int) -> NDArray[np.int64]:
        """Return how often each class occurs among the scored labels of a split."""
        counts = np.zeros(classes, np.int64)
        for label, count in self.index[name].label_counts.items():
            counts[label] = count
        return counts

    def wait(self, split: str, rows: NDArray[np.int64] | None = None) -> None:
        """Return when `rows` of a split are there, or all of them.

        Raises:
            StepError: the stager cannot go on, or is gone.
        """
        ready = self._ready[split]
        wanted = slice(None) if rows is None else self._shard_of_row[split][rows]
        if ready[wanted].all():
            return
        for number in np.unique(np.arange(len(ready))[wanted]).tolist():
            while not (ready[number] or self._flat[split].is_ready(number)):
                self._look_for_trouble()
                time.sleep(POLL_SECONDS)
            ready[number] = True

    def wait_first(self, split: str) -> NDArray[np.int64]:
        """Wait for any shard that has rows, and return them."""
        while True:
            for number in np.flatnonzero(self.index[split].shard_rows).tolist():
                if self._flat[split].is_ready(number):
                    return np.flatnonzero(self._shard_of_row[split] == number)
            self._look_for_trouble()
            time.sleep(POLL_SECONDS)

    def _look_for_trouble(self) -> None:
        try:
            document = json.loads((self._folder / FAILED).read_bytes())
        except FileNotFoundError:
            pass
        else:
            raise StepError(document["message"], remedy=document["remedy"])
        silent = time.time() - (self._folder / ALIVE).stat().st_mtime
        if silent > SILENT_SECONDS:
            raise StepError(
                f"nobody has brought the dataset for {silent:.0f} s", remedy="run again"
            )
