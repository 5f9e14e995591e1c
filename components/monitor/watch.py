"""The monitor's loop: read, score, test, remember, tell."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from components.monitor.drift import DriftDetector
from components.monitor.inputs import SPOOL_FILE, Line, Spool, files_in, lines_of
from components.monitor.records import Fields, MalformedLine, Record
from components.monitor.scorer import Scored
from components.monitor.state import ALERTS_FILE, SCORES_FILE, StateFolder
from components.monitor.surge import TEXTS_PER_FALSE_ALARM, SurgeDetector

# Lines scored together, and the seconds after which the state is saved.
BATCH_LINES = 512
COMMIT_SECONDS = 1.0
POLL_SECONDS = 0.5
# Identities remembered, so that a line sent twice counts once.
MOST_IDENTITIES = 20_000
# The pseudo-subject of all texts together, and its part of the false alarms allowed.
EVERYTHING = "*"
EVERYTHING_PART = 0.05

Tell = Callable[[dict[str, Any]], None]


class Scores(Protocol):
    """What the watch needs of a scorer."""

    digest: str

    def score(self, texts: list[str]) -> list[Scored]:
        """Score texts, in order."""


@dataclass(slots=True)
class Watch:
    """One monitor at work: where it stands and what it has counted."""

    scorer: Scores
    state: StateFolder
    tell: Tell
    fields: Fields = field(default_factory=Fields)
    keep_scores: bool = False
    texts_per_false_alarm: float = TEXTS_PER_FALSE_ALARM
    surge: SurgeDetector = field(init=False)
    overall: SurgeDetector = field(init=False)
    drift: DriftDetector = field(init=False)
    offsets: dict[str, int] = field(init=False)
    identities: dict[str, None] = field(init=False)
    texts: int = field(init=False)
    repeated: int = field(init=False)
    malformed: dict[str, int] = field(init=False)
    alerts: int = field(init=False)
    _pending: list[dict[str, Any]] = field(default_factory=list)
    _committed: float = 0.0

    def __post_init__(self) -> None:
        known = self.state.document
        self.offsets = dict(known.get("offsets", {}))
        self.identities = dict.fromkeys(known.get("identities", []))
        self.texts = known.get("texts", 0)
        self.repeated = known.get("repeated", 0)
        self.malformed = dict(known.get("malformed", {}))
        self.alerts = known.get("alerts", 0)
        same_model = known.get("model") == self.scorer.digest
        if same_model:
            self.surge = SurgeDetector.from_json(known["surge"])
            self.overall = SurgeDetector.from_json(known["overall"])
            self.drift = DriftDetector.from_json(known["drift"])
        else:  # another model, other shares and confidences
            self.surge, self.overall = SurgeDetector(), SurgeDetector()
            self.drift = DriftDetector()
            if known:
                self._pending.append(self._stamped({"kind": "new model"}))
        self.surge.texts_per_false_alarm = self.texts_per_false_alarm / (1.0 - EVERYTHING_PART)
        self.overall.texts_per_false_alarm = self.texts_per_false_alarm / EVERYTHING_PART
        if self.drift.drifted:
            self.tell({**self.drift.drifted, "standing": True})

    # -- reading ---------------------------------------------------------------------------------

    def folder(self, folder: Path, *, follow: bool) -> None:
        """Read the files of `folder` to their ends; with `follow`, go on for ever."""
        while True:
            for path in files_in(folder):
                size = path.stat().st_size
                if size != self.offsets.get(path.name, 0):
                    start = self.offsets.get(path.name, 0)
                    self._take(lines_of(path, start, whole=not follow))
            self.commit()
            if not follow:
                return
            time.sleep(POLL_SECONDS)

    def stdin(self, descriptor: int = 0) -> None:
        """Read standard input to its end."""
        spool = Spool(self.state.folder, descriptor)
        more = True
        while more:
            self._take(lines_of(spool.path, self.offsets.get(SPOOL_FILE, 0), whole=False))
            if self._pending or time.monotonic() - self._committed > COMMIT_SECONDS:
                self.commit()
            if self.offsets.get(SPOOL_FILE, 0) and spool.restart(self.offsets[SPOOL_FILE]):
                self.offsets[SPOOL_FILE] = 0
                self.commit()
            more = spool.receive()
        self._take(lines_of(spool.path, self.offsets.get(SPOOL_FILE, 0), whole=True))
        self.commit()

    def learn_reference(self, path: Path) -> None:
        """Take the drift detector's reference from a file instead of the stream's first texts."""
        if self.drift.edges or self.drift.rows:
            return
        lines = itertools.islice(lines_of(path, 0, whole=True), 20 * self.drift.reference)
        records = list(self._records(lines))
        self.malformed.clear()
        self.drift.reference = max(2, min(len(records), self.drift.reference))
        texts = [record.text for record in records[: self.drift.reference]]
        for start in range(0, len(texts), BATCH_LINES):
            part = texts[start : start + BATCH_LINES]
            for text, scored in zip(part, self.scorer.score(part), strict=True):
                self._look_for_drift(text, scored)
        self.identities.clear()

    # -- working ---------------------------------------------------------------------------------

    def _take(self, lines: Iterable[Line]) -> None:
        for block in _blocks(lines, BATCH_LINES):
            records = list(self._records(block))
            results = self.scorer.score([record.text for record in records]) if records else []
            for record, scored in zip(records, results, strict=True):
                self._count(record, scored)
            if self.keep_scores:
                self.state.append(SCORES_FILE, map(_score_row, records, results))
            self.offsets[block[-1].file] = block[-1].end
            if time.monotonic() - self._committed > COMMIT_SECONDS:
                self.commit()

    def _records(self, lines: Iterable[Line]) -> Iterator[Record]:
        for line in lines:
            if line.body is not None and not line.body.strip():
                continue
            try:
                if line.body is None:
                    raise MalformedLine("line too long")
                record = self.fields.parse(line.body, plain_subject=line.plain_subject)
            except MalformedLine as error:
                self.malformed[str(error)] = self.malformed.get(str(error), 0) + 1
                continue
            if record.id is not None:
                if record.id in self.identities:
                    self.repeated += 1
                    continue
                self.identities[record.id] = None
                if len(self.identities) > MOST_IDENTITIES:
                    del self.identities[next(iter(self.identities))]
            yield record

    def _count(self, record: Record, scored: Scored) -> None:
        self.texts += 1
        events = [self.surge.add(subject, scored.negative) for subject in record.subjects]
        if len(self.surge.subjects) > 1:  # of one subject, all texts are its own
            events.append(self.overall.add(EVERYTHING, scored.negative))
        events.append(self._look_for_drift(record.text, scored))
        for event in events:
            if event is not None:
                self.alerts += event["kind"] == "surge"
                self._pending.append(self._stamped({**event, "text": record.text[:200]}))

    def _look_for_drift(self, text: str, scored: Scored) -> dict[str, Any] | None:
        return self.drift.add(
            text, tokens=scored.tokens, unknown=scored.unknown, confidence=scored.confidence
        )

    def _stamped(self, event: dict[str, Any]) -> dict[str, Any]:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        return {**event, "text_number": self.texts, "time": at}

    def commit(self) -> None:
        """Make everything so far permanent, then tell of it."""
        events, self._pending = self._pending, []
        self.state.append(ALERTS_FILE, events)
        self.state.commit(
            {
                "model": self.scorer.digest, "offsets": self.offsets, "texts": self.texts,
                "identities": list(self.identities), "repeated": self.repeated,
                "malformed": self.malformed, "alerts": self.alerts,
                "surge": self.surge.to_json(), "overall": self.overall.to_json(),
                "drift": self.drift.to_json(),
            }
        )  # fmt: skip
        self._committed = time.monotonic()
        for event in events:
            self.tell(event)

    def summary(self) -> dict[str, Any]:
        """Return what was counted since the state began."""
        return {
            "kind": "summary", "texts": self.texts, "subjects": len(self.surge.subjects),
            "alerts": self.alerts, "drifted": self.drift.drifted is not None,
            "malformed": sum(self.malformed.values()), "malformed_by_reason": self.malformed,
            "repeated": self.repeated,
        }  # fmt: skip


def _blocks(lines: Iterable[Line], size: int) -> Iterator[list[Line]]:
    iterator = iter(lines)
    while block := list(itertools.islice(iterator, size)):
        yield block


def _score_row(record: Record, scored: Scored) -> dict[str, Any]:
    row = {"subjects": record.subjects, "label": scored.label, "score": round(scored.confidence, 6)}
    return row if record.id is None else {"id": record.id, **row}
