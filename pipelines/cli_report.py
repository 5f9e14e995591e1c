"""The commands that tell: doctor and history."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

AddCommand = Callable[..., argparse.ArgumentParser]
DEFAULT_WORKDIR = Path("runs")


def add_commands(
    commands: Any, command: AddCommand, write_text: Callable[[Path, str], None]
) -> None:
    """Add the two commands to the command line's parser."""
    doctor = command(commands, "doctor", _doctor, "check this environment and say what to do")
    doctor.add_argument("spec", type=Path, nargs="?", help="also ask its storage tiers")
    doctor.add_argument("--workdir", type=Path, default=DEFAULT_WORKDIR, metavar="DIR")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.add_argument("--host", metavar="URL", help="also ask this KFP API server")
    doctor.add_argument("--namespace", default="suanli", help="the user's namespace there")
    doctor.add_argument("--token-file", type=Path, help="bearer token for it")
    doctor.add_argument("--ca-file", type=Path, help="certificates that sign the server's")

    history = command(
        commands,
        "history",
        lambda arguments: _history(arguments, write_text),
        "one page over the runs of a work folder",
    )
    history.add_argument("workdir", type=Path, nargs="?", default=DEFAULT_WORKDIR)
    history.add_argument("-o", "--output", type=Path, help="default: WORKDIR/history.html")
    history.add_argument("--json", action="store_true", help="print the figures instead")


def _doctor(arguments: argparse.Namespace) -> int:
    from pipelines.doctor import as_json, examine, exit_code
    from pipelines.terminal import print_findings

    tiers = None
    if arguments.spec:
        from pipelines.local import local_tiers
        from pipelines.spec import load_spec

        tiers = local_tiers(load_spec(arguments.spec), arguments.workdir)
    connection = None
    if arguments.host:
        from pipelines.kfp_api import Connection

        connection = Connection(
            host=arguments.host,
            namespace=arguments.namespace,
            token_path=arguments.token_file,
            ca_file=arguments.ca_file,
        )
    findings = examine(tiers=tiers, workdir=arguments.workdir, connection=connection)
    if arguments.json:
        print(json.dumps(as_json(findings), indent=1, ensure_ascii=False))
    else:
        print_findings(findings)
    return exit_code(findings)


def _history(arguments: argparse.Namespace, write_text: Callable[[Path, str], None]) -> int:
    from pipelines.report import history, history_html, load_reports

    output = arguments.output or arguments.workdir / "history.html"
    reports, problems = load_reports(arguments.workdir, output)
    if arguments.json:
        print(json.dumps(history(reports, problems), indent=1, ensure_ascii=False))
        return 0
    write_text(output, history_html(reports, problems))
    print(output)
    return 0
