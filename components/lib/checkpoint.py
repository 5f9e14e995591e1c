"""Asynchronous, atomic checkpoints on torch.distributed.checkpoint.

A checkpoint is a folder ``step-00000120`` that is written under another name and renamed when
every byte is on disk; ``whole.json`` in it lists each file's size and CRC-32, and is checked before
anything is loaded. Reading falls back to the newest checkpoint that is whole.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from components.contract import DataError

CHECKPOINT_VERSION = 1
KEPT = 2
WHOLE = "whole.json"
BLOCK_BYTES = 1 << 22

State = dict[str, Any]


class Checkpoints:
    """The checkpoints of one training run.

    Args:
        folder: where they live, shared by all ranks.
        identity: what they belong to; a checkpoint of anything else is refused.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self.identity = identity
        self.stall_s = 0.0
        self.saved = 0
        self.problems: list[str] = []
        self._staged: State = {}
        self._pending: Future[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        # Its own group: its collectives run beside those of training.
        self._group = dist.new_group(backend="gloo")
        self._rank = dist.get_rank()
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, state: State, step: int, meta: dict[str, Any], *, wait: bool = False) -> None:
        """Copy `state` and write it in the background.

        Args:
            state: nested dictionaries of tensors.
            step: number of optimiser steps behind it; names the checkpoint.
            meta: JSON that goes along.
            wait: return only when it is on disk.
        """
        start = time.perf_counter()
        self.wait()
        self._staged = _copied(state, self._staged)
        self._pending = self._thread.submit(self._write, self._staged, step, meta)
        if wait:
            self.wait()
        self.stall_s += time.perf_counter() - start

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is still being written by this rank."""
        return self._pending is not None and not self._pending.done()

    def wait(self) -> None:
        """Wait for the checkpoint under way; a failed one is noted, the one before it stays."""
        if self._pending is None:
            return
        try:
            self._pending.result()
            self.saved += 1
        except Exception as error:  # disk full, lost mount …: training goes on without it
            self.problems.append(f"checkpoint failed: {type(error).__name__}: {error}")
        self._pending = None

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Return folder and document of the newest whole checkpoint, deleting broken newer ones.

        Raises:
            DataError: it belongs to another model, data set or spec.
        """
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            document = _whole(path)
            if document is None:
                self.problems.append(f"{path.name} is not whole: skipped")
                continue
            different = [k for k, v in self.identity.items() if document["identity"].get(k) != v]
            if different:
                raise DataError(
                    f"{path}: checkpoint has another "
                    + ", ".join(
                        f"{k} ({document['identity'].get(k)!r}, now {self.identity[k]!r})"
                        for k in different
                    ),
                    remedy="delete the checkpoint folder or restore the settings it was made with",
                )
            return path, document
        return None

    def load(self, path: Path, state: State) -> None:
        """Fill the tensors of `state` from the checkpoint at `path`, whatever the number of ranks
        that wrote it."""
        dcp.load(state, checkpoint_id=path, process_group=self._group)

    def close(self) -> None:
        """Finish what is under way."""
        self.wait()
        self._thread.shutdown()

    def _write(self, state: State, step: int, meta: dict[str, Any]) -> None:
        final = self.folder / f"step-{step:08d}"
        partial = self.folder / f".partial-{step:08d}"
        if self._rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        dist.barrier(group=self._group)
        writer = dcp.FileSystemWriter(partial, sync_files=True, thread_count=1)
        try:
            dcp.save(state, storage_writer=writer, process_group=self._group)
            if self._rank == 0:
                self._finish(partial, final, step, meta)
        except BaseException:
            if self._rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
            raise

    def _finish(self, partial: Path, final: Path, step: int, meta: dict[str, Any]) -> None:
        files = {
            path.relative_to(partial).as_posix(): [path.stat().st_size, _crc32(path)]
            for path in partial.rglob("*")
            if path.is_file()
        }
        document = {
            "schema_version": CHECKPOINT_VERSION,
            "step": step,
            "identity": self.identity,
            "files": files,
            "meta": meta,
        }
        with (partial / WHOLE).open("w") as stream:
            json.dump(document, stream)
            stream.flush()
            os.fsync(stream.fileno())
        shutil.rmtree(final, ignore_errors=True)
        os.rename(partial, final)
        for old in sorted(self.folder.glob("step-*"))[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def _copied(state: State, into: State) -> State:
    """Copy the tensors of `state` to host memory, into last time's buffers where they fit."""
    copies: State = {}
    for name, value in state.items():
        if isinstance(value, dict):
            copies[name] = _copied(value, into.get(name, {}))
        elif isinstance(value, torch.Tensor) and type(value) is torch.Tensor:
            old = into.get(name)
            fits = old is not None and old.shape == value.shape and old.dtype == value.dtype
            copies[name] = old if fits else torch.empty_like(value, device="cpu")
            copies[name].copy_(value.detach())
        elif isinstance(value, torch.Tensor):  # a DTensor: each rank copies its own shard
            copies[name] = value.detach().cpu().clone()
        else:
            copies[name] = value
    return copies


def _whole(path: Path) -> dict[str, Any] | None:
    """Return whole.json when every file is there with its size and checksum."""
    try:
        document: dict[str, Any] = json.loads((path / WHOLE).read_bytes())
        for name, (size, checksum) in document["files"].items():
            file = path / name
            if file.stat().st_size != size or _crc32(file) != checksum:
                return None
    except (OSError, ValueError, KeyError):
        return None
    return document if document.get("schema_version") == CHECKPOINT_VERSION else None


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            value = zlib.crc32(block, value)
    return value
