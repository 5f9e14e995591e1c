"""How long ranks wait for each other's gradients."""

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from components.train.world import Mark, World


class Exchange:
    """Splits what DDP does at the end of a backward pass from the pass itself.

    Most of the exchange happens while gradients of earlier layers are still computed and costs
    nothing. What is left begins when the last bucket is handed over, with no computation after it.
    """

    def __init__(self, world: World, wrapper: DistributedDataParallel) -> None:
        self._world = world
        self._handed: Mark | None = None
        wrapper.register_comm_hook(self, _exchange)

    def hand_over(self) -> None:
        """Remember that a bucket is on its way."""
        self._handed = self._world.mark(on_device=True)

    def count(self) -> None:
        """Count the time since the last bucket as communication instead of backward."""
        if self._handed is None:
            return
        now = self._world.mark(on_device=True)
        self._world.add("communication", self._handed, now)
        self._world.add("backward", self._handed, now, sign=-1.0)
        self._handed = None


# DDP looks at these annotations themselves: strings (annotations from the future) it refuses.
def _exchange(exchange: Exchange, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """DDP's own mean over the ranks, with a look at the clock."""
    exchange.hand_over()
    return allreduce_hook(None, bucket)  # type: ignore[arg-type]
