"""The DAG: one plan becomes one KFP pipeline, with every request written out.

The same function serves the cluster (compiled to IR YAML) and this machine (run by `local.py`).
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# No `from __future__ import annotations` here: kfp reads the real annotations of the pipeline.
from kfp import dsl
from kfp import kubernetes as pod
from kfp.compiler import Compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions

from components.compress.component import compress
from components.contract import canonical_json
from components.evaluate.component import evaluate
from components.export.component import export
from components.ingest.component import ingest
from components.place.component import place
from components.publish.component import publish
from components.select.component import select
from components.storage import Tiers
from components.train.component import train
from pipelines.control.decide.component import decide
from pipelines.control.decide.step import DEFAULT_TOLERANCE, planned
from pipelines.control.report.component import report
from pipelines.control.train_nodes.component import train_nodes
from pipelines.control.train_nodes.step import launch_arguments
from pipelines.plan import Plan, StepPlan

# Which image family a step's pod runs (see images/).
IMAGE_OF = {
    "ingest": "data",
    "decide": "data",
    "place": "data",
    "train": "train",
    "compress": "train",
    "export": "train",
    "evaluate": "infer",
    "select": "infer",
    "publish": "data",
    "report": "data",
}
DEFAULT_IMAGES = {family: f"suanli/{family}:0.1.0" for family in ("data", "train", "infer")}
MOUNT = "/var/lib/suanli"
USER_ID = 65532  # "nonroot" in the images
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PodOptions:
    """What every pod gets beside its planned resources."""

    images: dict[str, str] = field(default_factory=lambda: dict(DEFAULT_IMAGES))
    claim: str = "suanli-store"  # the volume claim that holds the local tiers (manifests/base)
    queue: str | None = None  # Kueue LocalQueue
    secret: str | None = None  # secret with object-store credentials, read as environment
    labels: dict[str, str] = field(default_factory=dict)  # cost centres, for OpenCost and Kubecost
    pushgateway: str | None = None  # where steps push their metrics


# Names of the environment variables that object-store clients read, and so the keys of the secret.
SECRET_KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "HF_TOKEN",
)


def build(
    plan: Plan,
    *,
    tiers: Tiers,
    run_id: str = dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    options: PodOptions | None = None,
) -> Callable[..., Any]:
    """Return the KFP pipeline of `plan`.

    Args:
        plan: what to run, where, with which requests.
        tiers: default of the pipeline's `store` parameter.
        run_id: names the run in the store; the KFP run's own id unless given.
        options: images, claims and queue; None builds for this machine (no pod settings).
    """

    def settle(task: dsl.PipelineTask, name: str) -> dsl.PipelineTask:
        task.set_display_name(name)
        task.set_caching_options(False)  # resume is by the steps' own fingerprints
        if options is not None:
            request(task, pod_of(plan, name), options)
        return task

    def config(name: str) -> str:
        return step_config(plan, name, options)

    @dsl.pipeline(name=plan.name, description=f"suanli plan {plan.hash[:12]}: {plan.task}")
    def pipeline(store: str = tiers.to_json()) -> None:
        where = {"store": store, "run_id": run_id}
        receipt = settle(report(config=config("report"), **where), "report")
        with dsl.ExitHandler(receipt, name="steps"):
            read = settle(ingest(config=config("ingest"), **where), "ingest")
            decided = decide(config=config("decide"), dataset=read.output, **where)
            settle(decided, "decide")
            placed = place(config=config("place"), dataset=read.output, **where).after(decided)
            dataset = settle(placed, "place").output
            fit = train if plan.step("train").nodes == 1 else train_nodes
            tuned = settle(fit(config=config("train"), dataset=dataset, **where), "train")

            graphs, evaluations = [], []
            for suffix in (task_suffix(variant) for variant in plan.variants):
                data = {"dataset": dataset, **where}
                names = {kind: f"{kind}-{suffix}" for kind in ("compress", "export", "evaluate")}
                small = compress(config=config(names["compress"]), model=tuned.output, **data)
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
                publish(config=config("publish"), selection=chosen, dataset=dataset, **where),
                "publish",
            )

    made: Callable[..., Any] = pipeline
    return made


def task_suffix(variant: str) -> str:
    """Return `variant` as it appears in task names: ``prune50+int8`` gives ``prune50-int8``."""
    return variant.replace("+", "-")


def pod_of(plan: Plan, name: str) -> StepPlan:
    """Return what the step's own pod asks for. Training on several nodes happens in a TrainJob's
    pods; its own pod only follows them, from a node as small as the receipt's."""
    step = plan.step(name)
    if step.nodes == 1:
        return step
    small = plan.step("report")
    return replace(
        step,
        kind=small.kind,
        resources=small.resources,
        node_selector=small.node_selector,
        tolerations=small.tolerations,
    )


def step_config(plan: Plan, name: str, options: PodOptions | None = None) -> str:
    """Return the JSON that the step called `name` receives."""
    step = plan.step(name)
    requested = {
        "node": step.node,
        "capacity": step.capacity,
        "cpu_millicores": step.resources.cpu_millicores,
        "memory_bytes": step.resources.memory_bytes,
        "gpu_count": step.resources.gpu_count,
        "ephemeral_bytes": step.resources.ephemeral_bytes,
        "timeout_s": step.timeout_s,
    }
    if step.kind == "train" and step.usd is not None and step.seconds.value > 0:
        # For the money so far in its progress; not an argument, since a price changes no result.
        requested["usd_per_hour"] = round(3600.0 * step.usd.value / step.seconds.value, 6)
    arguments = {**step.arguments, **_of_whole_plan(plan, name)}
    if step.nodes > 1 and options is not None:
        arguments["launch"] = launch_arguments(
            step,
            name=plan.name,
            image=options.images[IMAGE_OF[step.kind]],
            claim=options.claim,
            queue=options.queue,
            secret=options.secret,
        )
    return canonical_json(
        {"step": name, "arguments": arguments, "plan_hash": plan.hash, "requested": requested}
    )


def _of_whole_plan(plan: Plan, name: str) -> dict[str, Any]:
    """What the two control steps know of the whole plan (a plan can't contain itself)."""
    if name == "report":
        return {"plan": plan.to_json()}
    if name == "decide":
        return {
            "spec": plan.spec,
            "planned": planned(plan),
            "here": all(step.node == "here" for step in plan.steps),
            "tolerance": plan.step(name).arguments.get("tolerance", DEFAULT_TOLERANCE),
            "on_profile_change": plan.spec["on_profile_change"],
        }
    return {}


def request(task: dsl.PipelineTask, step: StepPlan, options: PodOptions) -> None:
    """Write the step's planned resources, placement and time-out on its task."""
    resources = step.resources
    task.set_container_image(options.images[IMAGE_OF[step.kind]])
    task.set_cpu_request(f"{resources.cpu_millicores}m")
    # Request = limit for memory (no overcommit); no CPU limit (throttling helps nobody).
    memory = f"{-(-resources.memory_bytes // MIB)}Mi"
    task.set_memory_request(memory)
    task.set_memory_limit(memory)
    if resources.gpu_count:
        task.set_accelerator_type(resources.gpu_resource)
        task.set_accelerator_limit(resources.gpu_count)
    if resources.shm_bytes:
        pod.empty_dir_mount(
            task, "dshm", "/dev/shm", medium="Memory", size_limit=_mebibytes(resources.shm_bytes)
        )
    # The images' root file system is read-only; what a step writes aside goes here.
    pod.empty_dir_mount(task, "tmp", "/tmp", size_limit=_mebibytes(resources.ephemeral_bytes))
    pod.mount_pvc(task, options.claim, MOUNT)
    for key, value in sorted(step.node_selector.items()):
        pod.add_node_selector(task, key, value)
    for toleration in step.tolerations:
        pod.add_toleration(task, **toleration)
    pod.set_timeout(task, step.timeout_s)
    pod.set_security_context(task, run_as_user=USER_ID, run_as_group=USER_ID, run_as_non_root=True)
    pod.add_pod_label(task, "suanli.dev/step", step.step)
    pod.add_pod_label(task, "suanli.dev/kind", step.kind)
    for key, value in sorted(options.labels.items()):
        pod.add_pod_label(task, key, value)
    if options.pushgateway:
        task.set_env_variable("SUANLI_PUSHGATEWAY", options.pushgateway)
    if options.queue:
        pod.add_pod_label(task, "kueue.x-k8s.io/queue-name", options.queue)
    if options.secret:
        keys = {key: key for key in SECRET_KEYS}
        pod.use_secret_as_env(task, options.secret, keys, optional=True)


def _mebibytes(size_bytes: int) -> str:
    return f"{-(-size_bytes // MIB)}Mi"


def cluster_tiers(plan: Plan) -> Tiers:
    """Return the tiers of a run on a cluster: what the spec names, else folders on the claim."""
    storage = plan.spec["storage"]
    paths = {name: storage[name] or f"{MOUNT}/{name}" for name in ("hot", "warm", "cold")}
    return Tiers(**paths)


def pod_options(
    plan: Plan,
    *,
    images: dict[str, str] | None = None,
    queue: str | None = None,
    labels: dict[str, str] | None = None,
    pushgateway: str | None = None,
) -> PodOptions:
    """Return the pod settings that the plan's spec asks for."""
    credentials = plan.spec["storage"]["credentials"]
    return PodOptions(
        images={**DEFAULT_IMAGES, **(images or {})},
        queue=queue,
        secret=credentials["secret"] if credentials else None,
        labels={"suanli.dev/pipeline": plan.name, **(labels or {})},
        pushgateway=pushgateway,
    )


def compile_pipeline(plan: Plan, **pods: Any) -> str:
    """Compile `plan` to KFP IR YAML; the same plan and images give the same bytes.

    Args:
        pods: settings of every pod, see `pod_options`.
    """
    options = pod_options(plan, **pods)
    pipeline = build(plan, tiers=cluster_tiers(plan), options=options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        Compiler().compile(pipeline, str(path))
        return path.read_text()


def compile_manifest(
    plan: Plan,
    *,
    namespace: str,
    version: str,
    **pods: Any,
) -> str:
    """Compile `plan` to Pipeline and PipelineVersion objects for an API server that stores
    pipelines in Kubernetes (``--pipelinesStoreKubernetes=true``)."""
    options = pod_options(plan, **pods)
    pipeline = build(plan, tiers=cluster_tiers(plan), options=options)
    manifest = KubernetesManifestOptions(
        pipeline_name=plan.name,
        pipeline_version_name=version,
        namespace=namespace,
        include_pipeline_manifest=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        Compiler().compile(
            pipeline,
            str(path),
            kubernetes_manifest_format=True,
            kubernetes_manifest_options=manifest,
        )
        return path.read_text()
