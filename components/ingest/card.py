"""The dataset card: what is in the artifact, for people."""

from __future__ import annotations

from typing import Any

from components.lib.dataset import UNLABELLED


def dataset_card(manifest: dict[str, Any]) -> str:
    """Return the card as Markdown."""
    statistics = manifest["statistics"]
    lines = [
        f"# Dataset {manifest['name']}",
        "",
        f"Task: {manifest['task']}. Tokenizer: {_escape(manifest['model_id'])}, at most "
        f"{manifest['max_length']} tokens a sequence.",
        "",
        "| split | examples | sequences | tokens | words | longest | truncated |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for split, part in manifest["splits"].items():
        longest = max(map(int, part["length_histogram"]), default=0)
        lines.append(
            f"| {split} | {part['examples']:,} | {part['rows']:,} | {part['tokens']:,} | "
            f"{part['words']:,} | {longest} | {part['truncated']:,} |"
        )
    lines += [
        "",
        "## Sources",
        "",
        "| split | source | rows | bytes | sha256 |",
        "|---|---|--:|--:|---|",
    ]
    for source in manifest["sources"]:
        lines.append(
            f"| {source['split']} | {_escape(source['uri'])} | {source['rows']:,} | "
            f"{source['bytes']:,} | `{source['sha256'][:16]}…` |"
        )
    if manifest["labels"]:
        counts = {s: v["label_counts"] for s, v in statistics["splits"].items() if s != UNLABELLED}
        unit = "entities" if manifest["task"] == "token-classification" else "rows"
        lines += ["", f"## Labels ({unit})", "", f"| label | {' | '.join(counts)} |"]
        lines.append("|---|" + "---:|" * len(counts))
        for label in sorted({label for part in counts.values() for label in part}):
            cells = " | ".join(f"{part.get(label, 0):,}" for part in counts.values())
            lines.append(f"| {_escape(label)} | {cells} |")
    lines += ["", "## Checks", ""]
    lines += [f"- {_escape(warning)}" for warning in manifest["warnings"]] or ["- no warnings"]
    for name, count in statistics.get("redacted", {}).items():
        lines.append(f"- {count:,} × {name} replaced by `<{name}>`")
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    """Keep labels and file names from being read as Markdown or HTML."""
    for character in "\\`*_[]<>|#":
        text = text.replace(character, "\\" + character)
    return text.replace("\n", " ").replace("\r", " ")
