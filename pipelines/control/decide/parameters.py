"""The parameters of a pipeline compiled with ``--requests dynamic``: what a person changes in the
KFP UI, and the spec that their values make of the compiled one."""

from __future__ import annotations

import copy
import json
from typing import Any

from pydantic import ValidationError

from components.contract import SpecError
from pipelines.credentials import refuse_credentials
from pipelines.plan import Plan
from pipelines.spec import Spec

SPLITS = ("train", "validation", "test")
Values = dict[str, Any]

# Parameter -> where it stands in the spec. The pipeline's signature (dag.py) describes them.
PLACES = {
    **{f"{split}_uri": ("data", split, "uri") for split in SPLITS},
    "epochs": ("training", "epochs"),
    "learning_rate": ("training", "learning_rate"),
    "seed": ("training", "seed"),
    "max_quality_drop": ("compression", "max_quality_drop"),
    "deadline": ("objective", "deadline"),
    "budget_usd": ("objective", "budget_usd"),
    "capacity": ("objective", "capacity"),
}


def located_spec(plan: Plan) -> dict[str, Any]:
    """Return the plan's spec with data and model as the steps find them (a pod has no folder of
    the spec that relative paths could start from)."""
    spec = copy.deepcopy(plan.spec)
    sources = plan.step("ingest").arguments.get("data") or {}
    for split in SPLITS:
        uri = (sources.get(split) or {}).get("uri")
        if uri:
            spec["data"][split] = {"uri": uri, "fraction": None}
    if sources.get("unlabelled"):
        spec["data"]["unlabelled"] = sources["unlabelled"]
    model = plan.step("train").arguments.get("model")
    if model:
        spec["model"] = {"id": None, "config": None, **model}
    return spec


def default_values(spec: dict[str, Any]) -> Values:
    """Return the value of each parameter that leaves `spec` (a whole document) as it is."""
    objective, training = spec["objective"], spec["training"]
    rate = training["learning_rate"]
    return {
        **{f"{split}_uri": spec["data"][split]["uri"] or "" for split in SPLITS},
        "epochs": training["epochs"],
        "learning_rate": rate if isinstance(rate, str) else json.dumps(rate),
        "seed": training["seed"],
        "max_quality_drop": spec["compression"]["max_quality_drop"],
        "deadline": str(objective["deadline"] or ""),
        "budget_usd": float(objective["budget_usd"] or 0.0),
        "capacity": ", ".join(objective["capacity"]),
    }


def with_values(document: dict[str, Any], values: Values) -> Spec:
    """Return the spec that `document` becomes with the parameters' `values` (see the pipeline's
    own description of them: empty text and a budget of 0 mean none).

    Raises:
        SpecError: an unknown parameter, or a value that the spec does not allow; names it.
    """
    known = {**default_values(document), **values}
    unknown = sorted(set(known) - set(PLACES))
    if unknown:
        raise SpecError(
            f"the pipeline has no parameter {unknown[0]!r}",
            remedy=f"parameters: {', '.join(sorted(PLACES))}",
        )
    for split in SPLITS:
        refuse_credentials(known[f"{split}_uri"], f"parameter {split}_uri")
    spec = copy.deepcopy(document)
    for split in SPLITS:
        uri = str(known[f"{split}_uri"]).strip()
        if uri:
            spec["data"][split] = {"uri": uri, "fraction": None}
        elif split == "train":
            raise SpecError("parameter train_uri is empty", remedy="name the training data")
    if known["train_uri"] != document["data"]["train"]["uri"]:
        spec["data"]["profile"] = None  # described other data
    spec["training"] |= {
        "epochs": known["epochs"],
        "seed": known["seed"],
        "learning_rate": _rate(str(known["learning_rate"]).strip()),
    }
    spec["compression"]["max_quality_drop"] = known["max_quality_drop"]
    spec["objective"] |= {
        "deadline": _seconds_or_text(str(known["deadline"]).strip()),
        "budget_usd": known["budget_usd"] or None,
        "capacity": [part.strip() for part in str(known["capacity"]).split(",") if part.strip()],
    }
    try:
        return Spec.model_validate(spec)
    except ValidationError as error:
        raise SpecError("\n".join(_describe(error, known)), remedy="change the value") from None


def from_text(texts: dict[str, str], document: dict[str, Any]) -> Values:
    """Return parameters given as text (a command line) in the types that KFP expects.

    Raises:
        SpecError: an unknown parameter, not a number, or not allowed by the spec.
    """
    defaults = default_values(document)
    values: Values = {}
    for name, text in texts.items():
        kind = type(defaults.get(name, ""))
        try:
            values[name] = kind(text)
        except ValueError:
            raise SpecError(
                f"parameter {name}: {text!r} is not "
                f"{'a whole number' if kind is int else 'a number'}",
                remedy="write digits only",
            ) from None
    with_values(document, values)
    return values


def _rate(text: str) -> Any:
    """``auto``, a number, or ``{"search": 8}``."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _seconds_or_text(text: str) -> Any:
    if not text:
        return None
    return int(text) if text.isdecimal() else text


def _describe(error: ValidationError, values: Values) -> list[str]:
    """One line for each parameter: its name, its value, what is wrong."""
    lines: dict[str, list[str]] = {}
    for problem in error.errors():
        place = tuple(part for part in problem["loc"] if isinstance(part, str))
        names = [name for name, path in PLACES.items() if place[: len(path)] == path]
        field = f"parameter {names[0]} {values[names[0]]!r}" if names else ".".join(place)
        lines.setdefault(field, []).append(problem["msg"].removeprefix("Value error, "))
    return [f"{field}: {' or '.join(dict.fromkeys(texts))}" for field, texts in lines.items()]
