"""Compare a compiled pipeline with a cluster before anything is created there.

Checked with the rights of whoever calls: a check that the cluster refuses is reported as a note.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import yaml

from components.contract import InfeasiblePlanError, SpecError
from pipelines.control.pods import in_trainjob, pod_of
from pipelines.follow import step_names
from pipelines.plan import plan_from_json
from pipelines.runs import cluster_refusal
from pipelines.submission import is_dynamic

SUFFIXES: dict[str, Decimal | int] = {
    "": 1, "m": Decimal("0.001"), "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
}  # fmt: skip
QUANTITY = re.compile(r"([0-9.]+(?:e[0-9]+)?)([A-Za-z]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one task's pod asks for, by Kubernetes resource name, and the secrets it reads."""

    step: str
    amounts: dict[str, Decimal]
    node_selector: dict[str, str]
    secrets: tuple[str, ...]


def check_cluster(ir_yaml: str, api_client: Any, *, namespace: str) -> list[str]:
    """Check namespace, secrets, nodes and quota; returns notes about what could not be checked.

    Raises:
        SpecError: the namespace or a secret is missing.
        InfeasiblePlanError: a request is larger than any node, or than the quota leaves room for
            (says by how much).
    """
    from kubernetes import client

    core = client.CoreV1Api(api_client)
    requests = list(requests_of(ir_yaml))
    notes: list[str] = []

    def ask(verb: str, resource: str, call: Callable[[], Any]) -> Any:
        return _ask(notes, namespace, verb, resource, call)

    if ask("get", "namespaces", lambda: core.read_namespace(namespace)) == "absent":
        raise SpecError(
            f"namespace {namespace} does not exist",
            remedy="apply manifests/overlays first, or pass --namespace",
        )
    for name in sorted({name for request in requests for name in request.secrets}):
        read = functools.partial(core.read_namespaced_secret, name, namespace)
        found = ask("get", "secrets", read)
        if found == "absent":
            raise SpecError(
                f"secret {name} (storage.credentials) is not in namespace {namespace}",
                remedy=f"kubectl -n {namespace} create secret generic {name} …",
            )
    nodes = ask("list", "nodes", core.list_node)
    if nodes is not None:
        _check_nodes(requests, nodes.items, notes)
    quotas = ask("list", "resourcequotas", lambda: core.list_namespaced_resource_quota(namespace))
    if quotas is not None:
        _check_quotas(requests, quotas.items)
    return notes


def requests_of(ir_yaml: str) -> Iterator[Request]:
    """Yield each task's requests from the compiled pipeline."""
    documents = list(yaml.load_all(ir_yaml, Loader=yaml.CSafeLoader))
    pipeline = documents[0]
    platform = documents[1]["platforms"]["kubernetes"] if len(documents) > 1 else {}
    pods = platform.get("deploymentSpec", {}).get("executors", {})
    names = step_names(ir_yaml)
    defaults = _decided_by_default(pipeline) if is_dynamic(ir_yaml) else {}
    for label, executor in pipeline["deploymentSpec"]["executors"].items():
        resources = executor["container"].get("resources", {})
        amounts = {
            name: quantity(resources[key])
            for name, key in (
                ("cpu", "resourceCpuRequest"),
                ("memory", "resourceMemoryRequest"),
            )
            if _is_static(resources.get(key))
        }
        accelerator = resources.get("accelerator")
        if accelerator and _is_static(accelerator["resourceCount"]):
            amounts[accelerator["resourceType"]] = quantity(accelerator["resourceCount"])
        pod = pods.get(label, {})
        key = label.removeprefix("exec-")
        step = names.get(key, key)
        planned = defaults.get(step) if not amounts else None
        selector = pod.get("nodeSelector", {}).get("labels", {})
        yield Request(
            step=step,
            amounts=planned[0] if planned else amounts,
            node_selector=planned[1] if planned else selector,
            secrets=tuple(sorted(_secret_names(pod))),
        )


def _is_static(value: Any) -> bool:
    """Dynamic requests are references, known only when `decide` has run."""
    return value is not None and "{{" not in str(value)


def _decided_by_default(
    pipeline: dict[str, Any],
) -> dict[str, tuple[dict[str, Decimal], dict[str, str]]]:
    """Amounts and node selector by step that a dynamic pipeline's decide task hands out when
    nobody changes a parameter: those of the plan that its receipt knows."""
    task = pipeline["root"]["dag"]["tasks"]["report"]
    config = json.loads(task["inputs"]["parameters"]["config"]["runtimeValue"]["constant"])
    plan = plan_from_json(config["arguments"]["plan"])
    trainjob = in_trainjob(plan)
    found = {}
    for step in plan.steps:
        pod = pod_of(plan, step.step, trainjob=trainjob)
        amounts = {
            "cpu": Decimal(pod.resources.cpu_millicores) / 1000,
            "memory": Decimal(pod.resources.memory_bytes),
        }
        if pod.resources.gpu_count:
            amounts[pod.resources.gpu_resource] = Decimal(pod.resources.gpu_count)
        found[step.step] = (amounts, dict(pod.node_selector))
    return found


def quantity(text: Any) -> Decimal:
    """Return a Kubernetes quantity as a number of its base unit (cores, bytes, devices).

    Raises:
        SpecError: not a quantity.
    """
    match = QUANTITY.fullmatch(str(text))
    if not match or match[2] not in SUFFIXES:
        raise SpecError(f"{text!r} is not a Kubernetes quantity", remedy="write 500m, 2 or 3Gi")
    return Decimal(match[1]) * SUFFIXES[match[2]]


def _secret_names(pod: dict[str, Any]) -> set[str]:
    return {
        item.get("secretName") or item["secretNameParameter"]["runtimeValue"]["constant"]
        for item in pod.get("secretAsEnv", [])
    }


def _ask(
    notes: list[str], namespace: str, verb: str, resource: str, call: Callable[[], Any]
) -> Any:
    """Call the cluster; None (and a note) when it refuses, ``absent`` when there is no such."""
    import urllib3
    from kubernetes.client.exceptions import ApiException

    try:
        return call()
    except ApiException as error:
        if error.status == 404:
            return "absent"
        if error.status == 403:
            notes.append(f"not checked, the cluster refuses {verb} on {resource}")
            return None
        raise cluster_refusal(error, verb, resource, namespace) from None
    except urllib3.exceptions.HTTPError as error:
        raise SpecError(
            f"the cluster does not answer: {getattr(error, 'reason', error)}",
            remedy="check KUBECONFIG",
        ) from None


def _check_nodes(requests: list[Request], nodes: list[Any], notes: list[str]) -> None:
    if not nodes:
        notes.append("not checked against nodes: the cluster has none now (autoscaled?)")
        return
    offers = [
        {name: quantity(text) for name, text in (node.status.allocatable or {}).items()}
        for node in nodes
    ]
    nothing = Decimal(0)
    for request in requests:
        for name, amount in request.amounts.items():
            most = max(offer.get(name, nothing) for offer in offers)
            if amount > most:
                raise InfeasiblePlanError(
                    f"step {request.step} asks for {_show(name, amount)} of {name}, the largest "
                    f"node of the cluster offers {_show(name, most)}",
                    remedy="restrict objective.hardware to what the cluster has (--catalog)",
                )
        if not any(_fits(request, offer) for offer in offers):
            together = ", ".join(f"{_show(n, a)} of {n}" for n, a in request.amounts.items())
            raise InfeasiblePlanError(
                f"step {request.step} asks for {together}: no node of the cluster offers all of it",
                remedy="restrict objective.hardware to what the cluster has (--catalog)",
            )
    notes += _absent_nodes(requests, nodes)


def _fits(request: Request, offer: dict[str, Decimal]) -> bool:
    return all(offer.get(name, Decimal(0)) >= amount for name, amount in request.amounts.items())


def _absent_nodes(requests: list[Request], nodes: list[Any]) -> list[str]:
    """A note for each node selector that no node matches now."""
    found: dict[str, list[str]] = {}
    for request in requests:
        wanted = request.node_selector.items()
        if not any(wanted <= (node.metadata.labels or {}).items() for node in nodes):
            text = ", ".join(f"{key}={value}" for key, value in sorted(wanted))
            found.setdefault(text, []).append(request.step)
    return [
        f"no node is labelled {labels} now: {', '.join(steps)} wait until an autoscaler makes one"
        for labels, steps in found.items()
    ]


def _check_quotas(requests: list[Request], quotas: list[Any]) -> None:
    for quota in quotas:
        for key, hard in (quota.status.hard or quota.spec.hard or {}).items():
            name = key.removeprefix("requests.")
            used = quantity((quota.status.used or {}).get(key, 0))
            for request in requests:
                amount = request.amounts.get(name)
                if amount is None or amount <= quantity(hard) - used:
                    continue
                short = amount - (quantity(hard) - used)
                raise InfeasiblePlanError(
                    f"step {request.step} asks for {_show(name, amount)} of {name}; quota "
                    f"{quota.metadata.name} has {_show(name, quantity(hard) - used)} left of "
                    f"{hard}: {_show(name, short)} too little",
                    remedy="raise the quota, wait for other runs, or plan with less",
                )


def _show(name: str, amount: Decimal) -> str:
    if name in ("memory", "ephemeral-storage"):
        return f"{amount / (1 << 30):.2f} GiB"
    return f"{amount.normalize():f}"
