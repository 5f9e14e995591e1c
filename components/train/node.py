"""The training program inside a TrainJob's pod: fetch the dataset, train, store the model.

Run by torchrun on each node as ``-m components.train.node JSON``; the same loop as on one machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist

from components.contract import SuanliError, error_document
from components.storage import Store, Tiers
from components.train import report, stream
from components.train.ending import finish
from components.train.job import Job
from components.train.loop import train
from components.train.search import search_learning_rate
from components.train.setup import load_data
from components.train.world import World, join


def main(text: str) -> int:
    """Run the job described by the JSON `text`; returns the exit code."""
    arguments = json.loads(text)
    config = json.loads(arguments["config"])
    store = Store(Tiers.from_json(arguments["store"]))
    world = join()
    try:
        output = Path(tempfile.mkdtemp(prefix="suanli-model-"))
        job = Job.from_arguments(
            config["arguments"],
            dataset=str(place_of(arguments["dataset"])),
            checkpoints=arguments["checkpoints"],
            output=str(output / "model"),
        )
        with taken_in(store, arguments["dataset"], world, job) as job:
            data = load_data(job)
            if job.search:
                job = search_learning_rate(job, world, data, train)
            finish(job, world, train(job, world, data), publish=lambda folder: put(store, folder))
            dist.barrier()  # nobody leaves, and ends the job, before the model is stored
    except SuanliError as error:
        report.emit("error", **error_document(config["step"], error))
        return error.exit_code
    return 0


def place_of(uri: str) -> Path:
    """Return the dataset's folder, one on each node."""
    return Path(tempfile.gettempdir()) / "suanli-dataset" / uri.rsplit("/", 1)[1][:16]


@contextlib.contextmanager
def taken_in(store: Store, uri: str, world: World, job: Job) -> Iterator[Job]:
    """Have the dataset laid out once on each node, or on its way there while the block runs."""
    verdict: list[Any] = [stream.decide(store, uri, job) if world.rank == 0 else None]
    if world.size > 1:
        dist.broadcast_object_list(verdict)
    streamed, notes = verdict[0]
    coming: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        if streamed:
            stream.fetch_head(store, uri, Path(job.dataset))
            coming = stream.stager(store, uri, job)
        else:
            store.fetch(uri, Path(job.dataset))
    if world.rank == 0:
        for note in notes:
            report.emit("note", text=note)
    with coming:
        if world.size > 1:
            dist.barrier()
        yield dataclasses.replace(job, streamed=streamed)


def put(store: Store, folder: Path) -> dict[str, Any]:
    """Store the model; returns what the ``finished`` event says about it."""
    return {"uri": store.put_folder(folder, kind="model")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
