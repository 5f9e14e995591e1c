"""Draw the curves of a compression benchmark: quality lost against speed, one panel a data set.

    python -m benchmarks.compress_plot benchmarks/results/compress-<date>.json \
        docs/images/compression.svg

Those of ours that no faster one of ours betters are joined by a line; every peer's way is a mark of
its own. The dashed line is the loss that the specs allow; a point left of a curve at equal height
is a slower way to the same quality. Several seeds of one data set are averaged point by point.
"""

from __future__ import annotations

import argparse
import html
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEIGHT, GAP = 330, 250, 56
TOP, LEFT, BOTTOM = 58, 58, 112
ALLOWED = 0.01
# Colours that differ in lightness, too, and marks that differ in form.
STYLES = {
    "ours": ("#0b5fa5", "circle"),
    "stock int8": ("#b35900", "square"),
    "torch-pruning one-shot": ("#a3195b", "diamond"),
    "magnitude": ("#4d4d4d", "triangle"),
    "depth cut": ("#2e7d32", "cross"),
}
INK, FAINT = "#1b1b1b", "#c9c9c9"


def kind_of(point: str) -> str:
    """Ours, or the peer's way."""
    return next((name for name in STYLES if point.startswith(name)), "ours")


def averaged(document: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Return for each data set every timed point's speed and size, and its loss as the mean over
    the seeds that it was scored with."""
    timed: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    lost: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for name, scored in document.get("seeds", {}).items():
        for seed, points in scored.items():
            for point, row in points.items():
                lost[name][point][seed] = row["lost_test"]
    for title, result in document["results"].items():
        name = title.split(",")[0]
        for row in result["points"]:
            own = timed[name][row["point"]]
            own.append([row["against_padded_pytorch"], row["size_share"]])
            lost[name][row["point"]][str(result["seed"])] = row["lost_test"]
    made: dict[str, dict[str, dict[str, float]]] = {}
    for name, points in sorted(timed.items()):
        made[name] = {}
        for point, rows in points.items():
            if point.startswith("pytorch"):
                continue
            speed, size = np.mean(rows, axis=0)
            losses = list(lost[name][point].values())
            made[name][point] = {"x": float(speed), "size": float(size),
                                 "lost": float(np.mean(losses)), "seeds": len(losses)}  # fmt: skip
    return made


def mark(form: str, x: float, y: float, colour: str) -> str:
    """An SVG shape about (x, y)."""
    paint = f'fill="{colour}" stroke="white" stroke-width="1"'
    match form:
        case "circle":
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {paint}/>'
        case "square":
            return f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" {paint}/>'
        case "diamond":
            corners = [(x, y - 6.5), (x + 6.5, y), (x, y + 6.5), (x - 6.5, y)]
        case "triangle":
            corners = [(x, y - 6), (x + 6, y + 5), (x - 6, y + 5)]
        case _:
            lines = f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"
            return f'<path d="{lines}" stroke="{colour}" stroke-width="3" fill="none"/>'
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
    return f'<polygon points="{path}" {paint}/>'


def text(x: float, y: float, words: str, *, anchor: str = "middle", size: int = 11,
         colour: str = INK, more: str = "") -> str:  # fmt: skip
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{colour}" {more}>{html.escape(words)}</text>'
    )


def ticks(low: float, high: float, steps: tuple[float, ...], most: int) -> list[float]:
    """Round values between `low` and `high`."""
    step = next((s for s in steps if (high - low) / s <= most), steps[-1])
    return [float(v) for v in np.arange(np.ceil(low / step) * step, high + 1e-9, step)]


def panel(name: str, points: dict[str, dict[str, float]], left: float) -> list[str]:
    """One data set."""
    xs, losses = [p["x"] for p in points.values()], [p["lost"] for p in points.values()]
    # A point far below would press the rest together: it is drawn on the lower edge, with its loss.
    floor = min(max(max(losses), 0.02), 0.08) * 1.08
    ceiling = min(min(losses), 0.0) - 0.12 * floor
    x_high = max(xs) * 1.08

    def at(x: float, lost: float) -> tuple[float, float]:
        share = (min(lost, floor) - ceiling) / (floor - ceiling)
        return left + WIDTH * x / x_high, TOP + HEIGHT * share

    made = [
        text(left + WIDTH / 2, TOP - 16, name, size=13, more='font-weight="600"'),
        f'<rect x="{left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" '
        f'stroke="{FAINT}"/>',
    ]  # fmt: skip
    for value in ticks(0, x_high, (2, 5, 10, 20, 50), 7):
        x, _ = at(value, 0)
        made += [
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + HEIGHT}" stroke="#eeeeee"/>',
            text(x, TOP + HEIGHT + 15, f"{value:g}×"),
        ]
    for value in ticks(ceiling, floor, (0.005, 0.01, 0.02, 0.05), 8):
        _, y = at(0, value)
        made += [
            f'<line x1="{left}" x2="{left + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eeeeee"/>',
            text(left - 6, y + 4, f"{-value:+.3f}" if value else "0", anchor="end"),
        ]
    _, y = at(0, ALLOWED)
    made.append(
        f'<line x1="{left}" x2="{left + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="{INK}" '
        'stroke-dasharray="5 4"/>'
    )
    ours = sorted((p["x"], p["lost"]) for n, p in points.items() if kind_of(n) == "ours")
    front = [(x, lost) for i, (x, lost) in enumerate(ours)
             if all(lost < other for _, other in ours[i + 1 :])]  # fmt: skip
    line = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in front)
    colour = STYLES["ours"][0]
    made.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
    in_order = sorted(points.items(), key=lambda item: item[1]["x"])
    numbers = iter(range(len(points)))
    for point, values in in_order:
        kind = kind_of(point)
        x, y = at(values["x"], values["lost"])
        made.append(mark(STYLES[kind][1], x, y, STYLES[kind][0]))
        label = point.removesuffix("+int8-static") if kind == "ours" else point.rsplit(" ", 1)[-1]
        if values["seeds"] > 1:
            label += f" (mean of {values['seeds']:.0f})"
        if values["lost"] > floor:
            label += f" ({-values['lost']:+.3f})"
        colour, below = STYLES[kind][0], values["lost"] > floor
        if kind == "ours":  # neighbours on the line: above and below in turn
            above = next(numbers) % 2 == 1
            made.append(text(x, y - 10 if above else y + 17, label, size=10, colour=colour))
        else:
            right = x < left + WIDTH - 70 and kind != "magnitude"
            place, anchor = (x + 9, "start") if right else (x - 9, "end")
            made.append(text(place, y + (-6 if below else 4), label, anchor=anchor, size=10,
                             colour=colour))  # fmt: skip
    return made


def draw(document: dict[str, Any]) -> str:
    """Return the figure as SVG."""
    sets = averaged(document)
    width = LEFT + len(sets) * (WIDTH + GAP) + 10
    height = TOP + HEIGHT + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="Helvetica, Arial, sans-serif">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(LEFT, 22, "Change of the test score against speed; dashed: the allowed loss",
             anchor="start", size=13),
    ]  # fmt: skip
    for number, (name, points) in enumerate(sets.items()):
        parts += panel(name, points, LEFT + number * (WIDTH + GAP))
    x, y = float(LEFT), TOP + HEIGHT + 48
    for kind, (colour, form) in STYLES.items():
        words = {"ours": "suanli (percent pruned)", "stock int8": "plain INT8 (ONNX Runtime)"}
        label = words.get(kind, kind)
        if x + 7 * len(label) > width - 20:
            x, y = float(LEFT), y + 22
        parts += [mark(form, x + 6, y - 4, colour), text(x + 18, y, label, anchor="start")]
        x += 40 + 6.2 * len(label)
    parts.append(text(LEFT, y + 24, "× padded fp32 PyTorch", anchor="start", colour="#555555"))
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("figure", type=Path)
    args = parser.parse_args()
    args.figure.write_text(draw(json.loads(args.results.read_text())))


if __name__ == "__main__":
    main()
