"""The DAG: one plan becomes one KFP pipeline, with every request written out.

The same function serves the cluster (compiled to IR YAML) and this machine (run by `local.py`).
A dynamic pipeline (``--requests dynamic``) has the plan's values as parameters instead; its decide
task plans again and hands requests to the tasks after it.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# No `from __future__ import annotations` here: kfp reads the real annotations of the pipeline.
from kfp import dsl
from kfp.compiler import Compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions

from components.compress.component import compress
from components.contract import canonical_json
from components.evaluate.component import evaluate
from components.export.component import export
from components.ingest.component import ingest, ingest_parameters
from components.place.component import place
from components.publish.component import publish
from components.select.component import select
from components.storage import Tiers
from components.train.component import train
from pipelines.control.decide.component import decide, decide_requests
from pipelines.control.decide.grants import (
    KINDS,
    OUTPUTS,
    levelled,
    limits_of,
    with_headroom,
)
from pipelines.control.decide.node_set import Market, node_set
from pipelines.control.decide.parameters import default_values, located_spec
from pipelines.control.decide.step import DEFAULT_TOLERANCE, planned
from pipelines.control.pods import config_of, in_trainjob, pod_of
from pipelines.control.report.component import report
from pipelines.control.train_nodes.component import train_nodes
from pipelines.plan import Plan
from pipelines.pod_settings import (
    DEFAULT_IMAGES,
    IMAGE_OF,
    MOUNT,
    USER_ID,
    PodOptions,
    pod_options,
    request,
)

__all__ = [
    "DEFAULT_IMAGES", "IMAGE_OF", "MOUNT", "USER_ID", "PodOptions", "Requests", "build",
    "cluster_tiers", "compile_manifest", "compile_pipeline", "pod_options", "step_config",
]  # fmt: skip
Requests = Literal["static", "dynamic"]


def build(
    plan: Plan,
    *,
    tiers: Tiers,
    run_id: str = dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    options: PodOptions | None = None,
    requests: Requests = "static",
    market: Market | None = None,
) -> Callable[..., Any]:
    """Return the KFP pipeline of `plan`.

    Args:
        plan: what to run, where, with which requests.
        tiers: default of the pipeline's `store` parameter.
        run_id: names the run in the store; the KFP run's own id unless given.
        options: images, claims and queue; None builds for this machine (no pod settings).
        requests: ``dynamic`` leaves them, and the plan's values, to the run.
        market: catalogue and calibration that the plan was made from; the shipped ones by default.
    """
    if requests == "dynamic":
        return _dynamic(plan, market or Market(), tiers=tiers, run_id=run_id, options=options)
    tasks = Tasks(plan=plan, options=options)

    @dsl.pipeline(name=plan.name, description=_description(plan))
    def pipeline(store: str = tiers.to_json()) -> None:
        where = {"store": store, "run_id": run_id}
        receipt = report(config=step_config(plan, "report", options), **where)
        with dsl.ExitHandler(tasks.settle(receipt, "report"), name="steps"):
            read = ingest(config=tasks.config("ingest"), **where)
            tasks.settle(read, "ingest")
            checked = decide(
                config=step_config(plan, "decide", options, market=market),
                dataset=read.output,
                **where,
            )
            tasks.lay_out(read, tasks.settle(checked, "decide"), where)

    made: Callable[..., Any] = pipeline
    return made


def _dynamic(
    plan: Plan, market: Market, *, tiers: Tiers, run_id: str, options: PodOptions | None
) -> Callable[..., Any]:
    compiled = with_headroom(levelled(plan))
    tasks = Tasks(plan=compiled, options=options, dynamic=True)
    default = default_values(located_spec(plan))

    @dsl.pipeline(name=plan.name, description=_description(plan))
    def pipeline(
        store: str = tiers.to_json(),
        train_uri: str = default["train_uri"],
        validation_uri: str = default["validation_uri"],
        test_uri: str = default["test_uri"],
        epochs: int = default["epochs"],
        learning_rate: str = default["learning_rate"],
        seed: int = default["seed"],
        max_quality_drop: float = default["max_quality_drop"],
        deadline: str = default["deadline"],
        budget_usd: float = default["budget_usd"],
        capacity: str = default["capacity"],
    ) -> None:
        """Fine-tune, compress and publish; hardware follows from what is asked for here.

        Args:
            store: the three storage tiers, as JSON.
            train_uri: training data (s3://, gs://, az://, https://, hf:// or a path in the pods).
            validation_uri: validation data; empty: a share of the training data.
            test_uri: test data; empty: a share of the training data.
            epochs: passes over the training data.
            learning_rate: auto, a number such as 3e-5, or {"search": 8} for eight short runs.
            seed: of splits, initialisation and order.
            max_quality_drop: how much of the main metric compression may cost, such as 0.01.
            deadline: when the run must be done, such as 90m or 2h; empty: no deadline.
            budget_usd: what the run may cost; 0: no limit.
            capacity: on-demand, spot, or both with a comma.
        """
        where = {"store": store, "run_id": run_id}
        data = {"train_uri": train_uri, "validation_uri": validation_uri, "test_uri": test_uri}
        receipt = report(config=step_config(plan, "report", options, dynamic=True), **where)
        with dsl.ExitHandler(tasks.settle(receipt, "report"), name="steps"):
            read = ingest_parameters(
                config=step_config(plan, "ingest", options), **data, seed=seed, **where
            )
            tasks.settle(read, "ingest")
            decided = decide_requests(
                config=_decide_config(plan, compiled, market, options),
                dataset=read.output,
                **data,
                epochs=epochs,
                learning_rate=learning_rate,
                seed=seed,
                max_quality_drop=max_quality_drop,
                deadline=deadline,
                budget_usd=budget_usd,
                capacity=capacity,
                **where,
            )
            tasks.lay_out(read, tasks.settle(decided, "decide"), where)

    made: Callable[..., Any] = pipeline
    return made


@dataclass(kw_only=True)
class Tasks:
    """Makes the tasks of a pipeline of `plan`; `decided` hands requests to them when dynamic."""

    plan: Plan
    options: PodOptions | None
    dynamic: bool = False
    decided: dsl.PipelineTask | None = None

    def settle(self, task: dsl.PipelineTask, name: str) -> dsl.PipelineTask:
        """Name the task and write on it what its pod asks for."""
        task.set_display_name(name)
        task.set_caching_options(False)  # resume is by the steps' own fingerprints
        if self.options is not None:
            kind, granted = self.plan.step(name).kind, None
            if self.decided is not None and kind in KINDS:
                granted = {what: self.decided.outputs[f"{kind}_{what}"] for what in OUTPUTS}
            request(task, pod_of(self.plan, name), self.options, granted=granted)
        return task

    def config(self, name: str) -> str:
        """Return the task's config; a dynamic one says where the step finds it."""
        if not self.dynamic:
            return step_config(self.plan, name, self.options)
        return canonical_json({"step": name, "decided": True})

    def lay_out(
        self, read: dsl.PipelineTask, decided: dsl.PipelineTask, where: dict[str, Any]
    ) -> None:
        """Make everything after `decided`, which saw the dataset of the ingest task `read`."""
        plan, config, settle = self.plan, self.config, self.settle
        self.decided = decided if self.dynamic else None
        placed = place(config=config("place"), dataset=read.output, **where).after(decided)
        dataset = settle(placed, "place").output
        fit = train_nodes if in_trainjob(plan) else train
        tuned = settle(fit(config=config("train"), dataset=dataset, **where), "train")
        model = tuned.outputs["Output"]

        graphs, evaluations = [], []
        for suffix in (task_suffix(variant) for variant in plan.variants):
            data = {"dataset": dataset, **where}
            names = {kind: f"{kind}-{suffix}" for kind in ("compress", "export", "evaluate")}
            small = compress(config=config(names["compress"]), model=model, **data)
            settle(small, names["compress"])
            graph = export(config=config(names["export"]), model=small.output, **data)
            settle(graph, names["export"])
            scored = evaluate(config=config(names["evaluate"]), onnx=graph.output, **data)
            settle(scored, names["evaluate"])
            graphs.append(graph.output)
            evaluations.append(scored.outputs["Output"])

        chosen = settle(
            select(
                config=config("select"),
                evaluations=evaluations,
                onnx=graphs,
                dataset=dataset,
                **where,
            ),
            "select",
        ).outputs["Output"]
        settle(
            publish(config=config("publish"), selection=chosen, dataset=dataset, **where), "publish"
        )


def _description(plan: Plan) -> str:
    return f"suanli plan {plan.hash[:12]}: {plan.task}"


def task_suffix(variant: str) -> str:
    """Return `variant` as it appears in task names: ``prune50+int8`` gives ``prune50-int8``."""
    return variant.replace("+", "-")


def step_config(
    plan: Plan,
    name: str,
    options: PodOptions | None = None,
    *,
    dynamic: bool = False,
    market: Market | None = None,
) -> str:
    """Return the JSON that the step called `name` receives.

    Args:
        dynamic: what this run's decide step leaves for the step goes before this config.
        market: what the plan was made from, for the decide step.
    """
    launch = _launch(options) if in_trainjob(plan) and options is not None else None
    config = config_of(plan, name, launch=launch)
    if name == "decide":
        config["arguments"] |= {
            "spec": located_spec(plan),
            "planned": planned(plan),
            "here": all(step.node == "here" for step in plan.steps),
            "tolerance": plan.step(name).arguments.get("tolerance", DEFAULT_TOLERANCE),
            "on_profile_change": plan.spec["on_profile_change"],
            **_not_shipped(plan, market),
        }
    if dynamic:
        config["decided"] = True
    return canonical_json(config)


def _not_shipped(plan: Plan, market: Market | None) -> dict[str, Any]:
    """Own nodes, prices and calibration: the image has the shipped ones only."""
    found: dict[str, Any] = {}
    if market is not None and not market.shipped:
        found["nodes"] = node_set(plan, market.catalog)
    if market is not None and market.calibration is not None:
        found["calibration"] = market.calibration.to_json()
    elif plan.calibration.get("factors"):
        found["factors"] = plan.calibration["factors"]
    return found


def _decide_config(plan: Plan, compiled: Plan, market: Market, options: PodOptions | None) -> str:
    """Return the config of a dynamic pipeline's decide step: what it may choose from, and the
    limits it was compiled with."""
    config = config_of(plan, "decide")
    config["arguments"] |= {
        "spec": located_spec(plan),
        "planned": planned(plan),
        "tolerance": plan.step("decide").arguments.get("tolerance", DEFAULT_TOLERANCE),
        "nodes": node_set(plan, market.catalog),
        "calibration": market.calibration.to_json() if market.calibration else None,
        "limits": limits_of(compiled),
        "launch": _launch(options or PodOptions()),
    }
    return canonical_json(config)


def _launch(options: PodOptions) -> dict[str, Any]:
    """What a TrainJob's pods get from the options."""
    return {
        "image": options.images[IMAGE_OF["train"]],
        "claim": options.claim,
        "queue": options.queue,
        "secret": options.secret,
    }


def cluster_tiers(plan: Plan) -> Tiers:
    """Return the tiers of a run on a cluster: what the spec names, else folders on the claim."""
    storage = plan.spec["storage"]
    paths = {name: storage[name] or f"{MOUNT}/{name}" for name in ("hot", "warm", "cold")}
    return Tiers(**paths)


def compile_pipeline(
    plan: Plan, *, requests: Requests = "static", market: Market | None = None, **pods: Any
) -> str:
    """Compile `plan` to KFP IR YAML; the same plan, market and images give the same bytes.

    Args:
        requests: see `build`.
        market: see `build`.
        pods: settings of every pod, see `pod_options`.
    """
    return _compiled(plan, requests, market, pods)


def compile_manifest(
    plan: Plan,
    *,
    namespace: str,
    version: str,
    requests: Requests = "static",
    market: Market | None = None,
    **pods: Any,
) -> str:
    """Compile `plan` to Pipeline and PipelineVersion objects for an API server that stores
    pipelines in Kubernetes (``--pipelinesStoreKubernetes=true``)."""
    options = KubernetesManifestOptions(
        pipeline_name=plan.name,
        pipeline_version_name=version,
        namespace=namespace,
        include_pipeline_manifest=True,
    )
    return _compiled(
        plan,
        requests,
        market,
        pods,
        kubernetes_manifest_format=True,
        kubernetes_manifest_options=options,
    )


def _compiled(
    plan: Plan, requests: Requests, market: Market | None, pods: dict[str, Any], **form: Any
) -> str:
    pipeline = build(
        plan,
        tiers=cluster_tiers(plan),
        options=pod_options(plan, **pods),
        requests=requests,
        market=market,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        Compiler().compile(pipeline, str(path), **form)
        return path.read_text()
