"""A machine as the step model sees it: this one as measured, or a catalogue instance."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.cost.catalog import Catalog, Instance
from pipelines.cost.here import Here

# A default root volume (AWS gp3: 125 MB/s baseline; GCP and Azure balanced disks are alike).
BLOCK_DISK_BYTES_PER_SECOND = 125e6
NVME_BYTES_PER_SECOND = 1.5e9
# One object-store stream; more streams fill the network (docs of S3: 85-90 MB/s a connection).
OBJECT_STREAM_BYTES_PER_SECOND = 85e6
STREAMS = 8
# One torch operator's dispatch on a zen4 core (components.lib.machine_probe).
OPERATOR_SECONDS = 0.98e-6
# Seconds of `import torch` there, which other starts are multiples of.
IMPORT_TORCH_SECONDS = 0.93


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Speeds of one node; `core_speed` is single-thread speed relative to a Zen 4 vCPU.

    `gemm_flops` maps fp32, bf16, int8 to FLOP/s of large products on all cores.
    """

    name: str
    cores: float
    memory_bytes: float
    gemm_flops: dict[str, float]
    bandwidth_bytes_per_second: float
    core_speed: float
    native_bf16: bool
    disk_bytes_per_second: float
    store_bytes_per_second: float
    operator_seconds: float
    import_seconds: float
    measured: bool


def machine_of_here(here: Here, transfer_bytes_per_second: float | None = None) -> Machine:
    """This machine; its store is a local folder, as fast as its disk where no run told how fast
    data came and went."""
    return Machine(
        name="here",
        cores=here.cores,
        memory_bytes=here.memory_bytes,
        gemm_flops={p: here.sustained_flops(p) for p in ("fp32", "bf16", "int8")},
        bandwidth_bytes_per_second=here.bandwidth_bytes_per_second,
        core_speed=max(0.1, min(4.0, OPERATOR_SECONDS / here.operator_seconds)),
        native_bf16=here.native_bf16,
        disk_bytes_per_second=here.disk_bytes_per_second,
        store_bytes_per_second=transfer_bytes_per_second or here.disk_bytes_per_second,
        operator_seconds=here.operator_seconds,
        import_seconds=here.import_torch_seconds,
        measured=True,
    )


def machine_of(instance: Instance, catalog: Catalog) -> Machine:
    """A catalogue instance by its CPU generation; pods get its allocatable share."""
    kind = catalog.cpus.get(instance.cpu) or catalog.cpus["zen3"]
    cores = instance.alloc_cpu_millicores / 1000
    nvme = instance.local_nvme_bytes > 0
    return Machine(
        name=instance.name,
        cores=cores,
        memory_bytes=instance.alloc_memory_bytes,
        gemm_flops={p: rate * cores for p, rate in kind.gemm_flops.items()},
        bandwidth_bytes_per_second=kind.bandwidth_bytes_per_second * cores,
        core_speed=kind.core_speed,
        native_bf16=kind.native_bf16,
        disk_bytes_per_second=NVME_BYTES_PER_SECOND if nvme else BLOCK_DISK_BYTES_PER_SECOND,
        store_bytes_per_second=catalog.transfers.get(instance.name)
        or min(instance.network_bytes_per_second, STREAMS * OBJECT_STREAM_BYTES_PER_SECOND),
        operator_seconds=OPERATOR_SECONDS / kind.core_speed,
        import_seconds=IMPORT_TORCH_SECONDS / kind.core_speed,
        measured=False,
    )
