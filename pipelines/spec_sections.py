"""The sections of a spec: their keys, defaults and what each section checks of itself.

pydantic is used here and in `pipelines.spec`, nowhere deeper.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

NAME_PATTERN = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
VARIANT_PATTERN = re.compile(
    r"(fp32|fp16|int8|int8-static|int4|embed4|prune[1-9][0-9]?|"
    r"speed[2-9]|distill[1-9][0-9]?)"
)
DURATION_PATTERN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def _name(value: str) -> str:
    if not NAME_PATTERN.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a DNS-1123 label of at most 40 characters: use lower-case letters, "
            "digits and inner hyphens"
        )
    return value


def _variant(value: str) -> str:
    for part in value.split("+"):
        if not VARIANT_PATTERN.fullmatch(part):
            raise ValueError(
                f"{part!r} is not a compression method: use fp32, fp16, int8, int8-static, int4, "
                "embed4, prune<percent>, speed<times>, distill<layers>, joined with +"
            )
    return value


def parse_duration(value: str | int) -> int:
    """Return the seconds in `value`: ``2h``, ``1h30m``, ``90s``, ``1d``, or a number of seconds.

    Raises:
        ValueError: another form, or not positive.
    """
    if isinstance(value, int):
        seconds = value
    else:
        match = DURATION_PATTERN.fullmatch(value)
        if not match or not value:
            raise ValueError(f"{value!r} is not a duration: write 45m, 2h, 1h30m or 1d")
        days, hours, minutes, rest = (int(group or 0) for group in match.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if seconds <= 0:
        raise ValueError(f"{value!r} is not a positive duration")
    return seconds


def _duration(value: str | int) -> str | int:
    parse_duration(value)
    return value


class Section(BaseModel):
    """A mapping of the spec: unknown keys and wrong types are errors, nothing is coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Capacity = Literal["on-demand", "spot"]
CAPACITIES: tuple[Capacity, ...] = ("on-demand", "spot")
Name = Annotated[str, AfterValidator(_name)]
Variant = Annotated[str, AfterValidator(_variant)]
Duration = Annotated[str | int, AfterValidator(_duration)]
Fraction = Annotated[float, Field(gt=0.0, le=0.5)]
PositiveNumber = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class Model(Section):
    """Which model to start from: pretrained (`id`) or an architecture from scratch (`config`)."""

    id: str | None = None
    config: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.id is None) == (self.config is None):
            raise ValueError(
                "give exactly one of id (pretrained weights) and config (from scratch)"
            )
        return self


class Source(Section):
    """One split: its own URI, or a fraction taken from train, stratified, by seed."""

    uri: str | None = None
    fraction: Fraction | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.uri is None) == (self.fraction is None):
            raise ValueError("give exactly one of uri and fraction")
        return self


class Unlabelled(Section):
    """Texts without labels that compression may learn the tuned model's answers on."""

    uri: Annotated[str, Field(min_length=1)]
    format: Literal["auto", "text", "conll", "csv", "tsv", "jsonl", "json", "parquet", "arrow"] = (
        "auto"
    )
    column: str | int | None = None  # text, or words of a tagger; the usual names are tried
    limit: Annotated[int, Field(gt=0)] | None = None  # so many rows from the beginning


class Profile(Section):
    """What is known of data that can't be read at plan time."""

    rows: Annotated[int, Field(gt=0)]
    tokens: Annotated[int, Field(gt=0)]
    length_histogram: dict[int, Annotated[int, Field(ge=0)]] | None = None


class Data(Section):
    """Where the data is and what its columns mean."""

    train: Source
    validation: Source = Source(fraction=0.1)
    test: Source = Source(fraction=0.1)
    # For encoders of texts: see docs/compression.md.
    unlabelled: Unlabelled | None = None
    format: Literal[
        "auto", "conll", "csv", "tsv", "jsonl", "json", "parquet", "arrow", "imagefolder"
    ] = "auto"
    columns: dict[str, str | int] = Field(default_factory=dict)
    profile: Profile | None = None
    redact: bool = False
    # The label of texts that belong to no class: they are rejected by a threshold, see
    # components/lib/scope.py.
    out_of_scope: Annotated[str, Field(min_length=1)] | None = None
    # Names the state of the data; another one is another run (`suanli monitor` writes it).
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")] | None = None

    @model_validator(mode="after")
    def _train_is_read(self) -> Self:
        if self.train.uri is None:
            raise ValueError("train needs a uri (fractions are taken from train)")
        return self


class Lora(Section):
    """Low-rank adapters."""

    rank: Annotated[int, Field(gt=0, le=1024)] = 16
    alpha: PositiveNumber = 32.0
    targets: list[str] | None = None


class Search(Section):
    """Spend `search` short runs on finding the value."""

    search: Annotated[int, Field(gt=1, le=32)]


class EarlyStopping(Section):
    """Stop when the main metric has not improved for `patience` evaluations."""

    patience: Annotated[int, Field(gt=0)] = 2


class Augment(Section):
    """Other views of each training image: see components/lib/augment.py."""

    rotate_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 15.0
    scale: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    shift: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    flip: bool = False
    brightness: Annotated[float, Field(ge=0.0, le=1.0)] = 0.3
    mixup: Annotated[float, Field(ge=0.0, le=10.0)] = 0.2
    smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1


class Training(Section):
    """How to fine-tune."""

    method: Literal["full", "lora", "adalora"] = "full"
    lora: Lora | None = None
    epochs: Annotated[int, Field(gt=0, le=1000)] = 3
    max_length: Annotated[int, Field(ge=8, le=131072)] = 128
    global_batch: Annotated[int, Field(gt=0)] = 32
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    optimizer: Literal["auto", "adamw", "adafactor", "adamw-8bit"] = "auto"
    learning_rate: Literal["auto"] | PositiveNumber | Search = "auto"
    early_stopping: EarlyStopping | None = None
    class_weights: Literal["balanced"] | None = None
    document_context: bool = False
    compile: bool = False
    augment: Augment | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class Compression(Section):
    """How much quality may be given up, and for what."""

    max_quality_drop: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01
    gate: Literal["point", "bound"] = "point"
    variants: Literal["auto"] | Annotated[list[Variant], Field(min_length=1)] = "auto"


class Serving(Section):
    """What the published model must do."""

    target: str = "cpu"
    p99_latency_ms: PositiveNumber | None = None
    requests_per_second: PositiveNumber = 10.0


class Objective(Section):
    """What to minimise, within which limits."""

    minimize: Literal["cost", "time"] = "cost"
    deadline: Duration | None = None
    budget_usd: PositiveNumber | None = None
    capacity: Annotated[list[Capacity], Field(min_length=1)] = Field(
        default_factory=lambda: list(CAPACITIES)
    )
    regions: list[str] | None = None
    max_network_latency_ms: PositiveNumber | None = None
    hardware: str | list[str] = "any"
    here_usd_per_hour: PositiveNumber | None = None

    @property
    def deadline_s(self) -> int | None:
        """The deadline in seconds."""
        return None if self.deadline is None else parse_duration(self.deadline)


class Credentials(Section):
    """Names of Kubernetes secrets; never their content."""

    secret: str


class Storage(Section):
    """Tiers by URI; an absent one lives beside the run."""

    hot: str | None = None
    warm: str | None = None
    cold: str | None = None
    retention_days: Annotated[int, Field(gt=0)] = 365
    credentials: Credentials | None = None


class Tracking(Section):
    """Where training curves go."""

    tensorboard: bool = True
    wandb: bool = False
