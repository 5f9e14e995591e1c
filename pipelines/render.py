"""Write a kustomize folder that `kubectl apply -k`, Argo CD or Flux can take.

The folder holds the compiled pipeline, the decision for a reviewer, and a Job that submits the
run. The Job is named by the content of everything that it sends: applying it again does nothing,
a change makes a new Job. Runs are no Kubernetes objects (KEP-11551), hence the Job.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from components.contract import SpecError
from pipelines.credentials import refuse_credentials
from pipelines.jobs import (
    CALIBRATION_FILE,
    CATALOG_FILE,
    RenderOptions,
    check_options,
    cron_job,
    job,
    run_config_name,
    spec_config_name,
)
from pipelines.plan import Plan
from pipelines.review import decision_markdown
from pipelines.submission import submission_of

# Kubernetes limits a ConfigMap to 1 MiB (etcd's request size).
CONFIG_MAP_BYTES = 1 << 20
# What a catalogue file may be; anything else is read as CSV (`pipelines.cost.own_catalog`).
CATALOG_SUFFIXES = (".yaml", ".yml", ".json")
OUTPUTS = (
    "kustomization.yaml", "pipeline.yaml", "run.json", "plan.json", "decision.md", "job.yaml",
    "cronjob.yaml", "spec.yaml", CALIBRATION_FILE, "pipeline-object.yaml",
    "pipelineversion-object.yaml",
)  # fmt: skip


def render(
    plan: Plan, ir_yaml: str, output: Path, *, options: RenderOptions | None = None
) -> list[Path]:
    """Write the folder and return its files; files of an earlier render that no longer belong are
    removed, others are left alone.

    Raises:
        SpecError: a name, label, host or schedule is malformed, the pipeline is too large, or the
            folder can't be written. Nothing is written then.
    """
    options = options or RenderOptions()
    check_options(options)
    refuse_credentials(plan.spec)
    files = rendered_files(plan, ir_yaml, options)
    return _write(files, output)


def rendered_files(plan: Plan, ir_yaml: str, options: RenderOptions) -> dict[str, str]:
    """Return the text of each file by name; a pure function of its arguments."""
    submission = submission_of(plan, ir_yaml, data=options.data)
    files = {
        "pipeline.yaml": ir_yaml,
        "run.json": _json(submission.to_json()),
        "plan.json": _json(plan.to_json()),
        "decision.md": decision_markdown(plan),
    }
    run_files = ["pipeline.yaml", "run.json"]
    _check_size(files, run_files, "the compiled pipeline has", "list fewer compression.variants")
    generators = [_config_map(run_config_name(plan.name), run_files)]
    resources = {"job.yaml": job(submission, files, options)}
    if options.schedule:
        files |= {"spec.yaml": _yaml(_located_spec(plan)), **options.planning_files}
        spec_files = ["spec.yaml", *options.planning_files]
        _check_size(
            files, spec_files, "spec, catalogues and calibration have",
            "leave rows that this spec can't use out of --catalog",
        )  # fmt: skip
        generators.append(_config_map(spec_config_name(plan.name), spec_files))
        resources["cronjob.yaml"] = cron_job(plan, options)
    if options.manifest:
        for item in yaml.safe_load_all(options.manifest):
            resources[f"{item['kind'].lower()}-object.yaml"] = item
    files |= {name: _yaml(item) for name, item in resources.items()}
    files["kustomization.yaml"] = _yaml(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": options.namespace,
            "resources": sorted(resources),
            "configMapGenerator": generators,
            "generatorOptions": {"immutable": True},
        }
    )
    return files


def planning_files(catalogs: Sequence[Path], calibration: Path | None) -> dict[str, str]:
    """Return the texts of the files that the plan was made from, by their names in the folder.

    Raises:
        SpecError: one can't be read.
    """
    files = {}
    for number, path in enumerate(catalogs, start=1):
        suffix = path.suffix.lower() if path.suffix.lower() in CATALOG_SUFFIXES else ".csv"
        files[CATALOG_FILE.format(number=number, suffix=suffix)] = _read(path)
    if calibration is not None:
        files[CALIBRATION_FILE] = _read(calibration)
    return files


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}", remedy="check the path") from None


def _check_size(files: dict[str, str], names: list[str], what: str, remedy: str) -> None:
    size = sum(len(files[name].encode()) for name in names)
    if size > CONFIG_MAP_BYTES:
        raise SpecError(f"{what} {size} bytes, a ConfigMap holds {CONFIG_MAP_BYTES}", remedy=remedy)


def local_sources(plan: Plan) -> list[str]:
    """Return a warning for each source that only this machine can read."""
    return [
        f"{key} {path} is a local path: pods see it only if it is mounted there"
        for key, path in _local_paths(plan)
    ]


def _local_paths(plan: Plan) -> Iterator[tuple[str, str]]:
    """The spec's keys, with what they mean, whose data or model lies on this machine."""
    arguments = plan.step("ingest").arguments
    for split, part in (arguments.get("data") or {}).items():
        if isinstance(part, dict) and part.get("uri") and "://" not in part["uri"]:
            yield f"data.{split}.uri", part["uri"]
    for key, name in (arguments.get("model") or {}).items():
        if isinstance(name, str) and Path(name).is_absolute():
            yield f"model.{key}", name


def _located_spec(plan: Plan) -> dict[str, Any]:
    """The spec with the data's URIs as the planner located them.

    Raises:
        SpecError: data or model is on the machine that renders; a scheduled pod can't read it.
    """
    for key, path in _local_paths(plan):
        raise SpecError(
            f"{key} {path} is a local path, which a scheduled pod can't read",
            remedy="put it on an object store, or render without --schedule",
        )
    located = plan.step("ingest").arguments.get("data") or {}
    data = dict(plan.spec["data"])
    for split in ("train", "validation", "test"):
        uri = (located.get(split) or {}).get("uri") or (data.get(split) or {}).get("uri")
        if uri is not None:
            data[split] = {"uri": uri}
    if located.get("unlabelled"):
        data["unlabelled"] = located["unlabelled"]
    return {**plan.spec, "data": data}


def _config_map(name: str, files: list[str]) -> dict[str, Any]:
    return {"name": name, "files": files}


def _json(document: Any) -> str:
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _yaml(document: Any) -> str:
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return text


def _write(files: dict[str, str], output: Path) -> list[Path]:
    """Write all files aside first, then move them in."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output, prefix=".partial-") as aside:
            for name, text in files.items():
                (Path(aside) / name).write_text(text, encoding="utf-8")
            for name in files:
                os.replace(Path(aside) / name, output / name)
        catalogs = output.glob(CATALOG_FILE.format(number="*", suffix=".*"))
        for name in (*OUTPUTS, *(path.name for path in catalogs)):
            if name not in files:
                (output / name).unlink(missing_ok=True)
    except OSError as error:
        raise SpecError(
            f"{output}: cannot be written: {error.strerror}", remedy="give a folder of your own"
        ) from None
    return [output / name for name in sorted(files)]
