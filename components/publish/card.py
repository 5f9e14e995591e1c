"""The model card: what the model is for, and all the evidence there is about it."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def model_card(*, name: str, version: int, selection: Json, export: Json, manifest: Json) -> str:
    """Return model-card.md: quality with its uncertainty, speed, variants, parity, data."""
    parts = [
        f"# {name}, version {version}\n",
        f"A model for {manifest['task']}: variant `{selection['selected']}`, "
        f"{export['size_bytes'] / 1e6:.1f} MB, at most {export['max_length']} tokens "
        f"a sequence, ONNX opset {export['opset']}.\n",
        "## Quality\n\n" + _quality(selection),
        "## Variants considered\n\n" + _variants(selection["variants"]),
        _load(selection),
        _classes(selection),
        "## Does it compute what was trained?\n\n" + _parity(export),
        "## Data\n\n" + _data(manifest),
        "## Use\n\n    python predict.py inputs.txt > predictions.jsonl\n\n"
        "needs only onnxruntime and tokenizers. `SHA256SUMS` lists every file's checksum "
        "(`sha256sum -c SHA256SUMS`).\n",
        "## Limits\n\nScores hold for data like the test split. The interval is of sampling the "
        "test split only; another training seed moves scores too.\n",
    ]
    return "\n".join(part for part in parts if part)


def _quality(selection: Json) -> str:
    q = selection["quality"]
    budget = selection["promise"]["max_quality_drop"]
    rows = [
        ["tuned model", f"{q['tuned']:.4f}", _interval(q["tuned_ci95"])],
        [f"this model (`{selection['selected']}`)", f"{q['selected']:.4f}", _interval(q["ci95"])],
        ["lost", f"{q['drop']:.4f}", _interval(q["drop_ci95"])],
    ]
    text = _table([f"{q['metric']} on {q['split']}", "value", "95 % interval"], rows)
    return (
        f"{text}\nProbability that the loss exceeds {budget:g}: "
        f"{q['p_drop_exceeds_budget']:.2f} (paired bootstrap). The test split was scored once, "
        "after the choice.\n"
    )


def _variants(variants: list[Json]) -> str:
    header = ["variant", "validation", "MB", "p50 ms", "p99 ms", "requests/s", "USD/million",
              "provider", "verdict"]  # fmt: skip
    rows = [
        [
            f"`{row['name']}`",
            f"{row['quality_validation']:.4f}",
            f"{row['size_bytes'] / 1e6:.1f}",
            f"{row['latency_ms']['p50']:.2f}",
            f"{row['latency_ms']['p99']:.2f}",
            f"{row['throughput_per_s']:.0f}",
            "–" if row["usd_per_million"] is None else f"{row['usd_per_million']:.4f}",
            row["provider"],
            row["reason"],
        ]
        for row in variants
    ]
    return _table(header, rows)


def _load(selection: Json) -> str:
    rows = []
    for who, scenarios in (selection.get("load") or {}).items():
        for scenario in ("SingleStream", "Server", "Offline"):
            found = scenarios[scenario]
            rows.append(
                [
                    who,
                    scenario,
                    "valid" if found["valid"] else f"INVALID: {found['why_invalid']}",
                    str(found["queries"]),
                    *("–" if v is None else f"{v:.2f}" for v in found["latency_ms"].values()),
                    f"{found['samples_per_second']:.1f}",
                ]
            )
    if not rows:
        return ""
    header = ["model", "scenario", "verdict", "queries", "p50 ms", "p90 ms", "p99 ms", "mean ms",
              "samples/s"]  # fmt: skip
    return (
        "## Under load\n\nMLPerf's load generator for some seconds each (not a submission):\n\n"
        + _table(header, rows)
    )


def _classes(selection: Json) -> str:
    report = selection.get("classification_report")
    if not report:
        return ""
    rows = [
        [name, *(f"{row[key]:.3f}" for key in ("precision", "recall", "f1")), str(row["support"])]
        for name, row in report.items()
    ]
    text = "## By class (test)\n\n" + _table(["", "precision", "recall", "F1", "support"], rows)
    if selection.get("entities"):
        modes = [
            [mode, *(f"{row[key]:.4f}" for key in ("precision", "recall", "f1"))]
            for mode, row in selection["entities"].items()
        ]
        text += "\n## Entities (test)\n\n" + _table(["mode", "precision", "recall", "F1"], modes)
    return text


def _parity(export: Json) -> str:
    parity = export["parity"]
    lines = [
        f"Against eager PyTorch on {parity['batches']} batches with sequences of "
        f"{parity['lengths'][0]} to {parity['lengths'][1]} tokens: largest difference of a logit "
        f"{parity['max_abs_diff']:.2e} (allowed {parity['tolerance']:.2e}), equal predictions "
        f"{parity['equal_predictions']:.4f}. Graph: {export['fusion']}, {export['precision']}.\n"
    ]
    lines += [f"- {note}\n" for note in export["fallbacks"]]
    return "".join(lines)


def _data(manifest: Json) -> str:
    rows = [
        [split, str(found["rows"]), str(found.get("tokens", ""))]
        for split, found in manifest["splits"].items()
    ]
    text = _table(["split", "rows", "tokens"], rows)
    for source in manifest["sources"]:
        text += f"\n- {source['split']}: `{source['uri']}`, sha256 `{source['sha256']}`"
    return text + "\n" + "".join(f"\n- {warning}" for warning in manifest["warnings"])


def _interval(bounds: list[float]) -> str:
    return f"{bounds[0]:.4f} to {bounds[1]:.4f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
