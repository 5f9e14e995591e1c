"""Ingest: read, validate and tokenise the data once, into content-addressed shards.

Two passes over each source: `scan` validates every row and decides labels, tag scheme and splits
before a second is spent on tokenising; then blocks are encoded in parallel.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from components.ingest import shards, sources, tags
from components.ingest.card import dataset_card
from components.ingest.describe import describe
from components.ingest.examples import Example
from components.ingest.formats import read_source
from components.ingest.manifest import make_manifest
from components.ingest.redact import redact
from components.ingest.scan import (
    Scan,
    assign,
    check_labels,
    draw,
    has_groups,
    label_list,
    scan,
    text_hash,
)
from components.ingest.settings import Settings
from components.ingest.unlabelled import read_unlabelled
from components.lib.dataset import SPLITS, UNLABELLED
from components.lib.references import TOKENIZER_FILES, resolve_tokenizer_folder
from components.lib.scope import number_of
from components.lib.shard_index import join_rows
from components.runtime import StepContext

# Resident memory measured with `benchmarks.storage memory`: the reading process and each encoder.
READER_BYTES = 192 << 20
WORKER_BYTES = 320 << 20
DEFAULT_MEMORY_BYTES = 1 << 30
PARTS = (*SPLITS, UNLABELLED)
CODES = {0: "train", 1: "validation", 2: "test"}


def external(arguments: dict[str, Any]) -> Any:
    """Identify the source files and the tokenizer, for the step's fingerprint."""
    settings = Settings.from_arguments(arguments)
    found: dict[str, Any] = {s: sources.identity(uri) for s, uri in settings.uris.items()}
    if settings.task != "image-classification":
        folder = resolve_tokenizer_folder(settings.model)
        found["tokenizer"] = sources.file_sha256(folder / "tokenizer.json")
    return found


def run(context: StepContext) -> str:
    """Make the dataset artifact and return its URI.

    Raises:
        DataError: the data is missing, malformed or inconsistent; names file and line.
        SpecError: an argument is wrong.
    """
    settings = Settings.from_arguments(context.arguments)
    with context.phase("stage_in"):
        staged = {
            split: sources.stage(split, uri, context.scratch / "sources")
            for split, uri in settings.uris.items()
        }
        context.bytes_in = sum(source.bytes for source in staged.values())
    with context.phase("scan"):
        redacted: Counter[str] = Counter()
        scans = {
            split: scan(
                settings.task, _read(settings, source, redacted), labelled=split != UNLABELLED
            )
            for split, source in staged.items()
        }
        check_labels(scans)
        labels, scheme = _labels(settings, scans)
        if settings.out_of_scope is not None:
            number_of(settings.out_of_scope, labels)
        codes = _assignment(settings, scans)
    output = context.scratch / "dataset"
    output.mkdir(exist_ok=True)
    with context.phase("tokenise"):
        work = shards.blocks(_placed(settings, staged, scans, codes))
        entries = _tokenise(context, settings, work, scans, labels, output)
    with context.phase("describe"):
        rows = [shards.index_row(e) for part in PARTS for e in entries if e["split"] == part]
        index = join_rows(rows, output)
        manifest = make_manifest(settings, staged, scans, labels, scheme, entries, index)
        manifest["statistics"], manifest["warnings"] = describe(scans, codes, redacted)
        _finish(settings, output, manifest)
    _report(context, manifest)
    return context.put(output, kind="dataset")


def _read(
    settings: Settings, source: sources.Source, redacted: Counter[str]
) -> Iterator[tuple[Path, Example]]:
    if source.split == UNLABELLED and settings.unlabelled is not None:
        examples = read_unlabelled(source, task=settings.task, wanted=settings.unlabelled)
    else:
        examples = read_source(
            source, task=settings.task, wanted=settings.format, columns=settings.columns
        )
    if settings.redact and settings.task != "image-classification":
        return redact(examples, redacted)
    return examples


def _assignment(settings: Settings, scans: dict[str, Scan]) -> np.ndarray | None:
    """Return the split of each row of train's source (see `CODES`), None when all are train."""
    if not settings.fractions:
        return None
    return assign(scans["train"], settings.fractions, settings.seed)


def _labels(settings: Settings, scans: dict[str, Scan]) -> tuple[list[str], dict[str, str]]:
    if settings.task != "token-classification":
        return label_list(settings.task, scans["train"]), {}
    evidence = tags.SchemeEvidence()
    for found in scans.values():
        evidence.merge(found.evidence)
    labels = tags.bio2_labels(scans["train"].label_counts)
    return labels, {"scheme": "BIO2", "source_scheme": evidence.scheme()}


def _tokenise(
    context: StepContext,
    settings: Settings,
    work: Iterator[shards.Block],
    scans: dict[str, Scan],
    labels: list[str],
    output: Path,
) -> list[dict[str, Any]]:
    finished = context.scratch / "blocks"
    finished.mkdir(exist_ok=True)
    encoder = shards.EncoderSettings(
        task=settings.task,
        labels=labels,
        max_length=settings.max_length,
        tokenizer_folder=(
            None
            if settings.task == "image-classification"
            else resolve_tokenizer_folder(settings.model)
        ),
        output=output,
        finished=finished,
    )
    total = sum(found.rows for found in scans.values())
    workers = _workers(context) if context.bytes_in > shards.PARALLEL_BYTES else 1
    done = 0

    def on_block(entry: dict[str, Any]) -> None:
        nonlocal done
        done += entry["examples"]
        context.progress(done / total, f"{done:,} of {total:,} rows", rows=done)

    context.workload["processes"] = workers
    return shards.write_shards(work, encoder, workers=workers, on_block=on_block)


def _workers(context: StepContext) -> int:
    """One process a core, as far as the memory that the step asked for carries them."""
    memory = int(context.requested.get("memory_bytes") or DEFAULT_MEMORY_BYTES)
    affordable = (memory - READER_BYTES) // WORKER_BYTES
    return max(1, min(len(os.sched_getaffinity(0)), affordable))


def _placed(
    settings: Settings,
    staged: dict[str, sources.Source],
    scans: dict[str, Scan],
    codes: np.ndarray | None,
) -> Iterator[tuple[str, Example]]:
    """Yield every example with the split it belongs to."""
    for split, source in staged.items():
        examples = (example for _, example in _read(settings, source, Counter()))
        if split == "train" and codes is not None:
            yield from _divided(settings, examples, codes, scans["train"])
        else:
            for example in examples:
                yield split, example


def _divided(
    settings: Settings, examples: Iterator[Example], codes: np.ndarray, found: Scan
) -> Iterator[tuple[str, Example]]:
    """Yield the examples of train's source with their split; sources too large for a table of
    rows (`KEPT_ROWS`) are drawn again batch by batch."""
    if found.rows <= len(codes):
        for code, example in zip(codes.tolist(), examples, strict=True):
            yield CODES[code], example
        return
    grouped = has_groups(found)
    while batch := list(itertools.islice(examples, shards.BLOCK_ROWS)):
        units = [e.group or 0 if grouped else text_hash(settings.task, e) for e in batch]
        drawn = draw(np.array(units, np.uint64), settings.fractions, settings.seed)
        for code, example in zip(drawn.tolist(), batch, strict=True):
            yield CODES[code], example


def _finish(settings: Settings, output: Path, manifest: dict[str, Any]) -> None:
    """Leave exactly what the manifest names in the folder, the manifest last."""
    named = {s["file"] for part in manifest["splits"].values() for s in part["shards"]}
    named.add(manifest.get("index", {}).get("file"))
    for path in output.iterdir():
        if path.is_file() and path.name not in named:
            path.unlink()
    if settings.task != "image-classification":
        target = output / "tokenizer"
        target.mkdir(exist_ok=True)
        folder = resolve_tokenizer_folder(settings.model)
        for name in TOKENIZER_FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, target / name)
    (output / "dataset-card.md").write_text(dataset_card(manifest), encoding="utf-8")
    body = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
    (output / "manifest.json").write_text(body + "\n", encoding="utf-8")


def _report(context: StepContext, manifest: dict[str, Any]) -> None:
    splits = manifest["splits"].values()
    context.workload.update(
        rows=sum(part["rows"] for part in splits),
        tokens=sum(part["tokens"] for part in splits),
        sequences=sum(part["rows"] for part in splits),
        bytes=context.bytes_in,
    )
    context.metrics.update({name: part["rows"] for name, part in manifest["splits"].items()})
    context.notes.extend(manifest["warnings"])
