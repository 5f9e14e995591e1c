"""The ingest step's arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from components.contract import SpecError
from components.ingest.unlabelled import Wanted
from components.lib.dataset import SPLITS, UNLABELLED

DEFAULT_FRACTION = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The step's arguments with their defaults."""

    task: str
    name: str
    model: dict[str, Any]
    uris: dict[str, str]
    fractions: dict[str, float]
    format: str
    columns: dict[str, Any]
    max_length: int
    seed: int
    redact: bool
    document_context: bool
    out_of_scope: str | None = None
    unlabelled: Wanted | None = None  # its uri is among `uris`

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Settings:
        data = arguments["data"]
        splits = {name: data.get(name) or {} for name in SPLITS}
        if not splits["train"].get("uri"):
            raise SpecError("data.train: needs a uri")
        uris = {name: str(part["uri"]) for name, part in splits.items() if part.get("uri")}
        fractions = {
            name: float(part.get("fraction") or DEFAULT_FRACTION)
            for name, part in splits.items()
            if name not in uris
        }
        unlabelled = data.get(UNLABELLED)
        if unlabelled:
            uris[UNLABELLED] = str(unlabelled["uri"])
        return cls(
            task=arguments["task"],
            name=arguments.get("name", "dataset"),
            model=arguments.get("model") or {"id": "minilm-l6"},
            uris=uris,
            fractions=fractions,
            format=data.get("format") or "auto",
            columns=data.get("columns") or {},
            max_length=int(arguments.get("max_length") or 128),
            seed=int(arguments.get("seed") or 0),
            redact=bool(data.get("redact")),
            document_context=bool(arguments.get("document_context")),
            out_of_scope=data.get("out_of_scope"),
            unlabelled=Wanted.of(unlabelled) if unlabelled else None,
        )
