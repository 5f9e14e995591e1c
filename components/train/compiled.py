"""torch.compile for the train step: the same few shapes at every step, so that few graphs are made.

A graph is made anew for each shape and each Python number it has seen, a minute of work for the
first step of BERT-base on a GPU. Packed rows are therefore filled up to a few sizes, the
number of boundaries and the longest sequence likewise, none of which changes what is computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

# Packed rows of random batches differ by some 30 % in tokens: with an eighth of the typical row as
# the step between sizes a handful occur, and a row is filled up by a sixteenth on average.
SIZES_PER_ROW = 8
MULTIPLE = 64  # of tokens, for sizes and for the longest sequence: a tile of the kernels
GRAPHS = 32  # torch gives up compiling after 8 shapes and runs the rest uncompiled


def compiled(module: torch.nn.Module, *, packed: bool, backend: Any = "inductor") -> Any:
    """Return a module that shares `module`'s weights and runs it as compiled graphs.

    Padded batches of text come in every length: their graph is made for any.

    Args:
        module: what runs forward; its own `forward` stays as it is.
        packed: inputs have gone through `fixed_shapes`.
        backend: of torch.compile.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    return torch.compile(module, dynamic=False if packed else None, backend=backend)


def size_step(lengths: NDArray[np.int64], rows: int) -> int:
    """Distance between the sizes of packed rows, in tokens.

    Args:
        lengths: tokens of each sequence of the data.
        rows: sequences in one forward.
    """
    typical = float(lengths.mean()) * min(rows, len(lengths))
    return max(1, round(typical / SIZES_PER_ROW / MULTIPLE)) * MULTIPLE


def fixed_shapes(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return a packed batch's inputs with few numbers of boundaries and few longest lengths.

    Boundaries beyond the batch's own are sequences of no tokens at the end. Inputs that are not
    packed are returned as they are.
    """
    if "cu_seq_lens_q" not in inputs:
        return inputs
    bounds = inputs["cu_seq_lens_q"]
    bounds = torch.cat([bounds, bounds[-1:].expand(-(len(bounds) - 1) % MULTIPLE)])
    longest = -(-inputs["max_length_q"] // MULTIPLE) * MULTIPLE
    return inputs | {
        "cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds,
        "max_length_q": longest, "max_length_k": longest,
    }  # fmt: skip
