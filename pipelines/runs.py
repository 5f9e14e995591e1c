"""Look at runs on a KFP server: list, status, logs, cancel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from components.contract import SpecError, StepError
from pipelines.follow import step_names, step_states
from pipelines.kfp_api import Connection, KfpServer

# Labels that KFP and `dag.request` write on a step's pod; the container is always called main.
RUN_LABEL = "pipeline/runid"
STEP_LABEL = "suanli.dev/step"
CONTAINER = "main"


def runs_list(
    connection: Connection, *, experiment: str | None = None, name: str | None = None
) -> list[dict[str, Any]]:
    """Return one row a run, newest first: ``run_id, name, state, created_at, finished_at`` and
    what `submit.describe` wrote (``plan, predicted_usd, …``, as text; absent for others' runs)."""
    server = KfpServer(connection)
    experiment_id = server.experiment_id(experiment) if experiment else None
    return [_row(run) for run in server.runs(experiment_id=experiment_id, name=name)]


def runs_status(
    connection: Connection, run_id: str, *, ir_yaml: str | None = None
) -> dict[str, Any]:
    """Return the run's row and ``steps``: ``{state, seconds, error}`` by step.

    Without `ir_yaml` the steps carry KFP's own task names.
    """
    run = KfpServer(connection).run(run_id)
    details = run.run_details.task_details if run.run_details else []
    names = (
        step_names(ir_yaml)
        if ir_yaml
        else {task.display_name: task.display_name for task in details or []}
    )
    error = run.error.message if run.error else None
    return {**_row(run), "error": error, "steps": step_states(run, names)}


def runs_cancel(connection: Connection, run_id: str) -> None:
    """Stop the run; its finished steps keep their markers."""
    KfpServer(connection).terminate(run_id)


def runs_logs(
    run_id: str, *, namespace: str, step: str | None = None, kubeconfig: str | None = None
) -> Iterator[str]:
    """Yield the log lines of the run's pods, each behind its step's name.

    Reads pods with the caller's own kubeconfig (or the pod's account): the KFP API serves no logs.

    Raises:
        SpecError: no access to the cluster, the verb that is missing, or no such pods.
    """
    from kubernetes import client
    from kubernetes.client.exceptions import ApiException

    core = client.CoreV1Api(kubernetes_client(kubeconfig))
    selector = f"{RUN_LABEL}={run_id}" + (f",{STEP_LABEL}={step}" if step else f",{STEP_LABEL}")
    try:
        pods = core.list_namespaced_pod(namespace, label_selector=selector).items
    except ApiException as error:
        raise cluster_refusal(error, "list", "pods", namespace) from None
    if not pods:
        raise SpecError(
            f"no pods of run {run_id}{f', step {step}' if step else ''} in namespace {namespace}",
            remedy="check `suanli runs list`; pods of old runs are removed, their reports stay",
        )
    for pod in sorted(pods, key=lambda item: str(item.metadata.creation_timestamp)):
        label = pod.metadata.labels[STEP_LABEL]
        try:
            text = core.read_namespaced_pod_log(pod.metadata.name, namespace, container=CONTAINER)
        except ApiException as error:
            if error.status == 400:  # the container has not started
                yield f"{label}: (no log yet: {pod.status.phase})"
                continue
            raise cluster_refusal(error, "get", "pods/log", namespace) from None
        yield from (f"{label}: {line}" for line in text.splitlines())


def kubernetes_client(kubeconfig: str | None = None) -> Any:
    """Return a Kubernetes API client for `kubeconfig`, $KUBECONFIG or the pod's own account.

    Raises:
        SpecError: none of them works.
    """
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    except config.ConfigException as outside:
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            raise SpecError(
                f"no Kubernetes cluster: {outside}", remedy="set KUBECONFIG or pass --kubeconfig"
            ) from None
    return client.ApiClient(configuration)


def cluster_refusal(
    error: Any, verb: str, resource: str, namespace: str | None
) -> SpecError | StepError:
    """Translate a Kubernetes API error, naming the verb that was needed."""
    place = f"in namespace {namespace}" if namespace else "in the cluster"
    if error.status in (401, 403):
        return SpecError(
            f"the cluster refuses {verb} on {resource} {place}",
            remedy=f"ask for the verb {verb} on {resource}",
        )
    if error.status == 404:
        return SpecError(f"{resource} {place}: not found", remedy="check the namespace")
    return StepError(f"the cluster failed at {verb} {resource} {place}: {error.reason}")


def _row(run: Any) -> dict[str, Any]:
    facts = dict(part.split("=", 1) for part in (run.description or "").split()[1:] if "=" in part)
    if not (run.description or "").startswith("suanli "):
        facts = {}
    return {
        "run_id": run.run_id,
        "name": run.display_name,
        "state": run.state,
        "created_at": str(run.created_at),
        "finished_at": str(run.finished_at) if run.finished_at else None,
        **facts,
    }
