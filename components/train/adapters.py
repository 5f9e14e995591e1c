"""Low-rank adapters (peft): added before training, merged into the weights before saving."""

from __future__ import annotations

from typing import Any

import torch

from components.contract import SpecError
from components.train.job import Job

DEFAULT_RANK = 16
DEFAULT_ALPHA = 32.0
# AdaLoRA starts with more rank than it keeps (Zhang et al. 2023: 1.5 times).
INITIAL_RANK_FACTOR = 1.5
ORTHOGONALITY_WEIGHT = 0.5


def add_adapters(model: torch.nn.Module, job: Job, total_steps: int) -> torch.nn.Module:
    """Freeze `model`, add adapters to its linear layers and leave its fresh head trainable.

    Raises:
        SpecError: ``lora.targets`` names no layer of this model.
    """
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    targets = job.lora.get("targets") or linear_names(model)
    known = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    unknown = [t for t in targets if t.rsplit(".", 1)[-1] not in known]
    if unknown:
        raise SpecError(
            f"training.lora.targets: the model has no layer {unknown[0]!r}",
            remedy=f"its linear layers are {', '.join(linear_names(model))}",
        )
    rank = int(job.lora.get("rank") or DEFAULT_RANK)
    common: dict[str, Any] = {
        "target_modules": targets,
        "lora_alpha": float(job.lora.get("alpha") or DEFAULT_ALPHA),
        "lora_dropout": 0.0,
        "modules_to_save": head_names(model) if job.task != "causal-lm" else None,
    }
    if job.method == "adalora":
        config: Any = AdaLoraConfig(
            init_r=int(rank * INITIAL_RANK_FACTOR),
            target_r=rank,
            tinit=total_steps // 10,
            tfinal=total_steps // 4,
            deltaT=max(1, total_steps // 100),
            total_step=max(total_steps, 1),
            **common,
        )
    else:
        config = LoraConfig(r=rank, **common)
    return get_peft_model(model, config)


def merge(model: torch.nn.Module) -> torch.nn.Module:
    """Return the plain model with the adapters added into its weights."""
    merged: torch.nn.Module = model.merge_and_unload()
    return merged


def linear_names(model: torch.nn.Module) -> list[str]:
    """Last name components of the linear layers below the head."""
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.base_model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith("pooler")
    }
    return sorted(names)


def head_names(model: torch.nn.Module) -> list[str]:
    """Names of what sits beside the base model: the task's head (and BERT's pooler, whose
    pretraining task was another one)."""
    base = model.base_model_prefix
    return [name for name, child in model.named_children() if name != base and _has_weights(child)]


def orthogonality(model: torch.nn.Module) -> torch.Tensor | float:
    """AdaLoRA's regulariser: how far its singular vectors are from orthogonal, weighted."""
    total: Any = 0.0
    count = 0
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            matrix = parameter.float()
            gram = matrix @ matrix.T if "lora_A" in name else matrix.T @ matrix
            total = total + torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device))
            count += 1
    return ORTHOGONALITY_WEIGHT * total / max(count, 1)


def _has_weights(module: torch.nn.Module) -> bool:
    return any(True for _ in module.parameters())
