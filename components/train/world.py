"""The ranks of a run: joining, device, collectives on small things, and the clock of its phases."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

# Seconds on the host's clock, or an event in a GPU's stream (torch.cuda.Event).
Mark = Any


@dataclass(slots=True, kw_only=True)
class World:
    """This process among the others, and what it has spent its time on.

    A single process is a world of one: the same collectives run, on nothing.
    """

    rank: int
    size: int
    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    terminate: bool = False
    _running: list[tuple[str, Mark, Mark, float]] = field(default_factory=list)

    @contextlib.contextmanager
    def phase(self, name: str, *, on_device: bool = False) -> Iterator[None]:
        """Add the block's wall time to `name`.

        Args:
            name: of the phase.
            on_device: what the block starts on a GPU goes on after it; the time the GPU takes is
                added, at the next `settle`.
        """
        start = self.mark(on_device=on_device)
        try:
            yield
        finally:
            self.add(name, start, self.mark(on_device=on_device))

    def mark(self, *, on_device: bool) -> Mark:
        """A point in time, of the host or of what the GPU has been given so far."""
        if not on_device or self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def add(self, name: str, start: Mark, end: Mark, *, sign: float = 1.0) -> None:
        """Add the time between two marks of one kind to `name`, or take it off with `sign` -1."""
        if isinstance(start, float) and isinstance(end, float):
            self.seconds[name] = self.seconds.get(name, 0.0) + sign * (end - start)
        else:
            self._running.append((name, start, end, sign))

    def settle(self) -> None:
        """Count the GPU's phases. Call it when the GPU has done all that was asked of it."""
        for name, start, end, sign in self._running:
            seconds = sign * start.elapsed_time(end) / 1000.0
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self._running.clear()

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set on any rank."""
        if self.size == 1:
            return list(flags)
        values = torch.tensor([int(flag) for flag in flags], device=self.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return [bool(value) for value in values.tolist()]

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values


def join(threads: int | None = None) -> World:
    """Join the process group that torchrun describes, or make a group of one.

    SIGTERM sets `World.terminate` from here on; the loop looks at it after each step.
    """
    cuda = torch.cuda.is_available()
    if not cuda:
        keep_freed_memory()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not cuda:
        cores = len(os.sched_getaffinity(0))
        # Ranks on one machine that each take all cores fight for them. A stated number counts for a
        # process alone: for several, torchrun states 1 where nobody has stated any.
        stated = os.environ.get("OMP_NUM_THREADS") if local_size == 1 else None
        wanted = int((stated or str(cores)).split(",")[0])
        torch.set_num_threads(threads or max(1, min(wanted, cores // local_size)))
    else:
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    if size > 1:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    world = World(
        rank=dist.get_rank(),
        size=size,
        device=torch.device("cuda", local) if cuda else torch.device("cpu"),
    )

    def on_terminate(*_: object) -> None:
        world.terminate = True

    signal.signal(signal.SIGTERM, on_terminate)
    return world


def keep_freed_memory() -> None:
    """Let malloc reuse what was freed instead of giving it back to the system: a step frees and
    asks for the same megabytes again, and the kernel would zero each page anew (a weight gradient
    took 7.0 instead of 3.3 ms until malloc had learnt this by itself)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
