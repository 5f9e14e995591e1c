"""Say where in a YAML document something is wrong: file, line, key, value and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError


def describe_all(
    error: ValidationError, root: yaml.Node, source: str, model: type[BaseModel]
) -> str:
    """One line for each place; what a union would have taken instead is joined with "or"."""
    places: dict[str, list[str]] = {}
    for problem in error.errors():
        place, message = _describe(problem, root, source, model)
        places.setdefault(place, []).append(message)
    return "\n".join(f"{place}: {' or '.join(texts)}" for place, texts in places.items())


def _describe(
    problem: Any, root: yaml.Node, source: str, model: type[BaseModel]
) -> tuple[str, str]:
    """Place (file, line, key) and message (what is wrong, the value, the remedy)."""
    path = tuple(part for part in problem["loc"] if isinstance(part, str | int))
    path = _existing(root, path)
    line = line_of(root, path)
    key = ".".join(str(part) for part in path) or "spec"
    kind = problem["type"]
    if kind == "extra_forbidden":
        key = ".".join(str(part) for part in problem["loc"])
        known = _known_keys(model, tuple(str(part) for part in problem["loc"][:-1]))
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{source}:{line}: {key}", f"unknown key; {hint}"
    if kind == "missing":
        missing = ".".join(str(part) for part in problem["loc"])
        return f"{source}:{line}: {missing}", "required and missing; add it"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{source}:{line}: {key}", f"{message}; got {_shorten(problem['input'])}"


def _existing(root: yaml.Node, path: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Drop the union tags that pydantic adds to a location: keep what the YAML really has."""
    kept: list[str | int] = []
    for part in path:
        if _child(_node_at(root, tuple(kept)), part) is not None:
            kept.append(part)
    return tuple(kept)


def _known_keys(section: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    for part in path:
        info = section.model_fields.get(part)
        if info is None:
            break
        choices = [info.annotation, *getattr(info.annotation, "__args__", ())]
        sections = [c for c in choices if isinstance(c, type) and issubclass(c, BaseModel)]
        if sections:
            section = sections[0]
    return sorted(section.model_fields)


def _child(node: yaml.Node | None, part: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                child: yaml.Node = value
                return child
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        item: yaml.Node = node.value[part]
        return item
    return None


def _node_at(root: yaml.Node, path: tuple[str | int, ...]) -> yaml.Node | None:
    node: yaml.Node | None = root
    for part in path:
        node = _child(node, part)
    return node


def line_of(root: yaml.Node, path: tuple[str | int, ...]) -> int:
    """Return the line of the key that `path` leads to, or of the last part of it that exists."""
    node, line = root, root.start_mark.line
    for part in path:
        child = _child(node, part)
        if child is None:
            break
        line = child.start_mark.line
        if isinstance(node, yaml.MappingNode):
            line = next(k.start_mark.line for k, _ in node.value if k.value == str(part))
        node = child
    return int(line) + 1


def duplicate_keys(node: yaml.Node | None, source: str) -> Iterator[str]:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                yield f"{source}:{line}: {key.value}: also given on line {seen[key.value]}"
            seen[key.value] = line
            yield from duplicate_keys(value, source)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from duplicate_keys(item, source)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
