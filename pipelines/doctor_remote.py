"""What ``suanli doctor`` asks other machines: the cluster and the object store."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contract import SuanliError
from components.storage import TIERS, Store, Tiers
from pipelines.doctor import Finding

if TYPE_CHECKING:
    from pipelines.kfp_api import Connection

TIMEOUT_S = 5
# API group to what suanli does with it.
API_GROUPS = {
    "argoproj.io": "Kubeflow Pipelines (runs)",
    "pipelines.kubeflow.org": "Pipeline objects (GitOps with --format manifest)",
    "trainer.kubeflow.org": "TrainJob (training on several nodes)",
    "kueue.x-k8s.io": "Kueue (queues and quotas)",
    "serving.kserve.io": "KServe (serving the published model)",
}
OPTIONAL_GROUPS = set(API_GROUPS) - {"argoproj.io"}
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
PROBE_KEY = "doctor/probe.json"


def check_cluster() -> Iterable[Finding]:
    """A Kubernetes API server answers and has what suanli uses; none is fine for runs here."""
    config = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    paths = [Path(path) for path in config.split(os.pathsep) if path]
    if not any(path.exists() for path in paths) and not SERVICE_ACCOUNT.exists():
        yield Finding(
            area="cluster",
            state="ok",
            found="none configured: `suanli run` needs none",
            remedy="set KUBECONFIG before `suanli submit`",
        )
        return
    yield from _ask_cluster()


def _ask_cluster() -> Iterable[Finding]:
    from kubernetes import client, config

    try:
        config.load_config()
        api = client.ApiClient()
        version = client.VersionApi(api).get_code(_request_timeout=TIMEOUT_S)
        found = client.ApisApi(api).get_api_versions(_request_timeout=TIMEOUT_S).groups
        nodes = client.CoreV1Api(api).list_node(_request_timeout=TIMEOUT_S).items
    except Exception as error:
        yield Finding(
            area="cluster",
            state="warning",
            found=f"does not answer: {_first_line(error)}",
            remedy="check KUBECONFIG, the VPN and `kubectl get nodes`",
        )
        return
    yield Finding(area="cluster", state="ok", found=f"Kubernetes {version.git_version}")
    yield from _groups({group.name for group in found})
    yield _nodes(nodes)


def _groups(have: set[str]) -> Iterable[Finding]:
    for group, purpose in API_GROUPS.items():
        if group in have:
            yield Finding(area="cluster", state="ok", found=purpose)
        else:
            optional = group in OPTIONAL_GROUPS
            yield Finding(
                area="cluster",
                state="ok" if optional else "warning",
                found=f"no {group}: no {purpose}",
                remedy="" if optional else "install Kubeflow Pipelines 2 (docs: install)",
            )


def _nodes(nodes: list[Any]) -> Finding:
    gpus = sum(int((node.status.allocatable or {}).get("nvidia.com/gpu", 0)) for node in nodes)
    return Finding(
        area="cluster",
        state="ok",
        found=f"{len(nodes)} nodes, {gpus} GPUs allocatable",
        remedy="" if gpus else "GPU plans need the NVIDIA device plugin and GPU nodes",
    )


def check_kfp(connection: Connection | None) -> Iterable[Finding]:
    """The KFP API server answers, and lets this person list runs."""
    if connection is None:
        return
    from pipelines.kfp_api import KfpServer

    try:
        server = KfpServer(connection)
        runs = server.runs()
    except SuanliError as error:
        remedy = error.remedy or "check --host, --namespace and --token-file"
        yield Finding(area="kfp", state="error", found=error.message, remedy=remedy)
        return
    users = f"namespace {server.namespace}" if server.namespace else "single user"
    found = f"{connection.host} answers, {users}, {len(runs)} runs to be seen"
    yield Finding(area="kfp", state="ok", found=found)


def check_tiers(tiers: Tiers | None) -> Iterable[Finding]:
    """Each tier of the spec can be written and read back."""
    if tiers is None:
        yield Finding(area="storage", state="ok", found="tiers not asked: give a spec to ask them")
        return
    for name in TIERS:
        uri = str(getattr(tiers, name))
        try:
            store = Store(Tiers(hot=uri, warm=uri, cold=uri))
            store.put_json(PROBE_KEY, {"probe": name})
            good = store.get_json(PROBE_KEY) == {"probe": name}
        except (SuanliError, OSError, ValueError) as error:
            yield Finding(
                area="storage",
                state="error",
                found=f"{name} {uri}: {_first_line(error)}",
                remedy="check the address, the credentials in the environment, and the rights",
            )
            continue
        state: Any = "ok" if good else "error"
        words = "writes and reads" if good else "reads back something else than was written"
        yield Finding(area="storage", state=state, found=f"{name} {uri} {words}")


def _first_line(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:200]
