"""Bytes that autograd saves in one transformer layer, against the cost model's count.

Usage: python -m benchmarks.saved_tensors [results.json]
Runs small models with random weights on the CPU (seconds): every storage that a hook on saved
tensors sees, parameters apart, counts once; the difference between four layers and two is what two
layers save. No published row is involved. Kernels of a GPU save the same operands; what a GPU
adds (allocator, work space) is not in this count.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from pipelines.cost.columns import columns_of
from pipelines.cost.hf_config import from_hf_config
from pipelines.cost.memory import PRIORS
from pipelines.cost.memory_activations import layer_bytes
from pipelines.cost.memory_states import mode_of
from pipelines.cost.workload import Workload

HIDDEN, HEADS, BATCH, LENGTH = 256, 4, 2, 64
MODELS: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "intermediate_size": 4 * HIDDEN},
    "roberta": {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "intermediate_size": 1024},
    "gpt_neox": {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "intermediate_size": 1024},
    "llama": {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
              "intermediate_size": 688},
    "qwen2": {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_key_value_heads": 1,
              "intermediate_size": 768},
}  # fmt: skip
ENCODERS = {"bert", "roberta"}


@contextmanager
def counted(parameters: set[int]) -> Iterator[dict[int, int]]:
    """Collect bytes of saved storages by address; parameters are not counted."""
    seen: dict[int, int] = {}
    alive: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield seen


def saved_bytes(family: str, layers: int, precision: str, attention: str) -> int:
    """Return bytes that one forward of a model of `layers` layers saves."""
    # With dropout the CPU has no fused attention.
    quiet = {} if attention == "eager" else {"attention_probs_dropout_prob": 0.0}
    config = AutoConfig.for_model(
        family, num_hidden_layers=layers, vocab_size=512, attn_implementation=attention,
        use_cache=False, **MODELS[family], **(quiet if family in ENCODERS else {}),
    )  # fmt: skip
    maker = AutoModel if family in ENCODERS else AutoModelForCausalLM
    model = maker.from_config(config).train()
    if precision == "pure":
        model = model.to(torch.bfloat16)
    ids = torch.randint(0, 512, (BATCH, LENGTH))
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    cast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast")
    with cast, counted(weights) as seen:
        output = model(ids)
        total = sum(seen.values())
    if precision == "autocast":
        # Half copies of the weights are counted among the states.
        total -= (
            layers
            * 2
            * sum(p.numel() for n, p in model.named_parameters() if ".0." in n and p.dim() > 1)
        )
    del output
    return total


def count(family: str, precision: str, attention: str) -> float:
    """Return the cost model's bytes a token and layer."""
    document = AutoConfig.for_model(family, **MODELS[family]).to_dict()
    shape = from_hf_config(document)
    workload = Workload(
        kind="train", task="finetune" if family in ENCODERS else "pretrain", shape=shape,
        gpu="A100-80GB", seq_len=LENGTH, micro_batch=BATCH,
        precision="fp32" if precision == "fp32" else "bf16", pure_precision=precision == "pure",
        attention="eager" if attention == "eager" else "sdpa", head="small",
    )  # fmt: skip
    columns = columns_of([workload])
    theta = {name: value for name, (value, _) in PRIORS.items()}
    return float(layer_bytes(columns, mode_of(columns), theta)[0])


def gpu_dropout(
    x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    """Dropout as a GPU does it: the mask kept is of one byte, not as wide as the input."""
    return torch.native_dropout(x, p, training)[0] if training and p > 0 else x


def main() -> None:
    torch.manual_seed(0)
    torch.nn.functional.dropout = gpu_dropout
    rows = []
    for family in MODELS:
        for precision in ("fp32", "pure", "autocast"):
            for attention in ("sdpa", "eager"):
                two, four = (saved_bytes(family, n, precision, attention) for n in (2, 4))
                measured = (four - two) / 2 / (BATCH * LENGTH)
                counted_ = count(family, precision, attention)
                row = {"model": family, "precision": precision, "attention": attention,
                       "saved": round(measured), "counted": round(counted_),
                       "error": round(counted_ / measured - 1, 4)}  # fmt: skip
                rows.append(row)
                print(*row.values(), sep="\t")
    errors = sorted(abs(r["error"]) for r in rows)
    print(f"median {errors[len(errors) // 2]:.3f} mean {sum(errors) / len(errors):.3f}")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
