"""The spec: what a person wants, parsed strictly.

Its sections are in `pipelines.spec_sections`; the rest of the author's side gets a frozen `Spec`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import PrivateAttr, ValidationError, model_validator

from components.contract import SpecError
from pipelines.spec_errors import describe_all, duplicate_keys, line_of, one_line
from pipelines.spec_sections import (
    Compression,
    Data,
    Model,
    Name,
    Objective,
    Section,
    Serving,
    Storage,
    Tracking,
    Training,
)

SPEC_VERSION = 1
URI_SCHEMES = ("file", "http", "https", "s3", "gs", "az", "abfs", "hf", "synthetic", "artifact")
UNLABELLED_TASKS = ("token-classification", "text-classification")


class Spec(Section):
    """One YAML file: model, data, quality to keep, deadline, budget."""

    schema_version: Literal[1] = 1
    name: Name
    task: Literal[
        "token-classification",
        "text-classification",
        "text-pair-ranking",
        "causal-lm",
        "image-classification",
    ]
    model: Model
    data: Data
    training: Training = Training()
    compression: Compression = Compression()
    serving: Serving = Serving()
    objective: Objective = Objective()
    storage: Storage = Storage()
    tracking: Tracking = Tracking()
    on_profile_change: Literal["stop", "continue"] = "stop"

    @model_validator(mode="after")
    def _labels_are_classes(self) -> Self:
        if self.data.out_of_scope and self.task not in (
            "text-classification",
            "image-classification",
        ):
            raise ValueError(f"data.out_of_scope means nothing for {self.task}")
        return self

    _folder: Path = PrivateAttr(default=Path())

    @property
    def folder(self) -> Path:
        """The folder that relative paths in the spec start from."""
        return self._folder

    @property
    def document(self) -> dict[str, Any]:
        """The spec as plain JSON values with every default filled in; keys that came later are
        left out while they are unset, so that older specs keep their fingerprint."""
        document: dict[str, Any] = self.model_dump(mode="json")
        for key in ("out_of_scope", "revision", "unlabelled"):
            if document["data"][key] is None:
                del document["data"][key]
        if document["training"]["augment"] is None:
            del document["training"]["augment"]
        return document

    def locate(self, reference: str) -> str:
        """Return `reference` as it is when it is a URI, else the absolute path it means."""
        scheme, separator, rest = reference.partition("://")
        if separator and scheme == "file":
            return str(Path(rest).resolve())
        if separator:
            return reference
        return str((self._folder / Path(reference).expanduser()).resolve())


def load_spec(path: Path) -> Spec:
    """Read and check the spec at `path`.

    Raises:
        SpecError: not readable, not YAML, or not a spec; names file, line, key and remedy.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such spec", remedy="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}", remedy="give a UTF-8 file") from None
    return parse_spec(text, source=str(path), folder=path.resolve().parent)


def parse_spec(text: str, *, source: str, folder: Path) -> Spec:
    """Parse a spec from `text`; `source` names it in errors, `folder` anchors relative paths.

    Raises:
        SpecError: see `load_spec`; all problems are listed, one a line.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        problems = list(duplicate_keys(root, source))
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SpecError(f"{source}: not YAML: {one_line(error)}", remedy="fix the syntax") from None
    if problems:
        raise SpecError("\n".join(problems), remedy="keep one of them")
    if root is None or not isinstance(document, dict):
        raise SpecError(f"{source}: a spec is a mapping, this is {type(document).__name__}")
    version = document.get("schema_version", SPEC_VERSION)
    if version != SPEC_VERSION:
        line = line_of(root, ("schema_version",))
        raise SpecError(
            f"{source}:{line}: schema_version {version!r} is not supported, only {SPEC_VERSION}",
            remedy=f"write schema_version: {SPEC_VERSION}",
        )
    try:
        spec = Spec.model_validate(document)
    except ValidationError as error:
        raise SpecError(describe_all(error, root, source, Spec)) from None
    spec._folder = folder
    _check_together(spec, root, source)
    return spec


def _check_together(spec: Spec, root: yaml.Node, source: str) -> None:
    """Checks that need more than one field."""

    def fail(path: tuple[str, ...], message: str, remedy: str) -> None:
        line = line_of(root, path)
        raise SpecError(f"{source}:{line}: {'.'.join(path)}: {message}", remedy=remedy)

    if spec.training.lora is not None and spec.training.method == "full":
        fail(("training", "lora"), "given, but training.method is full", "set method: lora")
    if spec.training.method != "full" and spec.task == "image-classification":
        fail(("training", "method"), "adapters are for text models", "use method: full")
    if spec.training.augment is not None and spec.task != "image-classification":
        fail(("training", "augment"), "views are of images", "leave it out")
    if spec.data.unlabelled is not None and spec.task not in UNLABELLED_TASKS:
        fail(
            ("data", "unlabelled"),
            f"{spec.data.unlabelled.uri!r} given, but a model for {spec.task} is not distilled on "
            f"texts without labels, only one for {' or '.join(UNLABELLED_TASKS)}",
            "leave it out",
        )
    for split in ("train", "validation", "test", "unlabelled"):
        uri = getattr(getattr(spec.data, split), "uri", None)
        scheme, separator, _ = (uri or "").partition("://")
        if separator and scheme not in URI_SCHEMES:
            fail(
                ("data", split, "uri"),
                f"scheme {scheme!r} is not one of {', '.join(URI_SCHEMES)}",
                "use a path or a supported scheme",
            )
    if not math.isfinite(spec.training.epochs * spec.training.max_length):
        fail(("training",), "epochs or max_length out of range", "use finite values")
