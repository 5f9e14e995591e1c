"""The training loop. Run as ``python -m components.train.loop JOB.json``, alone or by torchrun.

Reads top to bottom: each step sets the learning rate, accumulates gradients over this rank's share
of the global batch, steps, and at the end of an epoch evaluates. Batches and dropout follow from
(seed, step, rank) alone, so a step is the same whether the run was interrupted before it or not.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

from components.contract import MAIN_METRIC, StepError, SuanliError, error_document
from components.lib import batching
from components.lib.checkpoint import Checkpoints
from components.lib.optim import schedule
from components.train import report
from components.train.job import Job
from components.train.progress import History, finish, state_of
from components.train.setup import Data, evaluate, load_data, prepare
from components.train.world import World, join


def train(job: Job, world: World, data: Data) -> History:
    """Train to the end, or to SIGTERM; rank 0 leaves the model in ``job.output``.

    Raises:
        StepError: the loss is not finite.
        DataError: the checkpoints belong to another run.
    """
    with world.phase("load"):
        trainee, reporter = prepare(job, world, data)
        task, split = data.task, data.train
        units = task.units(split)
        steps_per_epoch = -(-len(units) // job.global_batch)
        total = job.epochs * steps_per_epoch
        warmup = int(job.warmup_fraction * total)
        cost = batching.compute_cost(units.lengths, data.width)
        checkpoints = Checkpoints(Path(job.checkpoints), job.identity(data.manifest))
        history = History.resume(checkpoints, trainee, world)
    reporter.start(history.step)
    last_checkpoint = time.monotonic()
    order, order_epoch, loss_sum = [], -1, 0.0
    trainee.train()

    while history.step < total and not history.stopped:
        epoch, position = divmod(history.step, steps_per_epoch)
        if epoch != order_epoch:
            order = batching.epoch_batches(
                units.lengths,
                job.global_batch,
                seed=job.seed,
                epoch=epoch,
                bucketed=not data.packed,
            )
            order_epoch = epoch

        # This rank's share of the global batch, in forwards that fit.
        chosen = order[position]
        weight = float(units.weights[chosen].sum())
        share = chosen[batching.split_by_cost(cost[chosen], world.size)[world.rank]]
        forwards = batching.micro_batches(
            units.lengths[share],
            rows=job.micro_batch,
            token_budget=job.token_budget,
            packed=data.packed,
        )
        trainee.seed(job.seed, history.step, world.rank)

        loss_sum = torch.zeros((), device=world.device)
        for number, forward in enumerate(forwards):
            with world.phase("data_wait"):
                batch = task.collate(split, units.of(share[forward]), packed=data.packed)
            with trainee.synchronised(last=number == len(forwards) - 1):
                with world.phase("forward"):
                    loss = task.loss(trainee.logits(batch), batch.to(world.device))
                with world.phase("backward"):
                    # DDP averages over ranks; the loss is a sum over the global batch.
                    scaled = loss * (world.size / weight) if weight else loss * 0.0
                    trainee.scaler.scale(scaled).backward()
            loss_sum += loss.detach()
            reporter.count(batch.tokens, batch.padded_tokens, len(batch.rows))

        with world.phase("communication"):
            mean_loss = float(world.sum(loss_sum)) / max(weight, 1e-12)
        if not np.isfinite(mean_loss):
            raise StepError(
                f"loss is {mean_loss} at step {history.step} (epoch {epoch}, rows "
                f"{sorted(units.of(chosen).tolist())[:8]} ...)",
                remedy="lower training.learning_rate, or use precision bf16 instead of fp16; the "
                "last good checkpoint is kept",
            )
        with world.phase("optimiser"):
            rate = trainee.peak_rate * schedule(history.step, total=total, warmup=warmup)
            norm = trainee.step(rate, job.clip_norm)
        history.advance(mean_loss, rate)

        at_end = position == steps_per_epoch - 1
        if at_end:
            with world.phase("evaluate"):
                scores = evaluate(trainee, data, world)
            history.evaluated(epoch + 1, scores, MAIN_METRIC[job.task], trainee, job, world)
        if at_end or reporter.due():
            message = f"epoch {epoch + 1}/{job.epochs}"
            reporter.progress(history.step, message, world_size=world.size, loss=mean_loss)
            reporter.scalars(
                history.step, loss=mean_loss, learning_rate=rate, gradient_norm=norm,
                **({f"validation/{k}": v for k, v in scores.items()} if at_end else {}),
            )  # fmt: skip

        terminate = world.any(world.terminate)
        overdue = time.monotonic() - last_checkpoint >= job.checkpoint_interval_s
        if terminate or (world.any(overdue and not checkpoints.busy) and history.step < total):
            with world.phase("checkpoint"):
                checkpoints.save(state_of(trainee), history.step, history.to_json(), wait=terminate)
            last_checkpoint = time.monotonic()
        if terminate:
            raise SystemExit(143)

    checkpoints.close()
    finish(job, world, data, trainee, history, reporter, checkpoints)
    return history


def main(path: str) -> int:
    """Run the job in the file at `path`; returns the exit code."""
    job = Job.read(Path(path))
    world = join(job.threads)
    try:
        with world.phase("load"):
            data = load_data(job)
        train(job, world, data)
    except SuanliError as error:
        report.emit("error", **error_document("train", error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
