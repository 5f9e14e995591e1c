"""Bounded retries with exponential backoff and full jitter.

Full jitter (a uniform wait between 0 and the cap) spreads clients that failed together better
than equal steps: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from components.contract import SuanliError

T = TypeVar("T")

FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 5.0


def retrying(
    work: Callable[[], T],
    *,
    what: str,
    attempts: int = 6,
    retriable: Callable[[Exception], bool] = lambda error: not isinstance(error, SuanliError),
    wait: Callable[[float], None] = time.sleep,
) -> T:
    """Return `work()`, trying up to `attempts` times while its errors are `retriable`.

    Raises:
        Exception: the last error, with a note of how often `what` was tried.
    """
    for attempt in range(1, attempts + 1):
        try:
            return work()
        except Exception as error:
            if attempt == attempts or not retriable(error):
                if attempt > 1:
                    error.add_note(f"{what} failed {attempt} times")
                raise
            longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**attempt)
            wait(random.uniform(0, longest))
    raise AssertionError("attempts must be positive")
