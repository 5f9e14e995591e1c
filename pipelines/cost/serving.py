"""What serving costs: replicas from a queueing constraint, money a million requests."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipelines.cost.catalog import Catalog, Instance
from pipelines.cost.chain import inference_seconds
from pipelines.cost.hardware import find_gpu
from pipelines.cost.job import Job, kept_share
from pipelines.cost.machine import machine_of
from pipelines.cost.predict import predict_many
from pipelines.cost.workload import Workload

# Never plan a replica busier than this: arrivals are burstier than Poisson.
MOST_UTILISATION = 0.8
# Request handling, tokenisation and network of the serving process (Triton, KServe), seconds.
REQUEST_OVERHEAD_S = 0.0015
LOG_100 = math.log(100.0)
# Cores of one inference session on a CPU node: single requests of short text gain little from
# more, two independent sessions always serve more than one twice as wide.
SERVER_THREADS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Replicas of one variant on one instance type."""

    instance: Instance
    variant: str
    service_s: float
    replicas: int
    p99_s: float
    usd_per_hour: float
    usd_per_million: float


def service_seconds(job: Job, catalog: Catalog, instance: Instance, variant: str) -> float:
    """Seconds of one request of mean length on one server: a GPU, or `SERVER_THREADS` cores."""
    length = job.profile["validation"].mean_length or float(job.longest)
    if job.spec.task == "image-classification":
        length = float(job.longest)
    if not instance.gpu:
        machine = machine_of(instance, catalog)
        return REQUEST_OVERHEAD_S + inference_seconds(
            job, machine, variant, rows=1, length=max(length, 1.0), threads=SERVER_THREADS
        )
    gpu = find_gpu(instance.gpu)
    precision = "fp16" if gpu is not None and "fp32" not in variant else "fp32"
    found = predict_many(
        [Workload(kind="infer", task="infer", shape=job.shape, gpu=instance.gpu,
                  seq_len=max(length, 1.0), micro_batch=1, precision=precision,
                  runtime="onnxruntime", head="small")]
    )  # fmt: skip
    return REQUEST_OVERHEAD_S + float(found.seconds[0]) * kept_share(job.shape, variant)


def p99_seconds(service_s: float, servers: int, arrivals_per_s: float) -> float:
    """99th percentile of the response time of `servers` equal servers with Poisson arrivals and
    exponential service behind one queue (M/M/c): service at p99 of a nearly constant service, and
    the wait at p99 from Erlang C. Infinite when overloaded."""
    load = arrivals_per_s * service_s
    if load >= servers:
        return math.inf
    waits = erlang_c(servers, load)
    drain = (servers - load) / service_s
    wait = max(0.0, math.log(waits * 100.0) / drain) if waits > 0.01 else 0.0
    return 1.5 * service_s + wait


def erlang_c(servers: int, load: float) -> float:
    """Probability that a request waits (Erlang C), by the stable recursion on Erlang B."""
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked / (1.0 - load / servers * (1.0 - blocked))


def replicas_for(
    service_s: float, arrivals_per_s: float, p99_s: float | None, servers_per_replica: int = 1
) -> int | None:
    """Fewest replicas that keep p99 and utilisation; None when one request alone is too slow."""
    if p99_s is not None and 1.5 * service_s > p99_s:
        return None
    load = arrivals_per_s * service_s
    least = max(1, math.ceil(load / MOST_UTILISATION))
    servers = least
    while p99_s is not None and p99_seconds(service_s, servers, arrivals_per_s) > p99_s:
        servers += max(1, servers // 50)
    return math.ceil(servers / servers_per_replica)


def best_service(
    job: Job, catalog: Catalog, instances: list[Instance], variant: str
) -> Service | None:
    """Return the cheapest way to serve the spec's requests with `variant`; None when no instance
    keeps the promised p99.

    A target that names an instance or a GPU restricts the choice to it.
    """
    spec = job.spec.serving
    promised = None if spec.p99_latency_ms is None else spec.p99_latency_ms / 1000.0
    best: Service | None = None
    for instance in instances:
        price = catalog.price(instance, "on-demand")
        if price is None or not serves(job, instance):
            continue
        service_s = service_seconds(job, catalog, instance, variant)
        servers = servers_of(instance)
        replicas = replicas_for(service_s, spec.requests_per_second, promised, servers)
        if replicas is None or replicas > catalog.quota(instance):
            continue
        usd = replicas * price
        if best is None or (usd, service_s) < (best.usd_per_hour, best.service_s):
            best = Service(
                instance=instance, variant=variant, service_s=service_s, replicas=replicas,
                p99_s=p99_seconds(service_s, replicas * servers, spec.requests_per_second),
                usd_per_hour=usd,
                usd_per_million=usd * 1e6 / (3600.0 * spec.requests_per_second),
            )  # fmt: skip
    return best


def servers_of(instance: Instance) -> int:
    """Requests that one node serves at the same time."""
    if instance.gpu:
        return instance.gpu_count
    return max(1, int(instance.alloc_cpu_millicores / 1000 / SERVER_THREADS))


def serves(job: Job, instance: Instance) -> bool:
    """Whether the spec's serving target means this instance."""
    target = job.spec.serving.target
    if target == "cpu":
        return not instance.gpu
    if target == "gpu":
        return bool(instance.gpu)
    gpu = find_gpu(target)
    return instance.name == target or (gpu is not None and gpu.name == instance.gpu)
