"""Where data may go and how far that is."""

from __future__ import annotations

import math
from urllib.parse import parse_qs, urlsplit

from components.contract import SpecError
from pipelines.cost.catalog import Catalog, Instance
from pipelines.spec import Spec

EARTH_RADIUS_KM = 6371.0
# Light in fibre covers 200 km a millisecond; cable routes are about 1.5 times the great circle;
# 2 ms for routers at both ends. Within 15 % of published inter-region medians above 20 ms.
KM_PER_MS = 200.0
DETOUR = 1.5
FIXED_MS = 2.0
SCHEME_CLOUDS = {"s3": "aws", "gs": "gcp", "az": "azure", "abfs": "azure"}


def data_place(spec: Spec) -> tuple[str, str]:
    """Return (cloud, region) of the training data; empty strings where they are not known.

    The region is what the URI says (``s3://bucket/key?region=eu-west-1``), else the warm store's,
    else the only region that the spec allows.
    """
    uri = str(spec.data.train.uri)
    cloud = SCHEME_CLOUDS.get(uri.partition("://")[0], "")
    region = _stated(uri) or _stated(spec.storage.warm or "")
    if not region and spec.objective.regions and len(spec.objective.regions) == 1:
        region = spec.objective.regions[0]
    return cloud, region


def _stated(uri: str) -> str:
    return parse_qs(urlsplit(uri).query).get("region", [""])[0]


def round_trip_ms(catalog: Catalog, one: str, other: str) -> float:
    """Estimated network round trip between two regions.

    Raises:
        SpecError: a region's place is not known.
    """
    if one == other:
        return 1.0
    for region in (one, other):
        if region not in catalog.places:
            raise SpecError(
                f"objective.max_network_latency_ms: the place of region {region!r} is not known",
                remedy=f"known regions: {', '.join(sorted(catalog.places))}",
            )
    (lat1, lon1), (lat2, lon2) = catalog.places[one], catalog.places[other]
    a, b = math.radians(lat1), math.radians(lat2)
    half = math.sin((b - a) / 2) ** 2
    half += math.cos(a) * math.cos(b) * math.sin(math.radians(lon2 - lon1) / 2) ** 2
    distance = 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(half))
    return FIXED_MS + 2 * distance * DETOUR / KM_PER_MS


def allowed(spec: Spec, catalog: Catalog, instance: Instance) -> str:
    """Return "" when `instance` may be used, else the constraint that forbids it."""
    objective = spec.objective
    elsewhere = objective.regions is not None and instance.region not in objective.regions
    if elsewhere and not instance.owned:
        return "objective.regions"
    if objective.max_network_latency_ms is not None and not instance.owned:
        _, home = data_place(spec)
        home = home or (objective.regions[0] if objective.regions else "")
        if not home:
            raise SpecError(
                "objective.max_network_latency_ms: the region of the data is not known",
                remedy="write it into the URI (?region=us-east-1) or set objective.regions",
            )
        if round_trip_ms(catalog, home, instance.region) > objective.max_network_latency_ms:
            return "objective.max_network_latency_ms"
    wanted = objective.hardware
    names = [wanted] if isinstance(wanted, str) else wanted
    if "any" not in names and not _named(instance, names):
        return "objective.hardware"
    return ""


def _named(instance: Instance, names: list[str]) -> bool:
    """Whether hardware names (an instance, a GPU, a cloud) mean this instance. A GPU name
    restricts GPU nodes only: CPU nodes for the other steps stay allowed."""
    from pipelines.cost.hardware import find_gpu

    for name in names:
        if name in (instance.name, instance.cloud):
            return True
        gpu = find_gpu(name)
        if gpu is not None and instance.gpu:
            stated = gpu.name == instance.gpu
            if stated or (gpu.ambiguous and instance.gpu.startswith(name.split("-")[0])):
                return True
    return False
