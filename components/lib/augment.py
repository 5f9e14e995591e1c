"""Other views of the images of a batch, for training from few of them.

One affine map an image (rotation, scale, shift, mirror), brightness and contrast, and mixup (Zhang
et al. 2018): with too few images a vision transformer, which knows nothing of neighbourhood or of
shift, learns them by heart instead of what they show. All chance comes from torch's generator,
which the loop seeds by step and rank: an interrupted run sees the same views again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How far views may differ from the image; 0 leaves it as it is.

    Attributes:
        rotate_degrees: most rotation to either side.
        scale: most of ``|ln(size)|``: 0.2 is 0.82 to 1.22 times as large.
        shift: most shift, as a share of the image's side.
        flip: mirror half of the images left to right; only where a mirror image has the same label.
        brightness: most change of brightness, and of contrast as a factor less one.
        mixup: parameter of the beta distribution of the share of a second image.
        smoothing: share of each label that is spread over all classes (Szegedy et al. 2016).
    """

    rotate_degrees: float = 15.0
    scale: float = 0.2
    shift: float = 0.1
    flip: bool = False
    brightness: float = 0.3
    mixup: float = 0.2
    smoothing: float = 0.1


def augmented(
    pixels: torch.Tensor, labels: torch.Tensor, classes: int, settings: Augmentation
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return views of the images, and what share of each class they show.

    Args:
        pixels: (images, 3, side, side) in -1..1.
        labels: (images), class ids.
        classes: number of classes.
        settings: how far.

    Returns:
        Pixels of the same shape, and (images, classes) float32 shares that add up to 1.
    """
    views = _moved(pixels, settings)
    if settings.brightness:
        contrast, light = _spread(len(views), settings.brightness, (2, 1, 1, 1))
        views = views * (1.0 + contrast) + light
    shares = functional.one_hot(labels, classes).float()
    shares = shares * (1.0 - settings.smoothing) + settings.smoothing / classes
    if settings.mixup:
        # One share for the batch: less noise in the step than one an image.
        part = float(torch.distributions.Beta(settings.mixup, settings.mixup).sample())
        other = torch.randperm(len(views))
        views = part * views + (1.0 - part) * views[other]
        shares = part * shares + (1.0 - part) * shares[other]
    return views, shares


def _moved(pixels: torch.Tensor, settings: Augmentation) -> torch.Tensor:
    """Each image under an affine map of its own; what comes from outside is mirrored in."""
    count = len(pixels)
    (angle,) = _spread(count, math.radians(settings.rotate_degrees), (1,))
    (size,) = _spread(count, settings.scale, (1,)).exp()
    # Coordinates run from -1 to 1: a share of the side is twice as much of them.
    right, down = _spread(count, 2.0 * settings.shift, (2,))
    mirror = torch.ones(count)
    if settings.flip:
        mirror[torch.rand(count) < 0.5] = -1.0
    cosine, sine = angle.cos() / size, angle.sin() / size
    maps = torch.stack(
        [
            torch.stack([cosine * mirror, -sine, right], dim=1),
            torch.stack([sine * mirror, cosine, down], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(maps, list(pixels.shape), align_corners=False)
    return functional.grid_sample(
        pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def _spread(count: int, most: float, shape: tuple[int, ...]) -> torch.Tensor:
    """Uniform in -most..most: shape[0] times (count, 1, …)."""
    return (torch.rand(shape[0], count, *shape[1:]) * 2.0 - 1.0) * most
