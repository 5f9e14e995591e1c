"""A graph's weights as arrays."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np


class Weights(MutableMapping[str, np.ndarray]):
    """A graph's weights by name, each turned into an array when it is asked for: all at once they
    would double what the graph takes."""

    def __init__(self, model: Any) -> None:
        self._tensors = {t.name: t for t in model.graph.initializer}
        self._made: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        from onnx import numpy_helper

        made = self._made.get(name)
        return numpy_helper.to_array(self._tensors[name]) if made is None else made

    def __setitem__(self, name: str, value: np.ndarray) -> None:
        self._made[name] = value

    def __delitem__(self, name: str) -> None:
        del self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._made or name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter({**self._tensors, **self._made})

    def __len__(self) -> int:
        return len({**self._tensors, **self._made})
