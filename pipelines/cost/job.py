"""What a run has to do, whatever it runs on: sizes that every step's cost follows from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from components.compress.recommend import check, recommended
from components.compress.recommend import kept_share as kept_of_layers
from pipelines.cost.model import model_shape
from pipelines.cost.profile import IMAGE_TOKENS, Profile
from pipelines.cost.shapes import ModelShape
from pipelines.spec import Spec

CPU_TARGETS = ("cpu",)
WEIGHT_BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0, "int8-static": 1.0, "int4": 0.55}


@dataclass(frozen=True, kw_only=True)  # no slots: derived figures are asked for thousands of times
class Job:
    """The work of a spec on its data."""

    spec: Spec
    shape: ModelShape
    profile: Profile
    variants: tuple[str, ...]

    @property
    def global_batch(self) -> int:
        """Samples of one optimiser step, never more than there are rows."""
        return min(self.spec.training.global_batch, self.profile["train"].rows)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.profile["train"].rows / self.global_batch)

    @property
    def train_steps(self) -> int:
        """Optimiser steps of the whole training, learning-rate search included."""
        rate = self.spec.training.learning_rate
        searches = getattr(rate, "search", 0)
        # A short run of the search is a quarter of an epoch (components.train.step).
        return round(self.steps_per_epoch * (self.spec.training.epochs + 0.25 * searches))

    def sequence_length(self, batch: int) -> float:
        """Mean padded length of length-bucketed batches of `batch` rows."""
        if self.spec.task == "image-classification":
            return float(self.shape.image_tokens or IMAGE_TOKENS)
        return self.profile["train"].padded_length(batch)

    @cached_property
    def longest(self) -> int:
        """Longest row, which memory must hold."""
        if self.spec.task == "image-classification":
            return self.shape.image_tokens or IMAGE_TOKENS
        return int(self.profile["train"].lengths.max())

    @cached_property
    def parameters(self) -> int:
        return self.shape.parameters

    @cached_property
    def trained_parameters(self) -> float:
        """Parameters that get gradients: all, or the adapters'."""
        if self.spec.training.method == "full":
            return float(self.parameters)
        lora = self.spec.training.lora
        rank = lora.rank if lora else 16
        width = self.shape.hidden_size + self.shape.query_size
        return 2.0 * rank * width * self.shape.num_layers

    @property
    def checkpoint_bytes(self) -> float:
        """Weights and optimiser states on disk (fp32 Adam: 12 bytes a trained parameter)."""
        frozen = self.parameters - self.trained_parameters
        return 12.0 * self.trained_parameters + 0.0 * frozen

    @property
    def scratch_on_volume(self) -> bool:
        """Whether steps work on the volume of the hot tier (`components.runtime.scratch_folder`)
        or, with an object store as hot tier, on their node's ephemeral storage."""
        return "://" not in (self.spec.storage.hot or "")

    @cached_property
    def target(self) -> str:
        """``cpu`` or ``gpu``: what the published model is made for."""
        return serving_target(self.spec)

    def model_bytes(self, variant: str) -> float:
        """Size of a variant's graph."""
        if variant not in self._model_bytes:
            self._model_bytes[variant] = self._size_of(variant)
        return self._model_bytes[variant]

    @cached_property
    def _model_bytes(self) -> dict[str, float]:
        return {}

    def _size_of(self, variant: str) -> float:
        parts = variant.split("+")
        width = min(WEIGHT_BYTES.get(part, 4.0) for part in parts)
        if width == 4.0 and self.target == "gpu" and "fp32" not in parts:
            width = 2.0
        return self.parameters * kept_share(self.shape, variant) * width


def make_job(spec: Spec, profile: Profile) -> Job:
    """Collect what `spec` asks for.

    Raises:
        SpecError: the model's architecture is not known, or can't be cut as a variant says.
    """
    shape = model_shape(spec)
    return Job(spec=spec, shape=shape, profile=profile, variants=variants_of(spec, shape, profile))


def serving_target(spec: Spec) -> str:
    """Return ``cpu`` or ``gpu`` for the spec's serving target (a GPU or instance name is a GPU
    target when the GPU table or the name of its family says so)."""
    from pipelines.cost.hardware import find_gpu

    target = spec.serving.target
    if target in ("cpu", "gpu"):
        return target
    if find_gpu(target) is not None:
        return "gpu"
    from pipelines.cost.catalog import load_catalog

    named = [i for i in load_catalog().instances if i.name == target]
    return "gpu" if any(i.gpu for i in named) else "cpu"


def variants_of(spec: Spec, shape: ModelShape, profile: Profile) -> tuple[str, ...]:
    """Return the variants to try, fp32 first: it is the reference of every comparison.

    Raises:
        SpecError: a variant that this model can't be cut to.
    """
    wanted, target = spec.compression.variants, serving_target(spec)
    if wanted == "auto":
        tokens = float(profile["train"].tokens)
        if spec.task == "image-classification":
            tokens = float(profile["train"].rows * (shape.image_tokens or IMAGE_TOKENS))
        return tuple(
            recommended(
                target=target, family=shape.family, layers=shape.num_layers,
                epoch_flops=6.0 * shape.num_layers * shape.layer_parameters * tokens,
                task=spec.task, pretrained=spec.model.config is None,
            )
        )  # fmt: skip
    rest = [variant for variant in dict.fromkeys(wanted) if variant != "fp32"]
    check(rest, target=target, family=shape.family, layers=shape.num_layers)
    return ("fp32", *rest)


def kept_share(shape: ModelShape, variant: str) -> float:
    """Share of the parameters that a variant keeps: ``prune50`` removes half of the encoder's,
    ``distill3`` keeps three layers; embeddings stay."""
    layers = shape.num_layers * shape.layer_parameters
    rest = max(shape.parameters - layers, 0)
    kept = layers * kept_of_layers(variant, shape.num_layers)
    return (kept + rest) / (layers + rest)
