"""The dataset manifest, from what was read and what was written."""

from __future__ import annotations

from typing import Any

from components.contract import MANIFEST_VERSION
from components.ingest.scan import Scan
from components.ingest.settings import Settings
from components.ingest.sources import Source
from components.lib.dataset import SPLITS, UNLABELLED


def make_manifest(
    settings: Settings,
    staged: dict[str, Source],
    scans: dict[str, Scan],
    labels: list[str],
    scheme: dict[str, str],
    entries: list[dict[str, Any]],
    index: dict[str, Any],
) -> dict[str, Any]:
    return {
        "schema_version": MANIFEST_VERSION,
        "task": settings.task,
        "name": settings.name,
        "labels": labels,
        **scheme,
        **({"out_of_scope": settings.out_of_scope} if settings.out_of_scope else {}),
        "model_id": str(settings.model.get("id") or settings.model.get("config")),
        "max_length": settings.max_length,
        "seed": settings.seed,
        **({"document_context": True} if settings.document_context else {}),
        "splits": {
            split: _split_entry([e for e in entries if e["split"] == split])
            for split in (*SPLITS, *({UNLABELLED} & set(staged)))
        },
        **({"index": index} if index else {}),
        "sources": [
            {
                "split": split,
                "uri": source.uri,
                "sha256": source.sha256(),
                "bytes": source.bytes,
                "rows": scans[split].rows,
            }
            for split, source in staged.items()
        ],
        "statistics": {},
        "warnings": [],
    }


def _split_entry(entries: list[dict[str, Any]]) -> dict[str, Any]:
    histogram: dict[int, int] = {}
    for entry in entries:
        for length, count in entry["length_histogram"].items():
            histogram[int(length)] = histogram.get(int(length), 0) + count
    keys = ("file", "sha256", "rows", "tokens", "bytes")
    return {
        "shards": [{key: entry[key] for key in keys} for entry in entries],
        **{
            key: sum(entry[key] for entry in entries)
            for key in ("rows", "tokens", "words", "examples", "truncated", "bytes")
        },
        "length_histogram": {str(length): histogram[length] for length in sorted(histogram)},
    }
