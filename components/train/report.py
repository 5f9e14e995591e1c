"""What the training process says while it runs: JSON lines on stdout, read by the step (or from a
pod's log), and TensorBoard files."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.contract import SpecError

MARK = "suanli-event "
PROGRESS_INTERVAL_S = 1.0


def emit(event: str, **fields: Any) -> None:
    """Write one event line."""
    sys.stdout.write(MARK + json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def parse(line: str) -> dict[str, Any] | None:
    """Return the event in a line of output, None for any other line."""
    position = line.find(MARK)
    if position < 0:
        return None
    try:
        event: dict[str, Any] = json.loads(line[position + len(MARK) :])
    except ValueError:
        return None
    return event


@dataclass(slots=True, kw_only=True)
class Reporter:
    """Counts what training processes and tells it about once a second; silent off rank 0."""

    enabled: bool
    total_steps: int
    folder: Path | None = None
    wandb: bool = False
    flops_per_token: float = 0.0
    peak_flops: float | None = None
    usd_per_hour: float | None = None
    tokens: int = 0
    padded_tokens: int = 0
    sequences: int = 0
    _started: float = field(default_factory=time.perf_counter)
    _told: float = 0.0
    _first_step: int = 0
    _writer: Any = None
    _wandb: Any = None

    def start(self, step: int) -> None:
        """Begin counting at `step` (after a resume, not 0)."""
        self._started = self._told = time.perf_counter()
        self._first_step = step

    def count(self, tokens: int, padded_tokens: int, sequences: int) -> None:
        """Add one forward."""
        self.tokens += tokens
        self.padded_tokens += padded_tokens
        self.sequences += sequences

    def due(self) -> bool:
        """Whether it is time to tell about progress."""
        return self.enabled and time.perf_counter() - self._told >= PROGRESS_INTERVAL_S

    def progress(self, step: int, message: str, *, world_size: int = 1, **figures: float) -> None:
        """Tell progress after `step` steps; counts are this rank's, ranks are balanced."""
        if not self.enabled:
            return
        self._told = time.perf_counter()
        elapsed = self._told - self._started
        done = max(step - self._first_step, 1)
        rate = self.tokens * world_size / max(elapsed, 1e-9)
        figures |= {
            "tokens_per_s": round(rate, 1),
            "eta_s": round(elapsed / done * (self.total_steps - step), 1),
        }
        if self.peak_flops:
            figures["mfu"] = round(rate * self.flops_per_token / self.peak_flops, 4)
        if self.usd_per_hour is not None:
            figures["usd"] = round(self.usd_per_hour * elapsed / 3600, 6)
        emit("progress", fraction=step / max(self.total_steps, 1), message=message, **figures)

    def scalars(self, step: int, **values: float) -> None:
        """Write curves for TensorBoard and, when asked, Weights & Biases."""
        if self.enabled and self.wandb:
            if self._wandb is None:
                self._wandb = _wandb_run()
            self._wandb.log(values, step=step)
        if not self.enabled or self.folder is None:
            return
        if self._writer is None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._writer = SummaryWriter(str(self.folder))
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush files."""
        if self._writer is not None:
            self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()


def _wandb_run() -> Any:
    """Start a run; WANDB_MODE, WANDB_PROJECT and the key come from the environment, as usual.

    Raises:
        SpecError: the package is not there.
    """
    try:
        import wandb
    except ImportError as error:
        raise SpecError(
            "tracking.wandb: the package wandb is not installed",
            remedy="pip install 'suanli[wandb]', or set tracking.wandb: false",
        ) from error
    return wandb.init(resume="allow")
