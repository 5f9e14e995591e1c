"""Validate Kubernetes objects offline: core kinds by the API's own schemas, custom kinds by their
CRDs, unknown fields refused in both."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.support import SHARED

CRDS = SHARED / "crds"
CORE_VERSIONS = ("1.33", "1.34", "1.35", "1.36")


def load_all(text: str) -> list[dict[str, Any]]:
    return [item for item in yaml.load_all(text, Loader=yaml.CSafeLoader) if item]


def problems(item: dict[str, Any], *, versions: tuple[str, ...] = CORE_VERSIONS) -> list[str]:
    """Return what is wrong with the object, in each Kubernetes version or by its CRD."""
    import kubernetes_validate

    name = f"{item['kind']} {item['metadata']['name']}"
    schema = custom_schema(item["apiVersion"], item["kind"])
    if schema is not None:
        validator = jsonschema.Draft202012Validator(schema)
        return [f"{name}: {e.json_path}: {e.message}" for e in validator.iter_errors(item)]
    found = []
    for version in versions:
        try:
            kubernetes_validate.validate(item, version, strict=True)
        except (
            kubernetes_validate.ValidationError,
            kubernetes_validate.SchemaNotFoundError,
        ) as error:
            found.append(f"{name}: Kubernetes {version}: {error}")
    return found


def unstated_defaults(item: dict[str, Any]) -> list[str]:
    """Return the fields inside lists that the CRD fills in: kubectl and Argo CD compare a custom
    object's lists as a whole, so each of these is a difference for ever."""
    schema = custom_schema(item["apiVersion"], item["kind"])
    return list(_unstated(schema, item, f"{item['kind']} {item['metadata']['name']}: ", False))


def _unstated(schema: Any, value: Any, path: str, in_list: bool) -> Iterator[str]:
    if isinstance(value, list) and schema:
        for number, part in enumerate(value):
            yield from _unstated(schema.get("items"), part, f"{path}[{number}]", True)
    elif isinstance(value, dict) and schema:
        for key, part in schema.get("properties", {}).items():
            if key in value:
                yield from _unstated(part, value[key], f"{path}.{key}", in_list)
            elif in_list and "default" in part:
                yield f"{path}.{key} is not stated (the CRD fills in {part['default']!r})"


@functools.cache
def custom_schema(api_version: str, kind: str) -> dict[str, Any] | None:
    """Return the closed JSON Schema of a custom kind from ../shared/crds, None for core kinds."""
    group, _, wanted = api_version.partition("/")
    for path in sorted(CRDS.glob("*/*.yaml")):
        text = path.read_text()
        if f"  group: {group}\n" not in text or f"    kind: {kind}\n" not in text:
            continue  # parsing all of them takes half a minute
        for crd in _read_crd(text):
            if (crd["spec"]["group"], crd["spec"]["names"]["kind"]) != (group, kind):
                continue
            for version in crd["spec"]["versions"]:
                if version["name"] == wanted:
                    return _closed(version["schema"]["openAPIV3Schema"])
    return None


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    schema["properties"] |= {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    }
    _close(schema)
    return schema


class _CrdLoader(yaml.CSafeLoader):
    """Reads a lone ``=`` as a string (YAML 1.1 gives it a type of its own; Prometheus uses it)."""


_CrdLoader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: node.value)


def _read_crd(text: str) -> list[dict[str, Any]]:
    documents = yaml.load_all(text, Loader=_CrdLoader)
    return [d for d in documents if d and d["kind"] == "CustomResourceDefinition"]


def _close(schema: Any) -> None:
    """Refuse unknown fields, as server-side field validation does; read int-or-string and nullable
    the way Kubernetes does."""
    if isinstance(schema, list):
        for item in schema:
            _close(item)
        return
    if not isinstance(schema, dict):
        return
    keeps = schema.get("x-kubernetes-preserve-unknown-fields")
    if (
        isinstance(schema.get("properties"), dict)
        and not keeps
        and "additionalProperties" not in schema
        and schema.get("type") == "object"
    ):
        schema["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
        schema.pop("anyOf", None)
        schema["type"] = ["integer", "string"]
    if schema.pop("nullable", False) and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    for key, value in list(schema.items()):
        if key in ("properties", "patternProperties"):
            for part in value.values():
                _close(part)
        elif key in ("items", "additionalProperties", "allOf", "anyOf", "oneOf", "not"):
            _close(value)


def kubectl() -> str | None:
    """Return the kubectl to use: $PATH's, or None."""
    return shutil.which("kubectl")


def kustomize(folder: Path) -> list[dict[str, Any]]:
    """Return the objects of a kustomize folder, built by kubectl, which carries kustomize."""
    binary = kubectl()
    assert binary, "kubectl is needed to build kustomize folders: install it"
    done = subprocess.run(
        [binary, "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return load_all(done.stdout)
