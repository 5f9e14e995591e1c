"""Planning and compiling from the command line: what several commands share, and `compile`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from components.contract import SpecError
from pipelines.cli_cluster import pairs


def add_planning(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--catalog", type=Path, action="append", default=[], metavar="FILE",
        help="more catalogue rows (own nodes, discounts, quotas)",
    )  # fmt: skip
    command.add_argument("--calibration", type=Path, metavar="FILE", help="from suanli calibrate")


def add_compiling(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--requests", choices=("static", "dynamic"), default="static",
        help="dynamic: parameters in the KFP UI, requests decided in each run",
    )  # fmt: skip
    command.add_argument(
        "--image", action="append", default=[], metavar="FAMILY=IMAGE",
        help="image of a family (data, train, infer), by digest where known",
    )  # fmt: skip
    command.add_argument("--queue", help="Kueue LocalQueue for every pod")
    command.add_argument(
        "--label", action="append", default=[], metavar="KEY=VALUE",
        help="label on every pod (cost centre)",
    )  # fmt: skip
    command.add_argument("--pushgateway", metavar="URL", help="where steps push their metrics")


def make_plan(arguments: argparse.Namespace, *, here: bool) -> tuple[Any, Any]:
    """Return the spec and the plan that the arguments ask for."""
    from pipelines import plan as planner
    from pipelines.cost.catalog import load_catalog
    from pipelines.spec import load_spec

    spec = load_spec(arguments.spec)
    observed = None
    if getattr(arguments, "observed", None):
        observed = _read_json(arguments.observed)
    plan = planner.make_plan(
        spec,
        catalog=load_catalog(arguments.catalog),
        calibration=_load_calibration(arguments.calibration),
        observed=observed,
        here=here,
    )
    return spec, plan


def plan_to_publish(arguments: argparse.Namespace) -> Any:
    """Return the plan for what others can read; a credential in the spec is refused before the
    data is looked at with it."""
    from pipelines.credentials import refuse_credentials
    from pipelines.spec import load_spec

    refuse_credentials(load_spec(arguments.spec).document)
    return make_plan(arguments, here=False)[1]


def _load_calibration(path: Path | None) -> Any:
    """Return the reviewed calibration at `path` (YAML or JSON), or None."""
    if path is None:
        return None
    import yaml

    from pipelines.cost.calibration import Calibration

    try:
        return Calibration.from_json(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise SpecError(
            f"{path}: not a calibration: {error}", remedy="write one with suanli calibrate"
        ) from None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: {error}", remedy="give a readable JSON file") from None


def _images(arguments: argparse.Namespace) -> dict[str, str]:
    images = {}
    for item in arguments.image:
        family, separator, image = item.partition("=")
        if family not in ("data", "train", "infer") or not separator or not image:
            raise SpecError(
                f"--image {item!r} is not FAMILY=IMAGE", remedy="families: data, train, infer"
            )
        images[family] = image
    return images


def pods(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `dag.pod_options` takes."""
    from pipelines.jobs import check_labels

    labels = pairs("--label", arguments.label)
    check_labels(labels)
    return {
        "images": _images(arguments),
        "queue": arguments.queue,
        "labels": labels,
        "pushgateway": arguments.pushgateway,
    }


def compile_plan(arguments: argparse.Namespace, plan: Any) -> str:
    from pipelines.credentials import refuse_credentials
    from pipelines.dag import compile_pipeline

    refuse_credentials(plan.spec)
    return compile_pipeline(
        plan, requests=arguments.requests, market=market_of(arguments), **pods(arguments)
    )


def market_of(arguments: argparse.Namespace) -> Any:
    """Return what the plan was made from: the pipeline's decide step plans with it again."""
    from pipelines.control.decide.node_set import Market
    from pipelines.cost.catalog import load_catalog

    return Market(
        catalog=load_catalog(arguments.catalog),
        calibration=_load_calibration(arguments.calibration),
    )


def _reviewed_plan(arguments: argparse.Namespace) -> Any:
    """Return the plan of --plan, or None without one.

    Raises:
        SpecError: it is no plan, or one of another spec.
    """
    if arguments.plan is None:
        return None
    from pipelines.plan import plan_from_json
    from pipelines.spec import load_spec

    document = _read_json(arguments.plan)
    try:
        plan = plan_from_json(document)
    except (KeyError, TypeError, AttributeError) as error:
        raise SpecError(
            f"{arguments.plan}: not a plan: {error}", remedy="write one with suanli plan --json"
        ) from None
    if plan.spec != load_spec(arguments.spec).document:
        raise SpecError(
            f"{arguments.plan}: made from another spec than {arguments.spec}",
            remedy="plan again: suanli plan SPEC --json",
        )
    return plan


def compile_(arguments: argparse.Namespace) -> int:
    from pipelines.dag import compile_manifest
    from pipelines.submission import version_name

    settings = pods(arguments)
    plan = _reviewed_plan(arguments) or plan_to_publish(arguments)
    text = compile_plan(arguments, plan)
    if arguments.format == "manifest":
        text = compile_manifest(
            plan,
            namespace=arguments.namespace,
            version=version_name(plan.name, text),
            requests=arguments.requests,
            market=market_of(arguments),
            **settings,
        )
    write_text(arguments.output, text)
    return 0


def write_text(path: Path, text: str) -> None:
    """Write the whole file or nothing."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SpecError(f"{path}: cannot be written: {error.strerror}") from None
