"""Proof, before the first step, that this model keeps packed sequences apart.

Laying sequences end to end is right only for a model that hands boundaries and positions on to its
attention. One that computes attention by itself (DeBERTa, MPNet, XLNet …) takes the same inputs and
mixes the sequences without a word, so every model is asked, known or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from components.train.setup import Data
    from components.train.trainee import Trainee

ROWS = 4
# Largest difference, as a share of the largest logit: rounding is 1e-6, a leak through a single
# layer of random weights 1e-3. Shards are gathered in the precision of the run.
TOLERANCE = 1e-4
TOLERANCE_SHARDED_LOW = 3e-2


class Unpackable(ValueError):
    """This model cannot be trained on sequences laid end to end."""


@torch.no_grad()
def check_isolation(trainee: Trainee, data: Data, there: np.ndarray) -> None:
    """Compare a few packed training rows with the same rows one by one.

    Args:
        trainee: has the model.
        data: as the model reads it.
        there: numbers of the training rows that may be read.

    Raises:
        Unpackable: they differ, or the model does not take packed inputs at all.
    """
    order = there[np.argsort(data.train.lengths[there], kind="stable")]
    rows = order[:: max(1, len(there) // ROWS)][:ROWS]
    training = trainee.model.training
    trainee.model.eval()
    try:
        packed = _logits(trainee, data, rows)
        alone = torch.cat([_logits(trainee, data, rows[i : i + 1]) for i in range(len(rows))])
    except Exception as error:  # whatever a model says that was not made for this
        raise Unpackable(f"{type(error).__name__}: {str(error)[:120]}") from error
    finally:
        trainee.model.train(training)
        trainee.reshard()
    if packed.shape != alone.shape:
        raise Unpackable(f"packed logits are {tuple(packed.shape)}, not {tuple(alone.shape)}")
    largest = float(alone.abs().max())
    difference = float((packed - alone).abs().max())
    low = trainee.sharded and trainee.precision != "fp32"
    if not difference <= (TOLERANCE_SHARDED_LOW if low else TOLERANCE) * largest:
        raise Unpackable(
            f"packed sequences influence each other: logits differ by {difference:.2g} of "
            f"{largest:.2g}"
        )


def _logits(trainee: Trainee, data: Data, rows: np.ndarray) -> torch.Tensor:
    """(tokens or rows, classes); a single row gets the positions that the model gives by itself."""
    batch = data.task.collate(data.train, rows, packed=True)
    if len(rows) == 1:
        del batch.inputs["position_ids"]
    inputs = {
        name: value.to(trainee.device) if torch.is_tensor(value) else value
        for name, value in batch.inputs.items()
    }
    logits = trainee.model(**inputs).logits[: len(batch.targets)]
    flat = logits.float().flatten(0, -2)
    return flat[: batch.tokens] if logits.ndim == 3 else flat
