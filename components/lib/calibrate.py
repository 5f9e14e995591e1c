"""Ranges of activations on training data, for static quantisation."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.contract import DataError
from components.lib import onnx_graph

# Rows of the training split that are run; ranges move little beyond a few hundred.
CALIBRATION_ROWS = 256
# The outermost share of values on each side is clipped: LayerNorm outputs have outliers that would
# cost everyone else their resolution.
CLIPPED_SHARE = 1e-5


def calibration_rows(lengths: NDArray[Any], seed: int = 0) -> NDArray[Any]:
    """Choose rows at random.

    Raises:
        DataError: there are none.
    """
    if not len(lengths):
        raise DataError(
            "calibration data is empty: the train split has no rows",
            remedy="int8-static needs training data; use int8, which measures at run time",
        )
    return np.random.default_rng(seed).permutation(len(lengths))[:CALIBRATION_ROWS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What one activation was seen to hold.

    `low` and `high` are its clipped range; `lows`, `highs` and `power` (mean square) are of each
    channel, which is an entry of its last axis.
    """

    low: float
    high: float
    lows: NDArray[Any]
    highs: NDArray[Any]
    power: NDArray[Any]


def observe(
    model: Any, names: Sequence[str], feeds: Sequence[dict[str, NDArray[Any]]]
) -> dict[str, Observed]:
    """Run a fused fp32 graph on `feeds` and watch the activations in `names`.

    Only real tokens count: padded positions hold values that no result depends on.

    Raises:
        DataError: there are no feeds.
    """
    import onnx
    import onnxruntime as ort
    from onnx import helper

    if not feeds:
        calibration_rows(np.empty(0))
    outputs = model.graph.output
    own = len(outputs)
    for name in names:
        outputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        # Through a file: in memory, bytes and their parsing would be two copies of the weights.
        path = Path(folder) / "watched.onnx"
        try:
            onnx_graph.save(model, path)
        finally:
            del outputs[own:]
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    seen: dict[str, list[Observed]] = {name: [] for name in names}
    for feed in feeds:
        mask = feed.get("attention_mask")
        for name, value in zip(names, session.run(list(names), feed), strict=True):
            real = value
            if mask is not None and value.ndim == 3 and value.shape[:2] == mask.shape:
                real = value[mask.astype(bool)]
            low, high = np.quantile(real, [CLIPPED_SHARE, 1 - CLIPPED_SHARE])
            rows = real.reshape(-1, real.shape[-1])
            seen[name].append(
                Observed(
                    low=float(low),
                    high=float(high),
                    lows=rows.min(axis=0),
                    highs=rows.max(axis=0),
                    power=np.mean(np.square(rows, dtype=np.float64), axis=0),
                )
            )
    return {name: _joined(parts) for name, parts in seen.items()}


def _joined(parts: list[Observed]) -> Observed:
    return Observed(
        low=min(part.low for part in parts),
        high=max(part.high for part in parts),
        lows=np.min([part.lows for part in parts], axis=0),
        highs=np.max([part.highs for part in parts], axis=0),
        power=np.mean([part.power for part in parts], axis=0),
    )


def ranges(
    model: Any, names: Sequence[str], feeds: Sequence[dict[str, NDArray[Any]]]
) -> dict[str, tuple[float, float]]:
    """Return (low, high) of each activation in `names`."""
    return {name: (seen.low, seen.high) for name, seen in observe(model, names, feeds).items()}
