"""The commands that have to do with a cluster: render, submit, runs, promote, smoke."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.contract import SpecError

DEFAULT_HOST = "http://ml-pipeline.kubeflow:8888"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the command line shares with this module."""

    command: Callable[..., argparse.ArgumentParser]
    add_planning: Callable[[argparse.ArgumentParser], None]
    add_compiling: Callable[[argparse.ArgumentParser], None]
    make_plan: Callable[[argparse.Namespace], Any]
    compile_plan: Callable[[argparse.Namespace, Any], str]
    pods: Callable[[argparse.Namespace], dict[str, Any]]
    market: Callable[[argparse.Namespace], Any]


def add_commands(commands: Any, tools: Tools) -> None:
    """Add the commands to the command line's parser."""
    _add_render(commands, tools)
    _add_submit(commands, tools)
    _add_runs(commands, tools)
    _add_promote(commands, tools)
    _add_smoke(commands, tools)


# -- render --------------------------------------------------------------------------------------


def _add_render(commands: Any, tools: Tools) -> None:
    render = tools.command(
        commands, "render", lambda arguments: _render(arguments, tools),
        "write a folder for kubectl apply -k, Argo CD or Flux",
    )  # fmt: skip
    render.add_argument("spec", type=Path)
    render.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    render.add_argument("--host", default=DEFAULT_HOST, help="KFP API, as the Job sees it")
    render.add_argument("--namespace", default="suanli")
    render.add_argument("--experiment", help="default: the spec's name")
    render.add_argument("--schedule", metavar="CRON", help="also look for changed data, in UTC")
    render.add_argument("--no-wait", action="store_true", help="the Job ends when the run starts")
    render.add_argument(
        "--kubernetes-native", action="store_true",
        help="add Pipeline and PipelineVersion objects",
    )  # fmt: skip
    render.add_argument(
        "--diff", type=Path, metavar="FILE",
        help="write what changes against the folder's earlier plan, as Markdown",
    )  # fmt: skip
    tools.add_compiling(render)
    tools.add_planning(render)


def _render(arguments: argparse.Namespace, tools: Tools) -> int:
    from pipelines.dag import DEFAULT_IMAGES, compile_manifest
    from pipelines.jobs import RenderOptions, check_options
    from pipelines.plan import plan_from_json
    from pipelines.render import local_sources, planning_files, render
    from pipelines.review import cost_diff_markdown
    from pipelines.submission import data_identity, version_name

    pods = tools.pods(arguments)
    options = RenderOptions(
        host=arguments.host,
        namespace=arguments.namespace,
        experiment=arguments.experiment,
        data_image={**DEFAULT_IMAGES, **pods["images"]}["data"],
        wait=not arguments.no_wait,
        labels=pods["labels"],
        schedule=arguments.schedule,
        planning_files=planning_files(arguments.catalog, arguments.calibration),
        images=pods["images"],
        queue=pods["queue"],
        pushgateway=pods["pushgateway"],
        requests=arguments.requests,
    )
    check_options(options)
    plan = tools.make_plan(arguments)
    ir_yaml = tools.compile_plan(arguments, plan)
    manifest = None
    if arguments.kubernetes_native:
        manifest = compile_manifest(
            plan,
            namespace=arguments.namespace,
            version=version_name(plan.name, ir_yaml),
            requests=arguments.requests,
            market=tools.market(arguments),
            **pods,
        )
    if arguments.diff:
        earlier = arguments.output / "plan.json"
        before = plan_from_json(_read_json(earlier)) if earlier.exists() else None
        arguments.diff.write_text(cost_diff_markdown(before, plan), encoding="utf-8")
    from dataclasses import replace

    options = replace(options, manifest=manifest, data=data_identity(plan))
    files = render(plan, ir_yaml, arguments.output, options=options)
    for source in local_sources(plan):
        print(f"suanli: {source}", file=sys.stderr)
    # Client-side apply copies each object into an annotation of at most 256 KiB, which a pipeline
    # of many variants passes.
    print(
        f"{arguments.output}: {len(files)} files; kubectl apply --server-side -k {arguments.output}"
    )
    return 0


# -- submit --------------------------------------------------------------------------------------


def _add_connection(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", default=DEFAULT_HOST, help="URL of the KFP API")
    command.add_argument("--namespace", default="suanli", help="the user's namespace")
    command.add_argument("--token-file", type=Path, help="bearer token, read for every call")
    command.add_argument("--ca-file", type=Path, help="certificates that sign the server's")


def _connection(arguments: argparse.Namespace) -> Any:
    from pipelines.kfp_api import Connection

    return Connection(
        host=arguments.host,
        namespace=arguments.namespace,
        token_path=arguments.token_file,
        ca_file=arguments.ca_file,
    )


def _add_submit(commands: Any, tools: Tools) -> None:
    submit = tools.command(
        commands, "submit", lambda arguments: _submit(arguments, tools),
        "start the run on a KFP server, once for each spec, data and images",
    )  # fmt: skip
    submit.add_argument("spec", type=Path, help="a spec, or a folder that render wrote")
    _add_connection(submit)
    submit.add_argument("--experiment", help="default: the spec's name")
    submit.add_argument("--service-account", default="suanli-runner", help="of the steps' pods")
    submit.add_argument(
        "--if-changed", action="store_true",
        help="look at the data's identity and say nothing when nothing has changed",
    )  # fmt: skip
    submit.add_argument("--wait", action="store_true", help="follow the run to its end")
    submit.add_argument("--force", action="store_true", help="run again even if it succeeded")
    submit.add_argument(
        "--set", action="append", default=[], metavar="PARAMETER=VALUE", dest="parameters",
        help="a pipeline parameter (see --requests dynamic)",
    )  # fmt: skip
    submit.add_argument(
        "--check-cluster", action="store_true",
        help="compare the requests with nodes, quota and secrets of the cluster first",
    )  # fmt: skip
    submit.add_argument("--kubeconfig", help="for --check-cluster; default $KUBECONFIG")
    tools.add_compiling(submit)
    tools.add_planning(submit)


def _submit(arguments: argparse.Namespace, tools: Tools) -> int:
    from pipelines.submission import (
        data_identity,
        load_rendered,
        submission_of,
        with_parameters,
    )
    from pipelines.submit import check_budget, submit

    if arguments.spec.is_dir():
        submission, ir_yaml = load_rendered(arguments.spec)
    else:
        plan = tools.make_plan(arguments)
        ir_yaml = tools.compile_plan(arguments, plan)
        submission = submission_of(plan, ir_yaml, data=data_identity(plan))
    submission, parameters = with_parameters(
        submission, ir_yaml, pairs("--set", arguments.parameters)
    )
    check_budget(submission)
    if arguments.check_cluster:
        from pipelines.preflight import check_cluster
        from pipelines.runs import kubernetes_client

        api = kubernetes_client(arguments.kubeconfig)
        for note in check_cluster(ir_yaml, api, namespace=arguments.namespace):
            print(f"suanli: {note}", file=sys.stderr)

    def tell(event: dict[str, Any]) -> None:
        if arguments.if_changed and event["event"] == "exists":
            return
        print(" ".join(f"{key}={value}" for key, value in event.items()), flush=True)

    submit(
        submission,
        ir_yaml,
        _connection(arguments),
        experiment=arguments.experiment,
        parameters=parameters,
        service_account=arguments.service_account,
        wait=arguments.wait,
        force=arguments.force,
        on_event=tell,
    )
    return 0


# -- runs ----------------------------------------------------------------------------------------


def _add_runs(commands: Any, tools: Tools) -> None:
    runs = tools.command(commands, "runs", _runs_help, "list, status, logs or cancel")
    actions = runs.add_subparsers(metavar="ACTION", required=True)
    listing = tools.command(actions, "list", _runs_list, "runs, newest first")
    _add_connection(listing)
    listing.add_argument("--experiment")
    status = tools.command(actions, "status", _runs_status, "a run and its steps")
    logs = tools.command(actions, "logs", _runs_logs, "the log of a run's pods")
    cancel = tools.command(actions, "cancel", _runs_cancel, "stop a run")
    for action in (status, cancel):
        action.add_argument("run_id")
        _add_connection(action)
    logs.add_argument("run_id")
    logs.add_argument("--step")
    logs.add_argument("--namespace", default="suanli", help="where the steps' pods run")
    logs.add_argument("--kubeconfig", help="default $KUBECONFIG")


def _runs_help(arguments: argparse.Namespace) -> int:
    raise SpecError("runs: no action given", remedy="list, status, logs or cancel")


def _runs_list(arguments: argparse.Namespace) -> int:
    from pipelines.runs import runs_list

    for row in runs_list(_connection(arguments), experiment=arguments.experiment):
        usd = row.get("predicted_usd", "-")
        print(f"{row['run_id']}  {row['state']:<10}  {row['created_at']}  {usd:>8}  {row['name']}")
    return 0


def _runs_status(arguments: argparse.Namespace) -> int:
    from pipelines.runs import runs_status

    print(json.dumps(runs_status(_connection(arguments), arguments.run_id), indent=1))
    return 0


def _runs_logs(arguments: argparse.Namespace) -> int:
    from pipelines.runs import runs_logs

    for line in runs_logs(
        arguments.run_id,
        namespace=arguments.namespace,
        step=arguments.step,
        kubeconfig=arguments.kubeconfig,
    ):
        print(line)
    return 0


def _runs_cancel(arguments: argparse.Namespace) -> int:
    from pipelines.runs import runs_cancel

    runs_cancel(_connection(arguments), arguments.run_id)
    print(f"{arguments.run_id}: asked to stop; submit again to go on")
    return 0


# -- promote -------------------------------------------------------------------------------------


def _add_promote(commands: Any, tools: Tools) -> None:
    promote = tools.command(
        commands, "promote", _promote, "commit a published model into a serving overlay"
    )
    promote.add_argument("report", type=Path, help="report.json of the run")
    promote.add_argument("--model", type=Path, required=True, help="its model.onnx")
    promote.add_argument("--version", type=int, required=True, help="its published version")
    promote.add_argument("--storage-uri", required=True, help="where its Triton folder is")
    promote.add_argument("--repository", type=Path, default=Path(), metavar="DIR")
    promote.add_argument("--overlay", default="serving/prod", help="folder in the repository")
    promote.add_argument("--namespace", default="suanli")
    promote.add_argument("--requests-per-second", type=float, help="default: the spec's")


def _promote(arguments: argparse.Namespace) -> int:
    from components.storage import file_sha256
    from pipelines.gitops import promote
    from pipelines.serving import served_from_report

    report = _read_json(arguments.report)
    if not arguments.model.is_file():
        raise SpecError(f"--model {arguments.model}: no such file", remedy="give model.onnx")
    model = served_from_report(
        report,
        version=arguments.version,
        digest=file_sha256(arguments.model),
        storage_uri=arguments.storage_uri,
    )
    load = arguments.requests_per_second or report["spec"]["serving"]["requests_per_second"]
    commit = promote(
        model,
        repository=arguments.repository,
        overlay=arguments.overlay,
        requests_per_second=load,
        namespace=arguments.namespace,
    )
    print(f"committed {commit}" if commit else "already served: nothing to commit")
    return 0


# -- smoke ---------------------------------------------------------------------------------------


def _add_smoke(commands: Any, tools: Tools) -> None:
    smoke = tools.command(commands, "smoke", _smoke, "send one request to a served model")
    smoke.add_argument("url", help="the service's address, such as http://localhost:8080")
    smoke.add_argument("name", help="the model's name")
    smoke.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS")


def _smoke(arguments: argparse.Namespace) -> int:
    import time

    from pipelines.serving import smoke

    start = time.perf_counter()
    outputs = smoke(arguments.url, arguments.name, timeout_s=arguments.timeout)
    shape = outputs["logits"].get("shape")
    seconds = time.perf_counter() - start
    print(f"{arguments.name}: finite logits of shape {shape} in {seconds * 1e3:.0f} ms (3 calls)")
    return 0


# -- shared --------------------------------------------------------------------------------------


def pairs(option: str, items: list[str]) -> dict[str, str]:
    pairs = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not key or not separator:
            raise SpecError(f"{option} {item!r} is not KEY=VALUE", remedy="write one =")
        pairs[key] = value
    return pairs


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: {error}", remedy="remove it and render again") from None
