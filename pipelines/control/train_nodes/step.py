"""Work of training on several nodes: create the TrainJob, follow it, hand its model on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.contract import StepError, canonical_json, content_hash
from components.runtime import StepContext
from pipelines.plan import StepPlan
from pipelines.trainjob import TrainJobRequest, TrainJobs, train_job

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def run(context: StepContext, jobs: TrainJobs | None = None) -> str:
    """Train in a TrainJob; returns the model's URI.

    Raises:
        StepError: the job failed, or this is not a pod.
    """
    finished = (jobs or TrainJobs.here()).run(
        train_job(request(context, namespace())), lambda event: _tell(context, event)
    )
    uri = finished.get("uri")
    if not uri:
        raise StepError(
            "the TrainJob finished without a model", remedy="see the log of its rank 0 pod"
        )
    context.metrics.update({k: v for k, v in finished.items() if isinstance(v, int | float | str)})
    return str(uri)


def _tell(context: StepContext, event: dict[str, Any]) -> None:
    if event["event"] != "progress":
        return
    figures = {k: v for k, v in event.items() if isinstance(v, int | float)}
    fraction = figures.pop("fraction", 0.0)
    context.progress(fraction, str(event.get("message", "")), **figures)


def namespace() -> str:
    """Return the namespace this pod runs in.

    Raises:
        StepError: this is not a pod.
    """
    try:
        return NAMESPACE_FILE.read_text().strip()
    except OSError:
        raise StepError(
            "training on several nodes needs a cluster",
            remedy="run the compiled pipeline on Kubeflow, or plan for one node",
        ) from None


def request(context: StepContext, where: str) -> TrainJobRequest:
    """Return what the cluster is asked for; the name follows from the run, so a restarted step
    finds the job it created."""
    launch = context.arguments["launch"]
    arguments = {k: v for k, v in context.arguments.items() if k != "launch"}
    config = {
        "step": context.step,
        "arguments": arguments,
        "plan_hash": context.plan_hash,
        "requested": context.requested,
    }
    return TrainJobRequest(
        name=f"{launch['name']}-{content_hash([context.run_id, context.step])[:8]}",
        namespace=where,
        config=canonical_json(config),
        dataset=context.inputs["dataset"],
        store=context.store.tiers.to_json(),
        run_id=context.run_id,
        image=launch["image"],
        nodes=launch["nodes"],
        processes_per_node=launch["processes_per_node"],
        resources=launch["resources"],
        checkpoint_claim=launch["claim"],
        timeout_s=launch["timeout_s"],
        queue=launch["queue"],
        secret=launch["secret"],
        node_selector=launch["node_selector"],
        tolerations=tuple(launch["tolerations"]),
    )


def launch_arguments(
    step: StepPlan, *, name: str, image: str, claim: str, queue: str | None, secret: str | None
) -> dict[str, Any]:
    """Return the `launch` argument for `step`: what each node's pod asks for."""
    resources = step.resources
    memory = f"{-(-resources.memory_bytes // (1 << 20))}Mi"
    limits: dict[str, Any] = {"memory": memory}
    if resources.gpu_count:
        limits[resources.gpu_resource] = resources.gpu_count
    return {
        "name": name,
        "image": image,
        "nodes": step.nodes,
        "processes_per_node": step.processes_per_node,
        "resources": {
            "requests": {"cpu": f"{resources.cpu_millicores}m", **limits},
            "limits": limits,
        },
        "claim": claim,
        "timeout_s": step.timeout_s,
        "queue": queue,
        "secret": secret,
        "node_selector": step.node_selector,
        "tolerations": list(step.tolerations),
    }
