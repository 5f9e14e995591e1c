"""Encode blocks of examples into Parquet shards, in this process or in several.

Blocks are cut by rows and characters only, so their content, and with it every shard's name,
does not depend on how many processes encode them. Finished blocks are kept through a crash.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from components.contract import StepError
from components.ingest.columns import Encoder
from components.ingest.examples import Example
from components.lib.shard_index import write_row

BLOCK_ROWS = 16_384
BLOCK_CHARACTERS = 8 << 20
# Starting a worker process costs about a second of imports; small inputs are done before that.
PARALLEL_BYTES = 12 << 20


class Block(NamedTuple):
    """Examples that become one shard."""

    split: str
    number: int
    first: int
    examples: list[Example]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSettings:
    """What a worker process needs to build its `Encoder`."""

    task: str
    labels: list[str]
    max_length: int
    tokenizer_folder: Path | None
    output: Path
    finished: Path


def blocks(examples: Iterable[tuple[str, Example]]) -> Iterator[Block]:
    """Group examples by split into blocks of bounded size."""
    waiting: dict[str, list[Example]] = {}
    characters: dict[str, int] = {}
    numbers: dict[str, int] = {}
    firsts: dict[str, int] = {}

    def take(split: str) -> Block:
        block = Block(split, numbers.get(split, 0), firsts.get(split, 0), waiting.pop(split))
        numbers[split] = block.number + 1
        firsts[split] = block.first + len(block.examples)
        characters[split] = 0
        return block

    for split, example in examples:
        waiting.setdefault(split, []).append(example)
        characters[split] = characters.get(split, 0) + _characters(example)
        if len(waiting[split]) >= BLOCK_ROWS or characters[split] >= BLOCK_CHARACTERS:
            yield take(split)
    for split in list(waiting):
        yield take(split)


def _characters(example: Example) -> int:
    if isinstance(example.text, list):
        return sum(map(len, example.text)) + len(example.text)
    if isinstance(example.text, str | bytes):
        return len(example.text) + len(example.pair or "")
    return 64 << 10  # an image by path: about what its downscaled bytes take


def write_shards(
    work: Iterable[Block],
    settings: EncoderSettings,
    *,
    workers: int,
    on_block: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """Encode every block and return one entry a shard, in order.

    Raises:
        StepError: a worker process died (out of memory, or killed).
    """
    entries: list[dict[str, Any]] = []

    def collect(entry: dict[str, Any]) -> None:
        entries.append(entry)
        on_block(entry)

    if workers <= 1:
        encoder = load_encoder(settings)
        for block in work:
            collect(_finished(settings, block) or write_block(encoder, settings, block))
        return entries
    pool = concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(settings,),
    )
    pending: deque[concurrent.futures.Future[dict[str, Any]]] = deque()
    with pool:
        try:
            for block in work:
                done = _finished(settings, block)
                pending.append(pool.submit(_return, done) if done else pool.submit(_work, block))
                # Bounded: blocks waiting to be encoded are the memory that grows.
                while len(pending) > workers + 1:
                    collect(pending.popleft().result())
            while pending:
                collect(pending.popleft().result())
        except BrokenProcessPool as error:
            raise StepError(
                "a tokenising process died",
                remedy="give the step more memory; finished blocks are kept",
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return entries


_worker: tuple[Encoder, EncoderSettings] | None = None


def _start_worker(settings: EncoderSettings) -> None:
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process a core already
    _worker = load_encoder(settings), settings


def _work(block: Block) -> dict[str, Any]:
    assert _worker is not None
    return write_block(*_worker, block)


def _return(entry: dict[str, Any]) -> dict[str, Any]:
    return entry


def load_encoder(settings: EncoderSettings) -> Encoder:
    return Encoder.load(
        task=settings.task,
        labels=settings.labels,
        max_length=settings.max_length,
        folder=settings.tokenizer_folder,
    )


def _sidecar(settings: EncoderSettings, block: Block) -> Path:
    return settings.finished / f"{block.split}-{block.number:06d}.json"


def _finished(settings: EncoderSettings, block: Block) -> dict[str, Any] | None:
    """Return the entry of a block that an earlier, broken attempt completed."""
    path = _sidecar(settings, block)
    try:
        entry: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    shard = settings.output / entry["file"]
    same = shard.is_file() and shard.stat().st_size == entry["bytes"] and index_row(entry).is_file()
    return entry if same and entry["first"] == block.first else None


def index_row(entry: dict[str, Any]) -> Path:
    """Return where the index row of a finished block is kept."""
    return Path(entry["index_row"])


def write_block(encoder: Encoder, settings: EncoderSettings, block: Block) -> dict[str, Any]:
    """Encode one block, write its shard, then note that it is finished."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    encoded = encoder.encode(block.examples, block.first)
    sink = pa.BufferOutputStream()
    # Dictionary encoding of token ids costs time and saves nothing over zstd.
    pq.write_table(
        encoded.table,
        sink,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
        row_group_size=len(encoded.table) or 1,
    )
    body = sink.getvalue()
    digest = hashlib.sha256(body).hexdigest()
    name = f"{block.split}-{digest[:16]}.parquet"
    _write(settings.output / name, body)
    lengths = _lengths(encoded.table)
    values, counts = np.unique(lengths, return_counts=True)
    entry = {
        "file": name,
        "sha256": digest,
        "rows": encoded.table.num_rows,
        "tokens": int(lengths.sum()),
        "bytes": len(body),
        "split": block.split,
        "first": block.first,
        "examples": len(block.examples),
        "words": encoded.words,
        "truncated": encoded.truncated,
        "length_histogram": {str(v): int(c) for v, c in zip(values, counts, strict=True)},
        "index_row": str(_sidecar(settings, block).with_suffix(".parquet")),
    }
    write_row(index_row(entry), encoded.table, task=settings.task, split=block.split, file=name)
    _write(_sidecar(settings, block), json.dumps(entry).encode())
    return entry


def _lengths(table: Any) -> np.ndarray:
    if "input_ids" not in table.column_names:
        return np.zeros(0, np.int64)
    column = table.column("input_ids").combine_chunks()
    return np.diff(column.offsets.to_numpy()).astype(np.int64)


def _write(path: Path, body: Any) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as stream:
        stream.write(body)
    partial.replace(path)
