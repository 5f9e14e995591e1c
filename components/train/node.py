"""The training program inside a TrainJob's pod: fetch the dataset, train, store the model.

Run by torchrun on each node as ``-m components.train.node JSON``; the same loop as on one machine.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch.distributed as dist

from components.contract import SuanliError, error_document
from components.storage import Store, Tiers
from components.train import report
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
        dataset = fetch(store, arguments["dataset"], world)
        output = Path(tempfile.mkdtemp(prefix="suanli-model-"))
        job = Job.from_arguments(
            config["arguments"],
            dataset=str(dataset),
            checkpoints=arguments["checkpoints"],
            output=str(output / "model"),
        )
        data = load_data(job)
        if job.search:
            job = search_learning_rate(job, world, data, train)
        finish(job, world, train(job, world, data), publish=lambda folder: put(store, folder))
        dist.barrier()  # nobody leaves, and ends the job, before the model is stored
    except SuanliError as error:
        report.emit("error", **error_document(config["step"], error))
        return error.exit_code
    return 0


def fetch(store: Store, uri: str, world: World) -> Path:
    """Return the dataset's folder, laid out once on each node."""
    folder = Path(tempfile.gettempdir()) / "suanli-dataset" / uri.rsplit("/", 1)[1][:16]
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        store.fetch(uri, folder)
    if world.size > 1:
        dist.barrier()
    return folder


def put(store: Store, folder: Path) -> dict[str, Any]:
    """Store the model; returns what the ``finished`` event says about it."""
    return {"uri": store.put_folder(folder, kind="model")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
