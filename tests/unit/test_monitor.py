"""The monitor's statistics and its reading, without a model."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.monitor import bernoulli, table
from components.contract import DataError
from components.monitor.drift import DriftDetector, chi_square_tail, compare
from components.monitor.inputs import MOST_LINE_BYTES, Spool, lines_of
from components.monitor.records import Fields, MalformedLine
from components.monitor.scorer import Scored
from components.monitor.state import ALERTS_FILE, StateFolder
from components.monitor.surge import SurgeDetector
from components.monitor.watch import Watch
from tests.support import SHARED, needs_shared


def test_false_alarms_are_rare_and_threefold_surges_are_found():
    """Ten seeds of each layout; `benchmarks/monitor.py` has a hundred."""
    rows = table(range(10), bernoulli)
    assert sum(row["false_alarms"] for row in rows) <= sum(row["quiet_texts"] for row in rows) / 1e4
    assert np.mean([row["found_within_100"] for row in rows]) >= 0.9, rows


def test_the_statistic_grows_by_the_weights_on_average_and_they_by_one_a_text_at_most():
    """The bound on false alarms rests on it. Exact: all sequences of twelve texts, each with its
    probability under the prior (a uniform share: one subject, no others)."""
    total = spent = 0.0
    for bits in range(1 << 12):
        detector, probability = SurgeDetector(texts_per_false_alarm=1e9), 1.0
        for place in range(12):
            negative = bool(bits >> place & 1)
            subject = detector.subjects.get("a")
            p = detector.baseline(subject) if subject else 0.5
            probability *= p if negative else 1.0 - p
            detector.add("a", negative)
        total += probability * np.mean(detector.subjects["a"].evidence)
        spent += probability * detector.spent
        assert detector.spent <= 12.0
    assert total == pytest.approx(spent, rel=1e-9)
    assert spent > 9.0


def test_a_surge_is_told_once_and_ends():
    generator, detector = random.Random(3), SurgeDetector()
    shares = [0.1] * 1000 + [0.6] * 100 + [0.1] * 300
    events = [
        (n, e) for n, s in enumerate(shares) if (e := detector.add("a", bernoulli(generator, s)))
    ]
    kinds = [event["kind"] for _, event in events]
    assert kinds == ["surge", "surge over"]
    assert 1000 <= events[0][0] < 1040
    assert events[0][1]["baseline"] == pytest.approx(0.1, abs=0.03)


def test_a_lasting_surge_becomes_the_new_normal():
    generator, detector = random.Random(4), SurgeDetector()
    for share, count in ((0.1, 1000), (0.6, 3000)):
        events = [detector.add("a", bernoulli(generator, share)) for _ in range(count)]
    assert [e["kind"] for e in events if e] == ["surge", "new normal"]
    assert detector.baseline(detector.subjects["a"]) == pytest.approx(0.6, abs=0.05)


def test_a_subject_that_is_always_bad_is_no_surge():
    generator, detector, alarms = random.Random(5), SurgeDetector(), 0
    for n in range(20_000):
        number = n % 20
        event = detector.add(f"s{number}", bernoulli(generator, 0.45 if number < 2 else 0.1))
        alarms += event is not None
    assert alarms <= 2


def test_the_detector_goes_on_from_its_state():
    generator = random.Random(6)
    stream = [(f"s{generator.randrange(9)}", generator.random() < 0.2) for _ in range(900)]
    whole, parts = SurgeDetector(), SurgeDetector()
    for n, (name, negative) in enumerate(stream):
        whole.add(name, negative)
        parts.add(name, negative)
        if n % 100 == 0:
            parts = SurgeDetector.from_json(json.loads(json.dumps(parts.to_json())))
    assert whole.to_json() == parts.to_json()


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("x", [0.1, 1.0, 5.0, 20.0, 60.0])
def test_chi_square_tail_is_scipys(degrees: int, x: float):
    assert chi_square_tail(x, degrees) == pytest.approx(stats.chi2.sf(x, degrees), rel=1e-9)


def test_the_two_sample_test_is_scipys():
    p, index = compare([100, 50, 30, 0], [70, 60, 10, 0])
    expected = stats.chi2_contingency([[100, 50, 30], [70, 60, 10]], correction=False)
    assert p == pytest.approx(expected.pvalue, rel=1e-9)
    a, b = np.array([100, 50, 30]) / 180, np.array([70, 60, 10]) / 140
    assert index == pytest.approx(float(((b - a) * np.log(b / a)).sum()), rel=1e-9)


def words(generator: random.Random, pool: int, low: int, high: int) -> str:
    # Zipf-like: most words are frequent, some are rare, as in any language.
    return " ".join(
        f"w{int(math.exp(generator.random() * math.log(pool)))}"
        for _ in range(generator.randint(low, high))
    )


def test_quiet_input_does_not_drift_and_other_input_does():
    generator = random.Random(7)
    detector = DriftDetector()

    def add(text: str, confidence: float) -> object:
        return detector.add(text, tokens=len(text.split()), unknown=0.0, confidence=confidence)

    quiet = [add(words(generator, 3000, 5, 20), generator.betavariate(8, 2)) for _ in range(41_000)]
    assert not any(quiet)
    assert detector.windows == 80
    # Another vocabulary, of the same length and confidence.
    changed = [
        add(words(generator, 3000, 5, 20).replace("w", "x"), generator.betavariate(8, 2))
        for _ in range(1000)
    ]
    (event,) = [e for e in changed if e]
    assert set(event["features"]) == {"new_words"}
    assert not any(add(words(generator, 9, 1, 3), 0.5) for _ in range(2000)), "told once"


def test_drift_goes_on_from_its_state():
    generator, detector = random.Random(8), DriftDetector(reference=60, window=40)
    other = DriftDetector(reference=60, window=40)
    for n in range(400):
        text = words(generator, 200, 3, 9)
        arguments = {"tokens": len(text), "unknown": 0.0, "confidence": generator.random()}
        assert detector.add(text, **arguments) == other.add(text, **arguments)
        if n % 37 == 0:
            other = DriftDetector.from_json(json.loads(json.dumps(other.to_json())))


# -- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\xff{}", "not UTF-8"),
        (b"{", "not JSON"),
        (b'{"text": NaN}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"3", "not a JSON object"),
        (b"{}", "no text"),
        (b'{"text": 5}', "no text"),
        (b'{"text": "  "}', "empty text"),
        (b'{"text": "\\ud800"}', "half a surrogate pair"),
        (b'{"text": "a", "subject": 4}', "subject is not a short text"),
        (b'{"text": "a", "subject": ""}', "subject is not a short text"),
        (b'{"text": "a", "id": 1.5}', "id is neither text nor a number"),
    ],
)
def test_malformed_lines_have_a_reason(line: bytes, reason: str):
    with pytest.raises(MalformedLine, match=f"^{reason}$"):
        Fields().parse(line)


def test_usual_field_names_are_found():
    record = Fields().parse(b'{"headline": "h", "ticker": ["A", "B", "A"], "id": 7}')
    assert (record.text, record.subjects, record.id) == ("h", ("A", "B"), "7")
    named = Fields(text="body", subject="who").parse(b'{"body": "h", "who": "A", "title": "t"}')
    assert (named.text, named.subjects) == ("h", ("A",))
    assert Fields().parse(b"plain words", plain_subject="oslo").subjects == ("oslo",)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_record_or_malformed(line: bytes):
    try:
        record = Fields().parse(line)
    except MalformedLine:
        return
    assert record.text.strip()


@needs_shared
def test_the_json_test_suite_is_survived():
    folder = SHARED / "data" / "badinput-jsontestsuite" / "test_parsing"
    for path in sorted(folder.glob("*.json")):
        for line in path.read_bytes().split(b"\n"):
            try:
                Fields().parse(line)
            except MalformedLine:
                continue


def test_lines_are_cut_at_any_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("components.monitor.inputs.CHUNK_BYTES", 7)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one\r\ntwo is longer\n\nlast")
    assert [line.body for line in lines_of(path, 0, whole=True)] == [
        b"one", b"two is longer", b"", b"last",
    ]  # fmt: skip
    ends = [line.end for line in lines_of(path, 0, whole=False)]
    assert ends == [5, 19, 20], "the last line may still grow"
    assert [line.body for line in lines_of(path, 5, whole=False)] == [b"two is longer", b""]


def test_an_endless_line_is_skipped_in_bounded_memory(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * (3 * MOST_LINE_BYTES) + b"\nnext\n")
    lines = list(lines_of(path, 0, whole=False))
    assert [line.body for line in lines] == [None, b"next"]
    assert lines[-1].end == path.stat().st_size


# -- the loop ------------------------------------------------------------------------------------


class Words:
    """Negative where the text says bad."""

    digest = "d" * 64

    def score(self, texts: list[str]) -> list[Scored]:
        return [
            Scored(label="x", confidence=0.9, negative="bad" in t, tokens=len(t), unknown=0.0)
            for t in texts
        ]


def watch(folder: Path, told: list[dict]) -> Watch:
    return Watch(scorer=Words(), state=StateFolder(folder), tell=told.append, keep_scores=True)


def stream(count: int, seed: int = 1) -> list[str]:
    generator = random.Random(seed)
    rows = []
    for n in range(count):
        bad = generator.random() < (0.1 if n < count * 2 // 3 else 0.8)
        rows.append(json.dumps({"id": n, "text": f"{'bad' if bad else 'good'} day {n}"}))
        if n % 50 == 7:
            rows.append("{broken")
    return rows


def test_a_crash_anywhere_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Die at each of many points, between scoring and committing too; the end is the same."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    rows = stream(900)
    (inbox / "a.jsonl").write_text("\n".join(rows[:500]) + "\n")
    (inbox / "b.jsonl").write_text("\n".join(rows[500:]))
    monkeypatch.setattr("components.monitor.watch.BATCH_LINES", 64)
    monkeypatch.setattr("components.monitor.watch.COMMIT_SECONDS", 0.0)
    told: list[dict] = []
    calm = watch(tmp_path / "calm", told)
    calm.folder(inbox, follow=False)
    assert [e["kind"] for e in told] == ["surge"]

    dice = random.Random(2)
    crashes = 0

    def maybe_die(*_: object) -> None:
        nonlocal crashes
        if dice.random() < 0.3:
            crashes += 1
            raise KeyboardInterrupt

    for _ in range(200):
        try:
            with monkeypatch.context() as patch:
                real_append, real_commit = StateFolder.append, StateFolder.commit

                def append(self: StateFolder, *a: object, real=real_append) -> None:
                    real(self, *a)
                    maybe_die()

                def commit(self: StateFolder, *a: object, real=real_commit) -> None:
                    maybe_die()
                    real(self, *a)
                    maybe_die()

                patch.setattr(StateFolder, "append", append)
                patch.setattr(StateFolder, "commit", commit)
                rough = watch(tmp_path / "rough", [])
                rough.folder(inbox, follow=False)
            break
        except KeyboardInterrupt:
            rough.state._lock.close()
    assert crashes > 10
    for name in ("scores.jsonl", ALERTS_FILE):
        pair = [(tmp_path / f / name).read_text().splitlines() for f in ("calm", "rough")]
        a, b = ([{**json.loads(row), "time": ""} for row in rows] for rows in pair)
        assert a == b
    assert calm.summary() == rough.summary()
    assert calm.summary()["malformed_by_reason"] == {"not JSON": 18}


def test_files_that_grow_are_read_on_and_ids_count_once(tmp_path: Path):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    state = StateFolder(tmp_path / "state")
    path = inbox / "a.jsonl"
    path.write_text('{"id": 1, "text": "bad"}\n{"id": 2, "text": "go')
    w = Watch(scorer=Words(), state=state, tell=lambda _: None)
    w._take(lines_of(path, 0, whole=False))
    with path.open("a") as stream_:
        stream_.write('od"}\n{"id": 1, "text": "bad"}\n')
    w.folder(inbox, follow=False)
    assert (w.texts, w.repeated, w.malformed) == (2, 1, {})


def test_standard_input_survives_in_the_spool(tmp_path: Path):
    """What was received and not committed is there at the next start; a torn line is counted."""
    folder = tmp_path / "state"
    folder.mkdir()
    read, write = os.pipe()
    os.write(write, b'{"text": "bad"}\n{"text": "good"}\n{"text": "to')
    spool = Spool(folder, read)
    spool.receive()
    del spool  # dies here: nothing was scored
    os.write(write, b'{"text": "later"}\n')
    os.close(write)
    w = watch(folder, [])
    w.stdin(read)
    assert (w.texts, w.malformed) == (3, {"not JSON": 1})


def test_one_monitor_a_state_and_no_foreign_state(tmp_path: Path):
    first = StateFolder(tmp_path)
    with pytest.raises(DataError, match="another monitor"):
        StateFolder(tmp_path)
    first._lock.close()
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(DataError, match="not a monitor's state"):
        StateFolder(tmp_path)


def test_another_model_starts_anew(tmp_path: Path):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "a.jsonl").write_text("\n".join(stream(300)) + "\n")
    first = watch(tmp_path / "state", [])
    first.folder(inbox, follow=False)
    first.state._lock.close()
    told: list[dict] = []
    other = Words()
    other.digest = "e" * 64
    second = Watch(scorer=other, state=StateFolder(tmp_path / "state"), tell=told.append)
    second.folder(inbox, follow=False)
    assert [event["kind"] for event in told] == ["new model"]
    assert second.texts == first.texts
    assert second.surge.seen == 0
