"""The ranks of a run: joining, device, collectives on small things, and the clock of its phases."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.distributed as dist


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

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the block's wall time to `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

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
        # Ranks on one machine that each take all cores fight for them.
        torch.set_num_threads(threads or max(1, cores // local_size))
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
