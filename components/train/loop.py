"""The training loop. Run as ``python -m components.train.loop JOB.json``, alone or by torchrun.

Reads top to bottom: each step sets the learning rate, accumulates gradients over this rank's share
of the global batch, steps, and at the end of an epoch evaluates. Batches and dropout follow from
(seed, step, rank) alone, so a step is the same whether the run was interrupted before it or not.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import torch

from components.contract import MAIN_METRIC, StepError, SuanliError, error_document
from components.lib import batching
from components.lib.checkpoint import Checkpoints
from components.lib.optim import schedule
from components.train import report
from components.train.ending import Run, finish
from components.train.feed import Feed
from components.train.history import History, state_of
from components.train.job import Job
from components.train.search import search_learning_rate
from components.train.setup import Data, evaluate, load_data, prepare
from components.train.world import World, join


def train(job: Job, world: World, data: Data) -> Run:
    """Train to the end, or to SIGTERM.

    Raises:
        StepError: the loss is not finite, or the dataset does not arrive.
        DataError: the checkpoints belong to another run.
    """
    with world.phase("load"):
        trainee, reporter, data = prepare(job, world, data)
        task, split = data.task, data.train
        feed = Feed(job, world, data)
        total = reporter.total_steps
        warmup = int(job.warmup_fraction * total)
        checkpoints = Checkpoints(Path(job.checkpoints), job.identity(data.manifest))
        history = History.resume(checkpoints, trainee, world)
    reporter.start(history.step)
    last_checkpoint = time.monotonic()
    trainee.train()

    while history.step < total and not history.stopped:
        epoch, position = divmod(history.step, feed.steps_per_epoch)

        # This rank's share of the global batch, in forwards that fit.
        chosen, weight = feed.batch(epoch, position)
        weight, units = max(weight, 1e-12), feed.units
        share = chosen[batching.split_by_cost(feed.cost[chosen], world.size)[world.rank]]
        forwards = batching.micro_batches(
            units.lengths[share],
            rows=job.micro_batch,
            token_budget=job.token_budget,
            packed=data.packed,
        )
        trainee.seed(job.seed, history.step, world.rank)

        loss_sum = torch.zeros((), device=world.device)
        # A rank without rows (the last, short batch) still takes part in the exchange.
        for number, forward in enumerate(forwards or [None]):
            with world.phase("data_wait"):
                rows = units.of(chosen[:1] if forward is None else share[forward])
                batch = task.training_batch(split, rows, packed=data.packed).to(world.device)
            with trainee.synchronised(last=number >= len(forwards) - 1):
                with world.phase("forward", on_device=True):
                    loss = task.loss(trainee.logits(batch), batch) * (forward is not None)
                with world.phase("backward", on_device=True):
                    # Ranks' gradients are averaged; the loss is a sum over the global batch.
                    mean = loss * (world.size / weight) + trainee.extra_loss() / len(
                        forwards or [0]
                    )
                    trainee.scaler.scale(mean).backward()
            loss_sum += loss.detach()
            reporter.count(batch.tokens, batch.padded_tokens, len(batch.rows))

        with world.phase("communication", on_device=True):
            world.sum(loss_sum)
        mean_loss = float(loss_sum) / weight
        if not math.isfinite(mean_loss):
            checkpoints.wait()
            raise StepError(
                f"loss is {mean_loss} at step {history.step} (epoch {epoch}, batch {position}, "
                f"rows {sorted(units.of(chosen).tolist())[:8]} and following)",
                remedy="lower training.learning_rate, or use bf16 instead of fp16; the last good "
                "checkpoint is kept",
            )
        with world.phase("optimiser", on_device=True):
            rate = trainee.peak_rate * schedule(history.step, total=total, warmup=warmup)
            norm = trainee.step(history.step, rate, job.clip_norm)
        world.settle()  # the norm, a number by now, came after all else
        history.advance(mean_loss, rate)
        if history.step == 1 and world.rank == 0:
            report.emit("first_step")

        at_end = position == feed.steps_per_epoch - 1 or history.step == total
        if at_end:
            feed.wait("validation")
            with world.phase("evaluate"):
                scores = evaluate(trainee, data, world)
            history.evaluated(epoch + 1, scores, MAIN_METRIC[job.task], trainee, job, world)
            reporter.scalars(history.step, **{f"validation/{k}": v for k, v in scores.items()})
        if at_end or reporter.due():
            message = f"epoch {epoch + 1}/{job.epochs}"
            reporter.progress(history.step, message, world_size=world.size, loss=mean_loss)
            reporter.scalars(history.step, loss=mean_loss, learning_rate=rate, gradient_norm=norm)

        overdue = time.monotonic() - last_checkpoint >= job.checkpoint_interval_s
        save, terminate = world.any(overdue and not checkpoints.busy, world.terminate)
        if terminate or (save and history.step < total):
            with world.phase("checkpoint"):
                state = state_of(trainee)
                checkpoints.save(state, history.step, history.to_json(), wait=terminate)
            last_checkpoint = time.monotonic()
        if terminate:
            raise SystemExit(143)  # 128 + SIGTERM, as a shell would say

    with world.phase("checkpoint"):
        checkpoints.close()
    return Run(trainee=trainee, data=data, history=history, reporter=reporter, saves=checkpoints)


def main(path: str) -> int:
    """Run the job in the file at `path`; returns the exit code."""
    job = Job.read(Path(path))
    world = join(job.threads)
    try:
        with world.phase("load"):
            data = load_data(job)
        if job.search:
            with world.phase("search"):
                job = search_learning_rate(job, world, data, train)
        finish(job, world, train(job, world, data))
    except SuanliError as error:
        report.emit("error", **error_document("train", error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
