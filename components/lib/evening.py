"""By how much to divide each channel of an activation before it is rounded to 8 bits (after
SmoothQuant, Xiao et al. 2022): shared by the exporter, which does it, and by training and checking
with rounding, which must see what the exporter will do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from components.lib.calibrate import Observed

# Shares of the difficulty that may move from activations to weights.
SHARES = (0.25, 0.35, 0.5, 0.65, 0.8)
# Expected error power, over that without a shift, from which a shift is worth it.
WORTH = 0.7

Normalise = Callable[[np.ndarray], np.ndarray]


def centred(factors: np.ndarray) -> np.ndarray:
    """Scale factors to a geometric mean of 1: only their proportions matter."""
    scaled: np.ndarray = factors / np.exp(np.log(factors).mean())
    return scaled


def best_factors(
    seen: Observed, weight: np.ndarray, normalise: Normalise = centred
) -> np.ndarray | None:
    """Return what to divide each channel by, None to leave them: the share of `SHARES` with the
    least expected error, if that is worth it.

    Args:
        seen: the activation, (channels).
        weight: (channels, columns) of all products that read it.
        normalise: brings factors to the scale, and the precision, that they are kept in.
    """
    largest = np.maximum(np.maximum(np.abs(seen.lows), np.abs(seen.highs)), 1e-5)
    rows = np.maximum(np.abs(weight).max(axis=1), 1e-5)
    tried = [normalise(largest**share / rows ** (1 - share)) for share in SHARES]
    errors = [expected_error(seen, weight, factors) for factors in tried]
    best = int(np.argmin(errors))
    plain = expected_error(seen, weight, np.ones(len(weight)))
    return tried[best] if errors[best] < WORTH * plain else None


def expected_error(seen: Observed, weight: np.ndarray, factors: np.ndarray) -> float:
    """Error power of the products, summed over columns, for uniform rounding errors (a twelfth of a
    step squared): 8 bits for the whole activation, 8 bits for each column of the weight."""
    low, high = (seen.lows / factors).min(), (seen.highs / factors).max()
    step = (max(high, 0.0) - min(low, 0.0)) / 255
    scaled = weight * factors[:, None]
    from_activation = step**2 / 12 * float((scaled**2).sum())
    column_steps = np.abs(scaled).max(axis=0) / 127
    from_weights = float((column_steps**2).sum() / 12 * (seen.power / factors**2).sum())
    return from_activation + from_weights
