"""The global batches of a run, in order, whether its dataset is there or still arrives."""

from __future__ import annotations

import dataclasses

import numpy as np

from components.lib import batching
from components.lib.batching import Rows
from components.lib.dataset import TOKEN_LEVEL, Split
from components.lib.tasks.layout import flat_index
from components.train.job import Job
from components.train.setup import Data
from components.train.world import World


class Feed:
    """Hands out the units of each global batch; a function of the seed and the step alone.

    While the dataset arrives, the rows of the first epoch come in the order of
    `batching.streamed_epoch`, and whoever asks for a batch waits until its shards are there (phase
    ``stream_wait``). Every rank waits for the whole batch, so all go on, or fail, at the same step.

    Attributes:
        units: of the training split; while the first epoch streams, their weights are unknown.
    """

    def __init__(self, job: Job, world: World, data: Data) -> None:
        self._job = job
        self._world = world
        self._data = data
        self._order: list[Rows] = []
        self._epoch = -1
        self._whole = data.arrivals is None
        split = data.train
        if self._whole:
            self.units = data.task.units(split)
        else:
            lengths = split.lengths if split.images is None else np.ones(split.rows)
            self.units = batching.single_rows(lengths.astype(np.int64), np.zeros(split.rows))
        self.cost = batching.compute_cost(self.units.lengths, data.width)
        self.steps_per_epoch = -(-len(self.units) // job.global_batch)

    def batch(self, epoch: int, position: int) -> tuple[Rows, float]:
        """Return the units of a global batch, their rows there to be read, and what they weigh in
        the loss.

        Raises:
            StepError: the dataset does not arrive.
        """
        if epoch > 0 and not self._whole:
            self.wait("train")
            self.units = self._data.task.units(self._data.train)
            self._whole = True
        if epoch != self._epoch:
            self._order, self._epoch = self._batches(epoch), epoch
        chosen = self._order[position]
        if self._whole:
            return chosen, float(self.units.weights[chosen].sum())
        self.wait("train", chosen)
        taken = take(self._data.train, chosen)
        return chosen, float(self._data.task.units(taken).weights.sum())

    def wait(self, split: str, rows: Rows | None = None) -> None:
        """Wait until rows of a split, or all, are there; at once where nothing arrives.

        Raises:
            StepError: the dataset does not arrive.
        """
        if self._data.arrivals is not None:
            with self._world.phase("stream_wait"):
                self._data.arrivals.wait(split, rows)

    def _batches(self, epoch: int) -> list[Rows]:
        job, bucketed = self._job, not self._data.packed
        if epoch > 0 or self._data.arrivals is None:
            return batching.epoch_batches(
                self.units.lengths, job.global_batch, seed=job.seed, epoch=epoch, bucketed=bucketed
            )
        shard_rows = self._data.arrivals.index["train"].shard_rows
        order = batching.streamed_epoch(shard_rows, seed=job.seed).rows
        return batching.streamed_batches(
            order, self.units.lengths, job.global_batch, seed=job.seed, bucketed=bucketed
        )


def take(split: Split, rows: Rows) -> Split:
    """Return a split of `rows`, in that order and in memory, without images."""
    lengths = split.lengths[rows]
    flat = flat_index(split, rows)
    columns = {
        name: np.asarray(values[flat if name in TOKEN_LEVEL else rows])
        for name, values in split.columns.items()
    }
    return dataclasses.replace(
        split,
        rows=len(rows),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        input_ids=split.input_ids[flat],
        lengths=lengths,
        columns=columns,
        images=None,
    )
