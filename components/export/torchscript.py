"""Trace a model to plain ONNX.

Always with eager attention: after SDPA or the dynamo exporter the fusions of ONNX Runtime find a
fraction of the attentions, or none (65 nodes against 127 on a 4-layer BERT, or no Attention).
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from components.contract import DataError
from components.lib import onnx_graph

# Example batch for the tracer: two sequences, one of them padded, so that no size is constant.
EXAMPLE_LENGTHS = (11, 7)
MISSING_OPERATOR = re.compile(r"(?:operator|Exporting the operator) '?([\w:.]+)'?")


class _Logits(torch.nn.Module):
    """Feeds the model by position (the tracer's order) and returns only its logits."""

    def __init__(self, model: torch.nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        extra = {"use_cache": False} if getattr(self.model.config, "is_decoder", None) else {}
        return self.model(**dict(zip(self.names, tensors, strict=True)), **extra).logits


def input_names(model: torch.nn.Module, task: str) -> tuple[str, ...]:
    """Return the graph's inputs in order: images, or ids and mask (and segments for pairs)."""
    if task == "image-classification":
        return ("pixel_values",)
    pairs = task == "text-pair-ranking" and getattr(model.config, "type_vocab_size", 0) > 1
    return ("input_ids", "attention_mask") + (("token_type_ids",) if pairs else ())


def example(model: torch.nn.Module, task: str) -> tuple[torch.Tensor, ...]:
    """Return a small batch to trace with."""
    if task == "image-classification":
        config = model.config
        size = config.image_size
        return (torch.rand(2, getattr(config, "num_channels", 3), size, size),)
    longest = max(EXAMPLE_LENGTHS)
    ids = torch.randint(5, model.config.vocab_size, (len(EXAMPLE_LENGTHS), longest))
    lengths = torch.tensor(EXAMPLE_LENGTHS)[:, None]
    mask = (torch.arange(longest) < lengths).long()
    return (ids, mask, torch.zeros_like(ids))[: len(input_names(model, task))]


def trace(model: torch.nn.Module, task: str, path: Path) -> None:
    """Write `model` as a plain ONNX graph with dynamic batch and length.

    Raises:
        DataError: the exporter cannot express the model; names the operator.
    """
    names = input_names(model, task)
    if task == "image-classification":
        axes: dict[str, dict[int, str]] = {"pixel_values": {0: "batch"}, "logits": {0: "batch"}}
    else:
        axes = {name: {0: "batch", 1: "length"} for name in names}
        axes["logits"] = {0: "batch"}
        if task in ("token-classification", "causal-lm"):
            axes["logits"][1] = "length"
    wrapper = _Logits(model, names).eval()
    try:
        with torch.no_grad(), _quiet():
            torch.onnx.export(
                wrapper,
                example(model, task),
                str(path),
                input_names=list(names),
                output_names=["logits"],
                dynamic_axes=axes,
                opset_version=onnx_graph.OPSET,
                dynamo=False,
                do_constant_folding=True,
            )
    except OSError:
        raise
    except Exception as error:  # torch has no common class for what it can't export
        raise _inexpressible(model, error) from error


def _inexpressible(model: Any, error: Exception) -> DataError:
    text = str(error)
    found = MISSING_OPERATOR.search(text)
    operator = f"operator {found.group(1)}" if found else text.strip().splitlines()[0]
    return DataError(
        f"{type(model).__name__} cannot be expressed in ONNX opset {onnx_graph.OPSET}: {operator}",
        remedy="choose a model without it, or write it from operators that ONNX has",
    )


@contextlib.contextmanager
def _quiet() -> Any:
    """Silence the tracer: it prints pages of advice for each model."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
