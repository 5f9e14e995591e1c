"""The command line. Heavy imports happen inside the commands that need them."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

from components.contract import InfeasiblePlanError, SpecError, SuanliError
from pipelines import cli_monitor, cli_report, cli_tools
from pipelines.cli_cluster import Tools, add_commands, pairs

EXIT_INTERRUPTED = 130
TRACEBACK_VARIABLE = "SUANLI_TRACEBACK"
DEFAULT_WORKDIR = Path("runs")
DEFAULT_SPEC = Path(__file__).parent / "examples" / "newsroom-ner.yaml"


def main(argv: list[str] | None = None) -> None:
    """Run a command and exit with its code (see `components.contract`)."""
    arguments = parser().parse_args(argv)
    try:
        code = arguments.command(arguments)
    except SuanliError as error:
        code = _tell(error)
    except KeyboardInterrupt:
        print("suanli: interrupted; run the same command again to go on", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        code = _tell(_unforeseen(error))
    sys.exit(code)


def _tell(error: SuanliError) -> int:
    from pipelines.terminal import print_error

    print_error(error)
    return error.exit_code


def _unforeseen(error: Exception) -> SuanliError:
    """What to say of an error that nobody raised on purpose."""
    from components.contract import StepError

    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return StepError(f"{place}{error.strerror}", remedy="see that it can be read and written")
    return StepError(
        f"unexpected {type(error).__name__}: {error}",
        remedy=f"set {TRACEBACK_VARIABLE}=1, run it again, and report what it prints",
    )


class _Parser(argparse.ArgumentParser):
    """Names the command or the choice that was probably meant."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        if wrong:
            near = difflib.get_close_matches(wrong[1], re.findall(r"'([^']*)'", wrong[2]), n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        super().error(message)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    root = _Parser(
        prog="suanli",
        description="Plan, price, run and learn from fine-tuning pipelines on Kubeflow.",
        epilog="Exit codes: 0 done, 1 a step failed, 2 bad input, 3 infeasible, 4 gate failed.",
    )
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    run = _command(commands, "run", _run, "plan, run here and print the receipt")
    run.add_argument("spec", type=Path, nargs="?", default=DEFAULT_SPEC)
    run.add_argument("--workdir", type=Path, default=DEFAULT_WORKDIR, metavar="DIR")
    _add_planning(run)
    _add_output_modes(run)

    plan = _command(commands, "plan", _plan, "show the decision and why")
    plan.add_argument("spec", type=Path)
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")
    plan.add_argument("--explain", action="store_true", help="add formulas and alternatives")
    plan.add_argument("--here", action="store_true", help="plan for this machine only")
    plan.add_argument("--observed", type=Path, metavar="MANIFEST", help="an ingest manifest")
    _add_planning(plan)

    predict = _command(commands, "predict", _predict, "predict a table of workloads")
    predict.add_argument("rows", type=Path, metavar="ROWS.csv")
    predict.add_argument("--output", type=Path, required=True, metavar="PRED.csv")

    compile_ = _command(commands, "compile", _compile, "write the KFP pipeline")
    compile_.add_argument("spec", type=Path)
    compile_.add_argument("-o", "--output", type=Path, required=True)
    compile_.add_argument("--format", choices=("ir", "manifest"), default="ir")
    compile_.add_argument("--namespace", default="suanli", help="for --format manifest")
    compile_.add_argument(
        "--plan", type=Path, metavar="FILE",
        help="compile this reviewed plan (suanli plan --json) instead of planning again",
    )  # fmt: skip
    _add_compiling(compile_)
    _add_planning(compile_)

    add_commands(
        commands,
        Tools(
            command=_command,
            add_planning=_add_planning,
            add_compiling=_add_compiling,
            make_plan=_plan_to_publish,
            compile_plan=_compile_plan,
            pods=_pods,
            market=_market,
        ),
    )

    report = _command(commands, "report", _report, "rebuild a run's receipt")
    report.add_argument("rundir", type=Path)
    _add_output_modes(report)

    cli_report.add_commands(commands, _command, _write_text)
    cli_tools.add_commands(commands, _command, _write_text)
    cli_monitor.add_commands(commands, _command)

    schema = _command(commands, "schema", _schema, "print a JSON Schema")
    schema.add_argument("noun", nargs="?", default="spec", help="default: spec; `list` names all")
    return root


def _command(commands: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(command=function)
    return command


def _add_planning(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--catalog", type=Path, action="append", default=[], metavar="FILE",
        help="more catalogue rows (own nodes, discounts, quotas)",
    )  # fmt: skip
    command.add_argument("--calibration", type=Path, metavar="FILE", help="from suanli calibrate")


def _add_compiling(command: argparse.ArgumentParser) -> None:
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


def _add_output_modes(command: argparse.ArgumentParser) -> None:
    modes = command.add_mutually_exclusive_group()
    modes.add_argument("--quiet", action="store_true", help="print only errors")
    modes.add_argument("--json", action="store_true", help="print report.json")


def _make_plan(arguments: argparse.Namespace, *, here: bool) -> tuple[Any, Any]:
    """Return the spec and the plan that the arguments ask for."""
    from pipelines.cost.catalog import load_catalog
    from pipelines.plan import make_plan
    from pipelines.spec import load_spec

    spec = load_spec(arguments.spec)
    observed = None
    if getattr(arguments, "observed", None):
        observed = _read_json(arguments.observed)
    plan = make_plan(
        spec,
        catalog=load_catalog(arguments.catalog),
        calibration=_load_calibration(arguments.calibration),
        observed=observed,
        here=here,
    )
    return spec, plan


def _plan_to_publish(arguments: argparse.Namespace) -> Any:
    """Return the plan for what others can read; a credential in the spec is refused before the
    data is looked at with it."""
    from pipelines.credentials import refuse_credentials
    from pipelines.spec import load_spec

    refuse_credentials(load_spec(arguments.spec).document)
    return _make_plan(arguments, here=False)[1]


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


def _run(arguments: argparse.Namespace) -> int:
    from components.contract import GateError
    from pipelines.local import run_here
    from pipelines.terminal import LiveView, print_error, print_receipt, working

    mode = "json" if arguments.json else "quiet" if arguments.quiet else "live"
    with working("planning", mode=mode):
        spec, plan = _make_plan(arguments, here=True)
        free = _unrestricted(arguments, spec)
    with LiveView(plan, mode=mode) as view:
        outcome = run_here(
            spec, plan, unrestricted=free, workdir=arguments.workdir, on_event=view.handle
        )
    if mode == "json":
        print(json.dumps(outcome.report, indent=1, sort_keys=True, ensure_ascii=False))
    elif mode == "live":
        print_receipt(outcome.report, folder=outcome.folder)
    if outcome.error:
        told = mode == "live" and isinstance(outcome.error, GateError)
        print_error(outcome.error, brief=told)
    return outcome.exit_code


def _unrestricted(arguments: argparse.Namespace, spec: Any) -> Any:
    """Return the plan that any hardware would have got, None when nothing else is feasible."""
    if spec.objective.hardware == "here":
        return None
    try:
        return _make_plan(arguments, here=False)[1]
    except InfeasiblePlanError:
        return None


def _plan(arguments: argparse.Namespace) -> int:
    from pipelines.terminal import print_plan, working

    with working("planning", mode="json" if arguments.json else "live"):
        _, plan = _make_plan(arguments, here=arguments.here)
    if arguments.json:
        print(json.dumps(plan.to_json(), indent=1, sort_keys=True, ensure_ascii=False))
        return 0
    print_plan(plan, explain=arguments.explain)
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from pipelines.cost.predict import predict_csv

    predict_csv(arguments.rows, arguments.output)
    return 0


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


def _pods(arguments: argparse.Namespace) -> dict[str, Any]:
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


def _compile_plan(arguments: argparse.Namespace, plan: Any) -> str:
    from pipelines.credentials import refuse_credentials
    from pipelines.dag import compile_pipeline

    refuse_credentials(plan.spec)
    return compile_pipeline(
        plan, requests=arguments.requests, market=_market(arguments), **_pods(arguments)
    )


def _market(arguments: argparse.Namespace) -> Any:
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


def _compile(arguments: argparse.Namespace) -> int:
    from pipelines.dag import compile_manifest
    from pipelines.submission import version_name

    pods = _pods(arguments)
    plan = _reviewed_plan(arguments) or _plan_to_publish(arguments)
    text = _compile_plan(arguments, plan)
    if arguments.format == "manifest":
        text = compile_manifest(
            plan,
            namespace=arguments.namespace,
            version=version_name(plan.name, text),
            requests=arguments.requests,
            market=_market(arguments),
            **pods,
        )
    _write_text(arguments.output, text)
    return 0


def _write_text(path: Path, text: str) -> None:
    """Write the whole file or nothing."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SpecError(f"{path}: cannot be written: {error.strerror}") from None


def _report(arguments: argparse.Namespace) -> int:
    from components.contract import error_from_document
    from pipelines.local import rebuild_report
    from pipelines.terminal import print_error, print_receipt

    report = rebuild_report(arguments.rundir)
    if arguments.json:
        print(json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False))
    elif not arguments.quiet:
        print_receipt(report, folder=arguments.rundir)
        if report["error"]:
            print_error(error_from_document(report["error"]))
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from pipelines.schemas import NOUNS, schema

    if arguments.noun == "list":
        print("\n".join(sorted(NOUNS)))
        return 0
    print(json.dumps(schema(arguments.noun), indent=2, sort_keys=True))
    return 0


if __name__ == "__main__":
    main()
