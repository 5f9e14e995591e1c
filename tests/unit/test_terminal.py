"""The terminal: nothing moves or glows where nobody looks, and a manager can read the plan."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from components.contract import DataError, GateError
from components.runtime import emit_event
from pipelines.report import collect_report
from pipelines.terminal import (
    PIPE_WIDTH,
    LiveView,
    console,
    print_error,
    print_plan,
    print_receipt,
    working,
)
from tests.receipts import HOSTILE, Receipts, hostile_run, rich_plan, without_price


def screen(*, terminal: bool = False, width: int = 140) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=width,
        markup=False,
        highlight=False,
        legacy_windows=False,
    )


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def words(line: str) -> str:
    return " ".join(line.split())


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_plan_reads_as_a_table() -> None:
    to = screen()
    print_plan(rich_plan(), to=to)
    text = shown(to)
    assert "time   9 min 30 s (7 min 36 s – 12 min 21 s), deadline 2h" in text
    assert "cost   $0.046 ($0.037 – $0.060), budget $5.00" in text
    assert "naive  $0.16 with one node kept throughout, 3.5× as much" in text
    assert "train  1 × g5.xlarge, spot" in text
    assert "→ 1 x node-7" in text
    assert "cheapest inside deadline and budget" in text
    assert "First-order" not in text
    assert "\x1b" not in text


def test_explained_plan_has_the_first_order_formula_and_storage() -> None:
    to = screen(width=200)
    print_plan(rich_plan(), explain=True, to=to)
    text = shown(to)
    assert "T = D/(B n)" in text
    assert "1,840 considered, 1,210 pruned, 212 feasible" in text
    assert "read once an epoch by train" in text
    assert "ingest, decide, place" in text
    assert "the cheapest that fits" in text


def test_plan_without_prices_says_how_to_get_them() -> None:
    to = screen()
    print_plan(without_price(rich_plan()), to=to)
    assert "objective.here_usd_per_hour" in shown(to)
    assert "$0" not in shown(to)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    to = screen(width=width)
    print_plan(rich_plan(), explain=True, to=to)
    text = shown(to)
    assert max(len(line) for line in text.splitlines()) <= width
    # No number is cut or broken over two lines, however narrow.
    train = next(line for line in text.splitlines() if "2 min 00 s" in line)
    assert "$0.033" in train
    assert ("1 min 36 s – 2 min 36 s" in train) == (width > 80)


def test_narrow_receipt_says_below_what_it_has_no_column_for(tmp_path: Path) -> None:
    run = Receipts(folder=tmp_path)
    run.finish_before(None)
    report = collect_report(run.store, run.run_id, run.plan, "succeeded")
    for width in (70, 140):
        to = screen(width=width)
        print_receipt(report, to=to)
        lines = [words(line) for line in shown(to).splitlines()]
        assert ("int8 within the quality budget" in lines) == (width == 70)
        assert any("Made in 9 min 38 s for $0.048" in line for line in lines)


def test_pipes_get_a_width_that_tables_fit_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert console().width == PIPE_WIDTH  # pytest's standard output is no terminal
    monkeypatch.setenv("COLUMNS", "64")
    assert console().width == 64


def test_receipt_tells_variants_steps_and_files(tmp_path: Path) -> None:
    run = Receipts(folder=tmp_path)
    run.finish_before(None)
    report = collect_report(run.store, run.run_id, run.plan, "succeeded")
    report["artifacts"]["report_html"] = "report.html"
    to = screen()
    print_receipt(report, folder=Path("runs/x"), to=to)
    text = shown(to)
    assert "int8 keeps 0.438 of 0.441 entity F1, 4.0× smaller, 3.1× faster" in text
    assert "runs/x/report.html" in text
    assert "+7 %" in text
    assert "2 min 08 s" in text


def test_receipt_of_a_failed_run_says_what_is_kept(tmp_path: Path) -> None:
    run = Receipts(folder=tmp_path)
    run.finish_before("train")
    run.fail("train", DataError("bad"))
    report = collect_report(run.store, run.run_id, run.plan, "step_failed")
    to = screen()
    print_receipt(report, to=to)
    assert "bad input at step train" in shown(to)
    assert "3 of 15 steps finished in 1 min 36 s" in shown(to)


def test_error_shows_remedy_and_no_markup_or_escapes() -> None:
    to = screen()
    print_error(DataError("line 1: [bold]x[/bold]\x1b[31m\nline 2: y", remedy="fix [it]"), to=to)
    assert shown(to) == (
        "suanli: line 1: [bold]x[/bold]\ufffd[31m\nline 2: y\n  remedy: fix [it]\n"
    )


def test_error_on_a_terminal_breaks_between_words_and_can_be_brief() -> None:
    to = screen(terminal=True, width=40)
    error = GateError("none keeps the promise of a variant\nfp32   0.8", remedy="allow more of it")
    print_error(error, brief=True, to=to)
    text = re.sub("\x1b\\[[0-9;]*m", "", shown(to))
    assert max(map(len, text.splitlines())) <= 40
    assert "fp32" not in text
    assert words(text) == ("suanli: none keeps the promise of a variant remedy: allow more of it")
    print_error(error, to=to)
    assert "fp32   0.8" in shown(to)


def run_events(view: LiveView, clock: Clock) -> None:
    for event in (
        {"step": "ingest", "event": "started", "time": clock.now},
        {"step": "ingest", "event": "progress", "fraction": 0.5, "message": "rows", "rows": 10},
        {"step": "ingest", "event": "finished", "seconds": 31.0},
        {"step": "decide", "event": "cached", "seconds": 30.0},
        {"step": "train", "event": "started", "time": clock.now},
        {"step": "train", "event": "failed", "message": "bad\nthing [x]\x1b[0m"},
        {"step": "unknown", "event": "invented"},
        {},
    ):
        view.handle(event)


def test_without_a_terminal_each_event_is_one_plain_line() -> None:
    to, clock = screen(), Clock()
    with LiveView(rich_plan(), to=to, clock=clock) as view:
        run_events(view, clock)
    lines = shown(to).splitlines()
    assert lines[0] == "newsroom-ner: 16 steps, about 9 min 30 s"
    assert words(lines[1]) == "· ingest started predicted 30 s (24 s – 39 s)"
    assert words(lines[2]) == "✓ ingest 31 s predicted 30 s (24 s – 39 s)"
    assert lines[3].split()[:2] == ["↺", "decide"]
    assert words(lines[-1]) == "✗ train bad thing [x]\ufffd[0m"
    assert "\x1b" not in shown(to)


def test_without_a_terminal_a_long_step_says_now_and_then_how_far_it_is() -> None:
    to, clock = screen(), Clock()
    with LiveView(rich_plan(), to=to, clock=clock) as view:
        view.handle({"step": "train", "event": "started", "time": clock.now})
        for fraction in range(1, 11):
            clock.now += 10.0
            view.handle({"step": "train", "event": "progress", "fraction": fraction / 20})
    lines = [words(line) for line in shown(to).splitlines()[2:]]
    assert lines == [
        "· train 15.0 % 2 min 50 s left",
        "· train 30.0 % 2 min 20 s left",
        "· train 45.0 % 1 min 50 s left",
    ]


def test_a_step_outside_its_interval_is_marked() -> None:
    to, clock = screen(terminal=True), Clock()
    view = LiveView(rich_plan(), to=to, clock=clock)
    for step, seconds in (("ingest", 31.0), ("decide", 95.0)):
        view.handle({"step": step, "event": "started", "time": clock.now})
        view.handle({"step": step, "event": "finished", "seconds": seconds})
    inside, outside = shown(to).splitlines()
    assert "\x1b[33m" in outside
    assert "\x1b[33m" not in inside


def test_working_is_said_on_a_terminal_only() -> None:
    for terminal, mode, said in (
        (True, "live", True),
        (True, "json", False),
        (False, "live", False),
    ):
        to = screen(terminal=terminal)
        with working("planning", mode=mode, to=to):
            pass
        assert ("planning" in shown(to)) == said


@pytest.mark.parametrize("mode", ["quiet", "json"])
def test_quiet_and_json_say_nothing(mode: str) -> None:
    to, clock = screen(terminal=True), Clock()
    with LiveView(rich_plan(), mode=mode, to=to, clock=clock) as view:
        run_events(view, clock)
    assert shown(to) == ""


def live_text(view: LiveView) -> str:
    to = screen()
    to.print(view._render())
    return shown(to)


def test_progress_tells_eta_and_money_so_far() -> None:
    clock = Clock()
    plan = rich_plan()
    view = LiveView(plan, to=screen(terminal=True), clock=clock)
    view.handle({"step": "train", "event": "started", "time": clock.now})
    clock.now += 60.0
    figures = {"fraction": 0.25, "message": "epoch 1/4", "loss": 0.4123, "tokens_per_s": 5000.0}
    view.handle({"step": "train", "event": "progress", "time": clock.now, **figures})
    text = live_text(view)
    # a quarter took one minute: three are left of train, and 15 other steps of 30 s
    assert "3 min 00 s left · epoch 1/4 · loss 0.4123 · 5,000 tokens/s" in text
    assert "0 of 16 steps · 1 min 00 s · about 10 min 30 s left · $0.017 so far" in text


def test_a_silent_step_tells_what_was_predicted() -> None:
    clock = Clock()
    view = LiveView(rich_plan(), to=screen(terminal=True), clock=clock)
    assert "starting" in live_text(view)
    view.handle({"step": "ingest", "event": "started", "time": clock.now})
    clock.now += 10.0
    assert "about 20 s left" in live_text(view)
    clock.now += 30.0
    assert "longer than predicted" in live_text(view)


def test_without_prices_there_is_no_money_in_the_progress() -> None:
    clock = Clock()
    view = LiveView(without_price(rich_plan()), to=screen(terminal=True), clock=clock)
    view.handle({"step": "train", "event": "started", "time": clock.now})
    assert "$" not in live_text(view)


def test_view_understands_the_log_that_the_runtime_writes(tmp_path: Path) -> None:
    run = Receipts(folder=tmp_path)
    emit_event(run.store, "r", "ingest", "started", {})
    emit_event(run.store, "r", "ingest", "finished", {"seconds": 2.0})
    log = tmp_path / "store" / "hot" / "runs" / "r" / "events.jsonl"
    to = screen()
    with LiveView(rich_plan(), to=to) as view:
        for line in log.read_text().splitlines():
            view.handle(json.loads(line))
    assert "✓ ingest" in shown(to)


def test_hostile_step_names_cannot_move_the_cursor() -> None:
    plan = rich_plan()
    steps = (dataclasses.replace(plan.steps[0], step="x\x1b[2J", why="\x07"), *plan.steps[1:])
    to = screen()
    print_plan(dataclasses.replace(plan, steps=steps, notes=("\x1b]0;title\x07",)), to=to)
    assert not {"\x1b", "\x07"} & set(shown(to))


def test_hostile_receipt_cannot_move_the_cursor_or_hide_text(tmp_path: Path) -> None:
    run = hostile_run(tmp_path, [text for text in HOSTILE if text != "\ud800"])
    report = collect_report(run.store, run.run_id, run.plan, "step_failed")
    report["variants"][0].update(name="\x1b[8mhidden", reason="\u202eesrever\x07")
    to = screen()
    print_receipt(report, to=to)
    print_plan(run.plan, explain=True, to=to)
    assert not {"\x1b", "\x07", "\x00", "\u202e"} & set(shown(to))
    assert "[8mhidden" in shown(to)
