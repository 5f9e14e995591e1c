"""Compile and render every example spec, with static and dynamic requests: seconds and bytes.

    python -m benchmarks.compile_render [SPEC…]

Seconds are CPU time of this process after start-up (imports done, plan made), the best of three;
the bars are 1.5 s together and 1,000,000 bytes of compiled YAML.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.contract import SpecError
from pipelines.dag import Requests, compile_pipeline
from pipelines.plan import make_plan
from pipelines.render import render
from pipelines.spec import load_spec

EXAMPLES = Path(__file__).resolve().parents[1] / "pipelines" / "examples"
MODES: tuple[Requests, ...] = ("static", "dynamic")
ROUNDS = 3


def best(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the least CPU seconds of `ROUNDS` calls, and what the last returned."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        made = work()
        seconds.append(time.process_time() - start)
    return min(seconds), made


def main(paths: list[Path]) -> None:
    print(f"{'spec':22} {'requests':8} {'compile':>8} {'render':>8} {'bytes':>9}")
    for path in paths:
        try:
            plan = make_plan(load_spec(path))
        except SpecError as error:  # one example starts from what another has published
            print(f"{path.stem:22} not planned: {error}")
            continue
        for mode in MODES:
            compiled, text = best(lambda: compile_pipeline(plan, requests=mode))  # noqa: B023
            with tempfile.TemporaryDirectory() as folder:
                rendered, _ = best(lambda: render(plan, text, Path(folder)))  # noqa: B023
            row = f"{plan.name:22} {mode:8} {compiled:7.2f}s {rendered:7.2f}s"
            print(f"{row} {len(text.encode()):9,}")


if __name__ == "__main__":
    main([Path(text) for text in sys.argv[1:]] or sorted(EXAMPLES.glob("*.yaml")))
