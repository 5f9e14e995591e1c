"""Heads that read a sequence's first token, when sequences are laid end to end."""

from __future__ import annotations

from typing import Any

import torch

from components.train.isolation import Unpackable

SEQUENCE_TASKS = ("text-classification", "text-pair-ranking")


def pool_packed(model: torch.nn.Module) -> None:
    """Let the model's head see (sequences, 1, width) of first tokens instead of the packed row.

    The base model's output is replaced before the head reads ``[:, 0]`` of it; a pooler inside the
    base model (BERT) gets the same view. Decoders, which read the last token, are refused.

    Raises:
        Unpackable: the model is a decoder.
    """
    base = model.base_model
    if getattr(model.config, "pad_token_id", None) is None or hasattr(model, "score"):
        raise Unpackable("a decoder's head reads the last token of a row")
    first: list[torch.Tensor] = []

    def remember(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        bounds = kwargs["cu_seq_lens_q"].long()
        first[:] = [bounds[:-1].clamp(max=bounds[-1] - 1)]  # a sequence of no tokens has no first

    def gather(hidden: torch.Tensor) -> torch.Tensor:
        return hidden[0, first[0]][:, None]

    def replace(_: Any, args: Any, output: Any) -> Any:
        output["last_hidden_state"] = gather(output["last_hidden_state"])
        return output

    base.register_forward_pre_hook(remember, with_kwargs=True)
    base.register_forward_hook(replace)
    pooler = getattr(base, "pooler", None)
    if pooler is not None:
        pooler.register_forward_pre_hook(lambda _, args: (gather(args[0]), *args[1:]))
