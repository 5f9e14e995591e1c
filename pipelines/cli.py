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

from components.contract import InfeasiblePlanError, SuanliError
from pipelines import cli_monitor, cli_report, cli_tools
from pipelines.cli_cluster import Tools, add_commands
from pipelines.cli_compile import (
    add_compiling,
    add_planning,
    compile_,
    compile_plan,
    make_plan,
    market_of,
    plan_to_publish,
    pods,
    write_text,
)

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
    add_planning(run)
    _add_output_modes(run)

    plan = _command(commands, "plan", _plan, "show the decision and why")
    plan.add_argument("spec", type=Path)
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")
    plan.add_argument("--explain", action="store_true", help="add formulas and alternatives")
    plan.add_argument("--here", action="store_true", help="plan for this machine only")
    plan.add_argument("--observed", type=Path, metavar="MANIFEST", help="an ingest manifest")
    add_planning(plan)

    predict = _command(commands, "predict", _predict, "predict a table of workloads")
    predict.add_argument("rows", type=Path, metavar="ROWS.csv")
    predict.add_argument("--output", type=Path, required=True, metavar="PRED.csv")

    compiling = _command(commands, "compile", compile_, "write the KFP pipeline")
    compiling.add_argument("spec", type=Path)
    compiling.add_argument("-o", "--output", type=Path, required=True)
    compiling.add_argument("--format", choices=("ir", "manifest"), default="ir")
    compiling.add_argument("--namespace", default="suanli", help="for --format manifest")
    compiling.add_argument(
        "--plan", type=Path, metavar="FILE",
        help="compile this reviewed plan (suanli plan --json) instead of planning again",
    )  # fmt: skip
    add_compiling(compiling)
    add_planning(compiling)

    add_commands(
        commands,
        Tools(
            command=_command,
            add_planning=add_planning,
            add_compiling=add_compiling,
            make_plan=plan_to_publish,
            compile_plan=compile_plan,
            pods=pods,
            market=market_of,
        ),
    )

    report = _command(commands, "report", _report, "rebuild a run's receipt")
    report.add_argument("rundir", type=Path)
    _add_output_modes(report)

    cli_report.add_commands(commands, _command, write_text)
    cli_tools.add_commands(commands, _command, write_text)
    cli_monitor.add_commands(commands, _command)

    schema = _command(commands, "schema", _schema, "print a JSON Schema")
    schema.add_argument("noun", nargs="?", default="spec", help="default: spec; `list` names all")
    return root


def _command(commands: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(command=function)
    return command


def _add_output_modes(command: argparse.ArgumentParser) -> None:
    modes = command.add_mutually_exclusive_group()
    modes.add_argument("--quiet", action="store_true", help="print only errors")
    modes.add_argument("--json", action="store_true", help="print report.json")


def _run(arguments: argparse.Namespace) -> int:
    from components.contract import GateError
    from pipelines.local import run_here
    from pipelines.terminal import LiveView, print_error, print_receipt, working

    mode = "json" if arguments.json else "quiet" if arguments.quiet else "live"
    with working("planning", mode=mode):
        spec, plan = make_plan(arguments, here=True)
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
        return make_plan(arguments, here=False)[1]
    except InfeasiblePlanError:
        return None


def _plan(arguments: argparse.Namespace) -> int:
    from pipelines.terminal import print_plan, working

    with working("planning", mode="json" if arguments.json else "live"):
        _, plan = make_plan(arguments, here=arguments.here)
    if arguments.json:
        print(json.dumps(plan.to_json(), indent=1, sort_keys=True, ensure_ascii=False))
        return 0
    print_plan(plan, explain=arguments.explain)
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from pipelines.cost.predict import predict_csv

    predict_csv(arguments.rows, arguments.output)
    return 0


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
