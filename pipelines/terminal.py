"""What suanli says in a terminal: live progress, the plan, the receipt, errors.

Progress and errors go to standard error, results to standard output. Colour and moving parts
appear only on a terminal; everywhere else there is one plain line for each thing that happened.
Outside text is never read as console markup, and control characters in it are replaced.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from components.contract import SuanliError
from pipelines.plan import Plan, StepPlan
from pipelines.reporting import figures
from pipelines.reporting.markup import plain
from pipelines.reporting.plan_table import plan_blocks
from pipelines.reporting.receipt_table import receipt_blocks

if TYPE_CHECKING:
    from pipelines.doctor import Finding

Event = dict[str, Any]
NAME_WIDTH = 24
PIPE_WIDTH = 120
# Below this fraction the elapsed time says less about the rest than the prediction does.
TRUSTED_FRACTION = 0.08
# Where nothing moves, a step says how far it is no more often than this.
PLAIN_PROGRESS_SECONDS = 30.0
EVENT_KEYS = ("time", "step", "event", "fraction", "message", "eta_s", "seconds")


def console(*, stderr: bool = False) -> Console:
    """A console that never guesses markup or colours words by itself.

    A file or a pipe has no width of its own: it gets one that the tables fit in.
    """
    made = Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PIPE_WIDTH
    return made


def print_plan(plan: Plan, *, explain: bool = False, to: Console | None = None) -> None:
    """Print the decision; `explain` adds intervals, alternatives and the first-order formula."""
    out = to or console()
    for block in plan_blocks(plan.to_json(), explain=explain):
        out.print(block)


def print_receipt(
    report: dict[str, Any], *, folder: Path | None = None, to: Console | None = None
) -> None:
    """Print the receipt of a run; `folder` is where its files lie."""
    out = to or console()
    for block in receipt_blocks(report, folder):
        out.print(block)


def print_findings(findings: list[Finding], *, to: Console | None = None) -> None:
    """Print what ``suanli doctor`` found: a sign, the area, the fact, and what to do about it."""
    out = to or console()
    table = Table.grid(padding=(0, 2))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    signs = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "red")}
    for finding in findings:
        sign, style = signs[finding.state]
        words = Text(_lines(finding.found))
        if finding.remedy:
            words.append(f"\n→ {_lines(finding.remedy)}", style="cyan")
        table.add_row(Text(sign, style=style), Text(finding.area, style="bold"), words)
    out.print(table)
    counts = [
        figures.plural(sum(finding.state == state for finding in findings), state)
        for state in ("error", "warning")
    ]
    out.print(Text(", ".join(counts), style="bold"))


def print_error(error: SuanliError, *, brief: bool = False, to: Console | None = None) -> None:
    """Print what went wrong and what to do about it; `brief` leaves out what the receipt above
    shows as a table. Only a terminal gets its lines broken, between words."""
    out = to or console(stderr=True)
    message = _lines(error.message)
    line = Text("suanli: ", style="bold red")
    line.append(message.partition("\n")[0] if brief else message, style="default not bold")
    out.print(line, soft_wrap=not out.is_terminal)
    if error.remedy:
        remedy = Text(f"  remedy: {_lines(error.remedy)}", style="cyan")
        out.print(remedy, soft_wrap=not out.is_terminal)


def _lines(text: str) -> str:
    """Keep line breaks, replace every other control character."""
    return "\n".join(plain(line) for line in text.splitlines())


@contextlib.contextmanager
def working(words: str, *, mode: str = "live", to: Console | None = None) -> Iterator[None]:
    """Say on a terminal that something is going on; nowhere else, and nothing that stays."""
    out = to or console(stderr=True)
    if mode != "live" or not out.is_terminal:
        yield
        return
    with out.status(Text(words, style="dim"), spinner="dots"):
        yield


class LiveView:
    """Follows a run: a line for each finished step, and below them what is running now.

    `mode` is ``live``, ``quiet`` or ``json``; the last two show nothing. Use as a context manager
    and hand each event of the run's log to `handle`.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        mode: str = "live",
        to: Console | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._steps = {step.step: step for step in plan.steps}
        self._name = plan.name
        self._silent = mode != "live"
        self._console = to or console(stderr=True)
        self._clock = clock
        self._began = clock()
        self._running: dict[str, Event] = {}  # step to its last event, plus `began`
        self._done: dict[str, float] = {}  # step to the seconds it took in this run
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._silent:
            return self
        head = f"{self._name}: {len(self._steps)} steps, about {self._predicted()}"
        self._console.print(Text(head, style="bold"))
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=8,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def handle(self, event: Event) -> None:
        """Take one event of the run's log into account; unknown ones are ignored."""
        step, kind = str(event.get("step")), event.get("event")
        if kind == "started":
            began = float(event.get("time", self._clock()))
            self._running[step] = {"began": began, "told": began}
            self._plain_line(step, "started", self._expected(step))
        elif kind == "progress" and step in self._running:
            self._running[step].update(event)
            self._plain_progress(step)
        elif kind in ("finished", "cached", "failed"):
            began = self._running.pop(step, {}).get("began", self._clock())
            took = 0.0 if kind == "cached" else float(event.get("seconds", self._clock() - began))
            self._done[step] = took
            self._permanent_line(step, str(kind), took, str(event.get("message", "")))

    # -- lines that stay -----------------------------------------------------------------------

    def _plain_line(self, step: str, word: str, rest: str) -> None:
        if not self._silent and not self._console.is_terminal:
            line = f"· {plain(step):{NAME_WIDTH}}{word:>12}   {rest}"
            self._console.print(Text(line.rstrip()), soft_wrap=True)

    def _plain_progress(self, step: str) -> None:
        now, event = self._clock(), self._running[step]
        if now - float(event["told"]) < PLAIN_PROGRESS_SECONDS:
            return
        event["told"] = now
        elapsed = now - float(event["began"])
        done = self._fraction(step, event, elapsed)
        self._plain_line(step, figures.percent(done), self._words(step, event, done, elapsed).plain)

    def _permanent_line(self, step: str, kind: str, took: float, message: str) -> None:
        if self._silent:
            return
        sign, style = {"finished": ("✓", "green"), "cached": ("↺", "cyan")}.get(kind, ("✗", "red"))
        line = Text(f"{sign} ", style=style)
        line.append(f"{plain(step):{NAME_WIDTH}}", style="default")
        if kind == "cached":
            line.append(f"{'reused':>12}", style="dim")
        elif kind == "failed":
            line.append(" ".join(plain(message).split()), style="red")
        else:
            style = "default" if self._as_expected(step, took) else "yellow"
            line.append(f"{figures.seconds(took):>12}", style=style)
            line.append(f"   {self._expected(step)}", style="dim")
        self._console.print(line, soft_wrap=True)

    def _expected(self, step: str) -> str:
        planned = self._steps.get(step)
        if planned is None:
            return ""
        low, high = (figures.seconds(s) for s in (planned.seconds.low, planned.seconds.high))
        return f"predicted {figures.seconds(planned.seconds.value)} ({low} – {high})"

    def _as_expected(self, step: str, took: float) -> bool:
        planned = self._steps.get(step)
        return planned is None or planned.seconds.low <= took <= planned.seconds.high

    def _predicted(self) -> str:
        return figures.seconds(sum(step.seconds.value for step in self._steps.values()))

    # -- what moves ----------------------------------------------------------------------------

    def _render(self) -> Group:
        now = self._clock()
        rows = Table.grid(padding=(0, 1))
        rows.add_column(width=1)
        rows.add_column(min_width=NAME_WIDTH)
        rows.add_column(width=20)
        rows.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
        for step, event in self._running.items():
            elapsed = now - float(event["began"])
            done = self._fraction(step, event, elapsed)
            bar = ProgressBar(total=1.0, completed=done, width=20, complete_style="cyan")
            words = self._words(step, event, done, elapsed)
            rows.add_row(Spinner("dots"), Text(plain(step)), bar, words)
        if not self._running and len(self._done) < len(self._steps):
            rows.add_row(Spinner("dots"), Text("starting" if not self._done else "next step"))
        return Group(rows, self._summary(now))

    def _fraction(self, step: str, event: Event, elapsed: float) -> float:
        """What the step says of itself, else how much of its predicted time has gone."""
        if event.get("fraction"):
            return min(1.0, float(event["fraction"]))
        planned = self._steps.get(step)
        return min(0.95, elapsed / planned.seconds.value) if planned else 0.0

    def _words(self, step: str, event: Event, fraction: float, elapsed: float) -> Text:
        """Time left, then what the step says of itself; a narrow terminal cuts the end."""
        parts = [self._time_left(step, event, fraction, elapsed)]
        if event.get("message"):
            parts.append(str(event["message"]))
        for key, value in event.items():
            if key not in (*EVENT_KEYS, "began", "told") and figures.is_number(value):
                parts.append(_figure(key, value))
        return Text(plain(" · ".join(part for part in parts if part)), style="dim")

    def _time_left(self, step: str, event: Event, fraction: float, elapsed: float) -> str:
        left = event.get("eta_s")
        if left is None and event.get("fraction", 0) > TRUSTED_FRACTION:
            left = elapsed * (1 - fraction) / fraction
        if left is not None:
            return f"{figures.seconds(float(left))} left"
        planned = self._steps.get(step)
        if planned is None:
            return ""
        left = planned.seconds.value - elapsed
        return f"about {figures.seconds(left)} left" if left > 0 else "longer than predicted"

    def _summary(self, now: float) -> Text:
        parts = [
            f"{len(self._done)} of {len(self._steps)} steps",
            figures.seconds(now - self._began),
            f"about {figures.seconds(self._left(now))} left",
        ]
        money = self._money(now)
        if money is not None:
            parts.append(f"{figures.usd(money)} so far")
        return Text("  " + " · ".join(parts), style="bold")

    def _left(self, now: float) -> float:
        left = 0.0
        for name, step in self._steps.items():
            if name in self._running:
                elapsed = now - float(self._running[name]["began"])
                done = self._fraction(name, self._running[name], elapsed)
                guess = elapsed * (1 - done) / done if done > TRUSTED_FRACTION else None
                left += guess if guess is not None else max(0.0, step.seconds.value - elapsed)
            elif name not in self._done:
                left += step.seconds.value
        return left

    def _money(self, now: float) -> float | None:
        """USD of the time spent so far at each step's planned price; None without prices."""
        total = 0.0
        spent = {step: now - float(event["began"]) for step, event in self._running.items()}
        for name, seconds in {**self._done, **spent}.items():
            price = _usd_per_second(self._steps.get(name))
            if price is None:
                return None
            total += seconds * price
        return total


def _figure(key: str, value: float) -> str:
    """``5,000 tokens/s``, ``loss 0.412``."""
    unit, per, _ = key.partition("_per_s")
    if per:
        return f"{figures.rate(value)} {unit}/s"
    return f"{key.replace('_', ' ')} {value:.4g}"


def _usd_per_second(step: StepPlan | None) -> float | None:
    if step is None or step.usd is None or not step.seconds.value:
        return None
    return step.usd.value / step.seconds.value
