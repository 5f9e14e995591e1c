"""Run one step: find its marker or do the work, measure it, write its report or its error.

Every KFP face calls `execute`. The environment is read here and nowhere else in `components`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import resource
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.contract import StepError, StepReport, content_hash, error_document
from components.lib.host import hardware_here
from components.lib.prefetch import Prefetch, artifacts_in, make_room
from components.pushgateway import push
from components.storage import Store, Tiers

COMPONENTS = Path(__file__).parent
SAMPLE_SECONDS = 0.1
# Where a dynamic pipeline's decide step leaves the later steps' configs, below the run's folder.
DECIDED = "decided"
# Inputs that a step takes in by itself: at its own pace (components/train/stream.py), or in part.
TAKEN_BY_STEP = {"train": ("dataset",), "decide": ("dataset",)}


@dataclass(slots=True, kw_only=True)
class StepContext:
    """What a step's `run` receives, and where it reports to.

    `arguments` is the step's own slice of the plan; `inputs` maps input name to artifact URI (or to
    a list of them); `scratch` is a folder that survives a crash of the step and is removed when
    it succeeds, so checkpoints go there.
    """

    step: str
    kind: str
    arguments: dict[str, Any]
    inputs: dict[str, Any]
    store: Store
    run_id: str
    plan_hash: str
    requested: dict[str, Any]
    scratch: Path
    seconds: dict[str, float] = field(default_factory=dict)
    workload: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    series: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    bytes_in: int = 0
    bytes_out: int = 0
    peak_gpu_memory_bytes: int | None = None
    peak_child_memory_bytes: int = 0
    energy_joules: float | None = None
    coming: Prefetch | None = None
    began: float = field(default_factory=time.perf_counter)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the wall time of the block to phase `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def fetch(self, uri: str) -> Path:
        """Return a local read-only folder with the verified content of the artifact at `uri`."""
        with self.phase("stage_in"):
            if self.coming is not None:
                self.coming.wait(uri)
            self.bytes_in += self.store.size_bytes(uri)
            return self.store.fetch(uri, self.reads(uri))

    def fetch_file(self, uri: str, name: str) -> Path:
        """Return one verified file of the artifact at `uri`; the rest stays where it is."""
        with self.phase("stage_in"):
            [path] = self.store.fetch_part(uri, name, self.place_of(uri))
            self.bytes_in += path.stat().st_size
            return path

    def reads(self, uri: str) -> Path:
        """Count a read of the artifact at `uri`; return the folder where it is to be laid out."""
        # Where the storage policy counts how often each artifact is read.
        self.metrics.setdefault("artifacts_read", []).append(uri)
        return self.place_of(uri)

    def place_of(self, uri: str) -> Path:
        """Return the folder where the artifact at `uri` is, or would be, laid out."""
        return self.scratch / "inputs" / uri.rsplit("/", 1)[1][:16]

    def put(self, folder: Path, *, kind: str) -> str:
        """Store `folder` as an artifact on the hot tier and return its URI."""
        with self.phase("stage_out"):
            make_room(self.store, sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()))
            uri = self.store.put_folder(folder, kind=kind)
            self.bytes_out += self.store.size_bytes(uri)
            return uri

    def folder(self, name: str) -> Path:
        """Return a fresh, empty folder below the scratch folder."""
        path = self.scratch / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def progress(self, fraction: float, message: str = "", **figures: float) -> None:
        """Tell whoever watches the run how far this step is (`fraction` from 0 to 1)."""
        event = {"fraction": round(fraction, 4), "message": message, **figures}
        emit_event(self.store, self.run_id, self.step, "progress", event)


RunStep = Callable[[StepContext], str]


def execute(
    kind: str,
    run: RunStep,
    *,
    config: str,
    inputs: dict[str, Any],
    store: str,
    run_id: str,
    external: Callable[[dict[str, Any]], Any] | None = None,
    code: Sequence[Path] | None = None,
    resumable: bool = True,
) -> str:
    """Run a step once, or return what it returned before.

    Args:
        kind: the step's folder name, such as ``train``.
        run: the work; returns the URI of the artifact it made.
        config: JSON ``{step, arguments, plan_hash, requested}`` from the plan; with
            ``decided: true`` what this run's decide step left for the step comes in its place.
        inputs: input name to artifact URI or list of URIs.
        store: JSON of the three tiers.
        run_id: names the run's folder in the store.
        external: identifies what the step reads from outside the store (content hashes of source
            files); part of the fingerprint.
        code: the source files that decide the result, when they are not the step's own folder.
        resumable: False for a step that must run every time.

    Returns:
        The artifact URI that `run` returned, now or in an earlier run with the same fingerprint.

    Raises:
        BaseException: whatever `run` raises, after ``error.json`` was written to the run's folder.
    """
    settings = json.loads(config)
    step = settings["step"]
    tiers = Store(Tiers.from_json(store))
    try:
        if settings.get("decided"):
            settings = _decided(settings, tiers, run_id)
        outside = external(settings["arguments"]) if external else None
        fingerprint = content_hash(
            [
                kind,
                settings["arguments"],
                inputs,
                outside,
                _digest(code) if code else code_digest(kind),
            ]
        )
        cached = resumable and _from_marker(tiers, fingerprint, step, run_id, settings["plan_hash"])
        if cached:
            return cached
        return _run_and_record(
            kind, run, settings, inputs, tiers, run_id, fingerprint, resumable=resumable
        )
    except BaseException as error:
        if not isinstance(error, (SystemExit, KeyboardInterrupt)):
            tiers.put_json(f"runs/{run_id}/errors/{step}.json", error_document(step, error))
            emit_event(tiers, run_id, step, "failed", {"message": str(error)})
            traceback.print_exc()
        raise


def _decided(settings: dict[str, Any], store: Store, run_id: str) -> dict[str, Any]:
    """Return what the decide step of this run left for the step; the compiled config when it left
    nothing and there is one (the receipt of a run that never came to a decision)."""
    found: dict[str, Any] | None = store.get_json(
        f"runs/{run_id}/{DECIDED}/{settings['step']}.json"
    )
    if found is None and "arguments" not in settings:
        raise StepError(
            f"the decide step of run {run_id} left nothing for {settings['step']}",
            remedy="run decide and the steps after it with the same store",
        )
    return found or settings


def _from_marker(
    store: Store, fingerprint: str, step: str, run_id: str, plan_hash: str
) -> str | None:
    marker = store.get_json(f"markers/{fingerprint}.json")
    # Renewed: a collection that looked before this run named it must not remove it.
    if marker is None or not store.renew(marker["output"]):
        return None
    report = {**marker["report"], "step": step, "cached": True, "plan_hash": plan_hash}
    store.put_json(f"runs/{run_id}/steps/{step}.json", report)
    emit_event(store, run_id, step, "cached", {"seconds": report["seconds"]["total"]})
    output: str = marker["output"]
    return output


def _run_and_record(
    kind: str,
    run: RunStep,
    settings: dict[str, Any],
    inputs: dict[str, Any],
    store: Store,
    run_id: str,
    fingerprint: str,
    *,
    resumable: bool,
) -> str:
    step = settings["step"]
    context = StepContext(
        step=step,
        kind=kind,
        arguments=settings["arguments"],
        inputs=inputs,
        store=store,
        run_id=run_id,
        plan_hash=settings["plan_hash"],
        requested=settings["requested"],
        scratch=scratch_folder(store, f"{step}-{fingerprint[:16]}"),
    )
    emit_event(store, run_id, step, "started", {})
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    start = time.perf_counter()
    # Inputs that are not on the hot tier come while the step loads what it needs to start.
    ahead = {n: uri for n, uri in inputs.items() if n not in TAKEN_BY_STEP.get(kind, ())}
    with MemorySampler() as memory, Prefetch(store, artifacts_in(ahead)) as context.coming:
        output = run(context)
    context.seconds["total"] = time.perf_counter() - start
    report = StepReport(
        step=step,
        kind=kind,
        fingerprint=fingerprint,
        plan_hash=context.plan_hash,
        output=output,
        cached=False,
        started_at=started_at,
        seconds={name: round(value, 4) for name, value in context.seconds.items()},
        workload=context.workload,
        requested=context.requested,
        hardware=hardware_here(),
        bytes_in=context.bytes_in,
        bytes_out=context.bytes_out,
        peak_memory_bytes=max(memory.peak_bytes, context.peak_child_memory_bytes),
        peak_gpu_memory_bytes=context.peak_gpu_memory_bytes,
        energy_joules=context.energy_joules,
        metrics=context.metrics,
        series=context.series,
        notes=context.notes,
        cpu_seconds=round(memory.cpu_seconds, 3),
    )
    document = report.to_json()
    problem = push(document, run_id=run_id, gateway=os.environ.get("SUANLI_PUSHGATEWAY"))
    if problem:
        document["notes"].append(problem)
    store.put_json(f"runs/{run_id}/steps/{step}.json", document)
    if resumable:
        # The marker comes last: whoever sees it may rely on everything before it.
        store.put_json(f"markers/{fingerprint}.json", {"output": output, "report": document})
    shutil.rmtree(context.scratch, ignore_errors=True)
    emit_event(store, run_id, step, "finished", {"seconds": report.seconds["total"]})
    return output


def _cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


@functools.cache
def code_digest(kind: str) -> str:
    """Hash the source files that decide what a step of this kind computes."""
    folders = [COMPONENTS / kind, COMPONENTS / "lib"]
    files = [COMPONENTS / name for name in ("contract.py", "runtime.py", "storage.py")]
    files += [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    return _digest(files)


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(COMPONENTS.parent).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def scratch_folder(store: Store, name: str) -> Path:
    """Return the step's scratch folder: SUANLI_SCRATCH, or beside the hot tier when it is local
    (same filesystem, so artifacts are hard-linked instead of copied)."""
    base = os.environ.get("SUANLI_SCRATCH")
    if base is None:
        local_hot = store.local_root("hot")
        base = str(local_hot / "scratch") if local_hot else "/tmp/suanli-scratch"
    path = Path(base) / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def emit_event(store: Store, run_id: str, step: str, event: str, figures: dict[str, Any]) -> None:
    """Append one line to the run's event log when the hot tier is a local folder, and to the
    step's own log otherwise."""
    line = json.dumps({"time": round(time.time(), 3), "step": step, "event": event, **figures})
    root = store.local_root("hot")
    if root is None:
        print(line, flush=True)
        return
    path = root / "runs" / run_id / "events.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write(line + "\n")


class MemorySampler:
    """Samples the resident memory of this process and its children together, and counts their
    CPU time.

    `ru_maxrss` knows only the largest single child; torchrun's ranks live at the same time and
    share pages, so the proportional set size would be fairer but costs milliseconds to read: this
    counts private plus shared pages of each process (an upper bound).
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.cpu_seconds = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> MemorySampler:
        self._thread.start()
        self._cpu_before = _cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.cpu_seconds = _cpu_seconds() - self._cpu_before

    def _sample(self) -> None:
        import psutil

        process = psutil.Process()
        while True:
            total = process.memory_info().rss
            for child in process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += child.memory_info().rss
            self.peak_bytes = max(self.peak_bytes, total)
            if self._stop.wait(SAMPLE_SECONDS):
                return
