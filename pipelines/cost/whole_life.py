"""What comes after the run, in words: keeping the artifacts and serving the model."""

from __future__ import annotations

from pipelines.cost.catalog import Catalog
from pipelines.cost.decide_cloud import Found
from pipelines.cost.job import Job
from pipelines.cost.serving import Service, best_service
from pipelines.cost.storage import DAYS_PER_MONTH, choose_classes
from pipelines.cost.words import dollars

HOURS_PER_MONTH = 730.0


def chain_notes(job: Job, catalog: Catalog, found: Found) -> tuple[str, ...]:
    """Return the total of run, keeping and a month of serving, and what serving needs."""
    place = found.choice.light.light.place
    kept = sum(usd for _, _, usd in choose_classes(job, catalog, place[0]))
    months = job.spec.storage.retention_days / DAYS_PER_MONTH
    service = cheapest_service(job, catalog, place)
    promised = job.spec.serving.p99_latency_ms
    if service is None:
        limit = "the target" if promised is None else f"p99 {promised:g} ms"
        return (
            f"no instance in {place[1]} serves {job.spec.serving.requests_per_second:g} requests/s "
            f"within {limit}",
        )
    month = service.usd_per_hour * HOURS_PER_MONTH
    return (
        f"serving {job.spec.serving.requests_per_second:g} requests/s with {service.variant}: "
        f"{service.replicas} x {service.instance.name}, p99 {service.p99_s * 1e3:.1f} ms, "
        f"{dollars(service.usd_per_million)} a million requests, {dollars(month)} a month",
        f"whole chain: run {dollars(found.choice.usd)}, keeping its artifacts "
        f"{dollars(kept)} for {months:.0f} months, first month of serving {dollars(month)}: "
        f"{dollars(found.choice.usd + kept + month)}",
    )


def cheapest_service(job: Job, catalog: Catalog, place: tuple[str, str]) -> Service | None:
    """Return the cheapest service over the variants on instances of `place`."""
    instances = [i for i in catalog.instances if (i.cloud, i.region) == place]
    found = [best_service(job, catalog, instances, variant) for variant in job.variants]
    services = [service for service in found if service is not None]
    return min(services, key=lambda s: (s.usd_per_hour, s.service_s), default=None)
