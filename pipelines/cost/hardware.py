"""GPUs and CPUs by specification, with the source of each figure, and names people write.

Peaks are dense (no structured sparsity). Link bandwidth is one direction per GPU.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources

from components.contract import SpecError

GB = 1e9
GIB = float(2**30)
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8", "fp4")

# Precision that runs where the asked one has no fast path; peaks are looked up along this chain.
# A100 and older have no fp8: frameworks refuse or emulate it in bf16.
_FALLBACK = {
    "tf32": "fp32",
    "bf16": "fp32",
    "fp16": "fp32",
    "fp8": "fp16",
    "fp4": "fp8",
    "int8": "fp16",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU as CUDA or HIP shows it (a half of a dual-die board is one device).

    `peaks_flops` maps precision to dense FLOP/s (OP/s for int8) of the formats it has;
    `memory_bytes` is nominal (10^9 bytes a GB are printed, 2^30 are built: see `usable_bytes`);
    `link_bytes_per_second` is NVLink or Infinity Fabric, None without;
    `ambiguous` marks a name that fits several sizes (``A100``): the smallest is used for memory.
    """

    name: str
    arch: str
    memory_bytes: float
    bandwidth_bytes_per_second: float
    peaks_flops: dict[str, float]
    sms: int
    link_bytes_per_second: float | None
    pcie_bytes_per_second: float
    tdp_watts: float
    source: str
    ambiguous: bool = False

    def supports(self, precision: str) -> bool:
        """Whether the GPU multiplies in `precision` natively."""
        return precision in self.peaks_flops

    def peak_flops(self, precision: str) -> float:
        """Dense FLOP/s in `precision`, or of what runs in its place on this GPU."""
        while precision not in self.peaks_flops:
            precision = _FALLBACK[precision]
        return self.peaks_flops[precision]

    @property
    def usable_bytes(self) -> float:
        """Memory that a process can allocate: boards report 1-4 % less than 2^30 bytes a GB.

        Source: torch.cuda total_memory of T4 (14.6 GiB), V100 (15.8, 31.7), A10G (22.1),
        A100 (39.4, 79.2), H100 (79.1) against 16, 32, 24, 40, 80 nominal.
        """
        ecc_in_memory = self.arch in {"Turing", "Ada"} or self.name.startswith(("A10", "RTXA"))
        if self.name.startswith("A100"):
            ecc_in_memory = False
        return self.memory_bytes * (0.92 if ecc_in_memory else 0.985)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """A CPU by measured throughput (see `pipelines.cost.probe`), all cores together.

    `gemm_flops` maps fp32, bf16, int8 to sustained FLOP/s of a large product; `small_gemm_flops`
    to those of a small one (256 rows); `overhead_seconds` is one framework operator's dispatch.
    """

    name: str
    cores: int
    memory_bytes: float
    bandwidth_bytes_per_second: float
    gemm_flops: dict[str, float]
    overhead_seconds: float
    source: str


@cache
def gpus() -> dict[str, Gpu]:
    """Return the table of GPUs by canonical name."""
    text = resources.files("pipelines.cost").joinpath("data/gpus.csv").read_text()
    return {row["name"]: _gpu(row) for row in csv.DictReader(text.splitlines())}


def _gpu(row: dict[str, str]) -> Gpu:
    peaks = {p: float(row[p]) * 1e12 for p in PRECISIONS if row[p]}
    return Gpu(
        name=row["name"],
        arch=row["arch"],
        memory_bytes=float(row["memory_gb"]) * (GIB if float(row["memory_gb"]) < 141 else GB),
        bandwidth_bytes_per_second=float(row["bandwidth_gbs"]) * GB,
        peaks_flops=peaks,
        sms=int(row["sms"]),
        link_bytes_per_second=float(row["link_gbs"]) * GB if row["link_gbs"] else None,
        pcie_bytes_per_second=float(row["pcie_gbs"]) * GB,
        tdp_watts=float(row["tdp_w"]),
        source=row["source"],
    )


# Other names of the same silicon, by model part of the name (vendor, form and memory removed).
_SAME = {
    "A6000": "RTXA6000",
    "A5000": "RTXA5000",
    "A4000": "RTXA4000",
    "QUADRORTXA6000": "RTXA6000",
    "RTX8000": "QUADRORTX8000",
    "RTX6000": "QUADRORTX6000",
    "RTX5000": "QUADRORTX5000",
    "RTX4000SFFADA": "RTX4000ADA",
    "RTXPRO6000BLACKWELL": "RTXPRO6000",
    "RTXPRO6000SERVER": "RTXPRO6000",
    "RTXPRO6000BLACKWELLSERVER": "RTXPRO6000",
    "RTX2070SUPER": "RTX2070",
    "RTX4090D": "RTX4090",
    "TITANX": "TITANXPASCAL",  # the one before it is the GTX TITAN X
    "TITANXMAXWELL": "GTXTITANX",
    "P6000": "QUADROP6000",
    "GV100": "QUADROGV100",
    "RTX4000": "QUADRORTX4000",
    "A2000": "RTXA2000",
    "1660TI": "GTX1660TI",
    "SPARK": "GB10",
    "RADEONRX7900XTX": "RX7900XTX",
    "7900XTX": "RX7900XTX",
    "V100S": "V100",
    "GB200NVL72": "GB200",
    "GB300NVL72": "GB300",
    "H100MEGA": "H100",
    **{n: f"RTX{n}" for n in ("3060", "3070", "3080", "3090", "4060", "4070", "4080", "4090")},
    **{n: f"RTX{n}" for n in ("2080TI", "3060TI", "3080TI", "3090TI", "4060TI", "4070TI")},
    **{n: f"RTX{n}" for n in ("5070", "5070TI", "5080", "5090", "4080SUPER", "4070SUPER")},
    "1080": "GTX1080",
    "1080TI": "GTX1080TI",
    "T4G": "T4",
}
_NOISE = {
    *("NVIDIA", "AMD", "TESLA", "GEFORCE", "INSTINCT", "RADEON", "GRAPHICS", "TENSOR", "CORE"),
    *("GPU", "OAM", "GENERATION", "EDITION", "HBM2", "HBM2E", "HBM3", "HBM3E", "DGX", "HGX"),
    *("WORKSTATION", "LAPTOP", "DGXS"),
}
_FORM = re.compile(r"(SXM|PCI|NVL$)")
# "8x A100", "A100 x 8"; the number of a DGX station ("DGX-1 V100").
_COUNT = re.compile(r"(?i)^\s*(\d{1,2})\s*[x×]\s*(?=[a-z])|(?<=[\d\s)])\s*[x×]\s*(\d{1,2})\s*$")
_STATION = re.compile(r"(?i)\bDGX-?[12]\b(?=.*[a-z])")


@dataclass(frozen=True, slots=True)
class _Name:
    """A GPU name taken apart: model, form factor (SXM, PCI, NVL), memory in GB, the rest."""

    core: str
    form: str | None
    memory: float | None
    watts: str | None


def gpu_count(name: str) -> int | None:
    """Return the number of GPUs that a name states (``8x A100``), None where it states none."""
    found = _COUNT.search(name)
    return int(found[1] or found[2]) if found else None


@lru_cache(maxsize=4096)
def _parse(name: str) -> _Name:
    core, form, memory, watts = "", None, None, None
    name = _STATION.sub(" ", _COUNT.sub("", name))
    text = re.sub(r"(?i)(?<=[a-z0-9])(?=(sxm|pcie)\d?(?:[^a-z0-9]|$))", "-", name)
    for token in filter(None, re.split(r"[^A-Z0-9]+", text.upper())):
        if token in _NOISE:
            continue
        size = re.fullmatch(r"(\d+)GI?B?", token)
        if size or (core and form and re.fullmatch(r"\d{2,3}", token)):
            memory = float(size[1] if size else token)
        elif re.fullmatch(r"\d{3}W", token):
            watts = token
        elif core and (match := _FORM.match(token)):
            form = token[:4] if match[1] == "SXM" else match[1]
        else:
            core += token
    return _Name(_SAME.get(core, core), form, memory, watts)


@cache
def find_gpu(name: str) -> Gpu | None:
    """Resolve a GPU name as people write it; None if unknown.

    Case, punctuation and vendor words do not matter; a stated form factor or memory size must
    agree with the GPU's (``A10G-24GB`` is found, ``T4-80GB`` is not). Left open, SXM is taken
    before PCIe and the smaller memory before the larger, and the answer is marked ambiguous.
    """
    asked = _parse(name)
    found = []
    for gpu in gpus().values():
        have = _parse(gpu.name)
        size = gpu.memory_bytes / (GIB if gpu.memory_bytes < 141e9 else GB)
        if have.core != asked.core or (have.watts and have.watts != asked.watts):
            continue
        if asked.form and have.form and have.form[:3] != asked.form[:3]:
            continue
        if asked.memory and abs(size - asked.memory) > 0.08 * size:
            continue
        form = have.form or "SXM"
        rank = (have.watts != asked.watts, form != asked.form, form[:3] != "SXM", form)
        found.append((rank, size, gpu))
    if not found:
        return None
    found.sort(key=lambda entry: entry[:2])
    rank, _, gpu = found[0]
    several = len({size for other, size, _ in found if other == rank}) > 1
    return dataclasses.replace(gpu, ambiguous=True) if several and not asked.memory else gpu


def gpu_by_name(name: str) -> Gpu:
    """Resolve a GPU name.

    Raises:
        SpecError: no GPU of the table goes by this name.
    """
    gpu = find_gpu(name)
    if gpu is None:
        near = difflib.get_close_matches(name.upper(), [n.upper() for n in gpus()], n=3, cutoff=0.4)
        raise SpecError(
            f"unknown GPU {name!r}",
            remedy=f"nearest known: {', '.join(near) or 'none'}; see pipelines/cost/data/gpus.csv",
        )
    return gpu
