"""`ModelShape` of LeViT (Graham et al. 2021), whose stages differ in width and in tokens.

Four convolutions make the first tokens; attention that drops three of four tokens leads from each
stage to the next. The cost model knows stacks of equal layers, so a LeViT stands for as many layers
as it has attention blocks, of the first stage's width and at its tokens: later stages are wider
by about as much as they have fewer tokens. Parameters are exact (`extra_parameters`), products an
approximation.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from pipelines.cost.shapes import ModelShape

STEM = (8, 4, 2, 1)  # first width over the channels of each convolution


def levit_shape(config: Mapping[str, Any]) -> ModelShape:
    """Return the shape for a ``config.json`` of transformers' ``levit``; absent keys take its
    defaults (LeViT-128S).

    Raises:
        KeyError, IndexError, TypeError: lists of unequal length or other than sizes.
    """
    widths = list(config.get("hidden_sizes", (128, 256, 384)))
    heads = list(config.get("num_attention_heads", (4, 8, 12)))
    keys = list(config.get("key_dim", (16, 16, 16)))
    depths = list(config.get("depths", (4, 4, 4)))
    ratios = list(config.get("attention_ratio", (2, 2, 2)))
    wider = list(config.get("mlp_ratio", (2, 2, 2)))
    image, patch = int(config.get("image_size", 224)), int(config.get("patch_size", 16))
    side = image // patch
    total = _stem(int(config.get("num_channels", 3)), widths[0])
    for stage, width in enumerate(widths):
        inner = heads[stage] * keys[stage]
        block = _product(width, inner * (2 + ratios[stage]))
        block += _product(inner * ratios[stage], width) + heads[stage] * side**2
        total += depths[stage] * (block + _mlp(width, wider[stage]))
        if stage + 1 < len(widths):
            # Attention that drops tokens: a head for each `key_dim` of the narrower width, fourfold
            # values, every second token.
            key, following = keys[0], widths[stage + 1]
            count = width // key
            total += _product(width, count * key * 5) + _product(width, count * key)
            total += _product(count * key * 4, following) + _mlp(following, 2)
            smaller = (side - 1) // 2 + 1
            offsets = {abs(2 * at - to) for at in range(smaller) for to in range(side)}
            total += count * len(offsets) ** 2
            side = smaller
    shape = ModelShape(
        family="levit",
        hidden_size=widths[0],
        num_layers=sum(depths) + len(widths) - 1,
        num_heads=heads[0],
        num_kv_heads=heads[0],
        head_dim=keys[0],
        ffn_size=wider[0] * widths[0],
        vocab_size=0,
        causal=False,
        image_size=image,
        patch_size=patch,
    )
    return dataclasses.replace(shape, extra_parameters=total - shape.backbone_parameters)


def _product(inputs: int, outputs: int) -> int:
    """Parameters of a linear layer without bias and of the batch normalisation after it."""
    return inputs * outputs + 2 * outputs


def _mlp(width: int, ratio: int) -> int:
    return _product(width, ratio * width) + _product(ratio * width, width)


def _stem(channels: int, width: int) -> int:
    sizes = [channels, *(width // part for part in STEM)]
    return sum(_product(9 * a, b) for a, b in itertools.pairwise(sizes))
