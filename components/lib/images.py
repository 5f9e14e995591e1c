"""Images as model input."""

from __future__ import annotations

import io
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from components.contract import DataError
from components.lib.dataset import Split

# Decoded images are kept while they are few; 1 GiB holds 87,000 of 64 x 64.
CACHE_BYTES = 1 << 30
_cache: OrderedDict[tuple[bytes, int], NDArray[np.uint8]] = OrderedDict()


def pixels(split: Split, rows: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    """Return (rows, 3, size, size) in -1..1: decoded, squashed to a square, RGB."""
    decoded = np.stack([_decoded(split, int(row), size) for row in rows])
    return decoded.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0


def _decoded(split: Split, row: int, size: int) -> NDArray[np.uint8]:
    assert split.images is not None
    key = (split.images[row], size)  # by content: an id may come back with another split
    if key not in _cache:
        while (len(_cache) + 1) * size * size * 3 > CACHE_BYTES:
            _cache.popitem(last=False)
        _cache[key] = _decode(split, row, size)
    return _cache[key]


def _decode(split: Split, row: int, size: int) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        assert split.images is not None
        with Image.open(io.BytesIO(split.images[row])) as image:
            square = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{split.name} image {row}: cannot decode it: {error}") from error
    return np.asarray(square)
