"""Retries with a limit and a jitter.

Counted without progress: a long upload may fail often, but not stand still.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """How long to go on when what failed can pass by itself."""

    attempts: int = 8
    """Tries without progress in between, the first included."""
    deadline: float = 300.0
    """Seconds without progress, waiting included."""
    first_delay: float = 0.5
    """Seconds before the second try; doubled each time, and shortened at random by up to half."""
    max_delay: float = 30.0
    """Seconds that the doubling stops at."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def start(self) -> Backoff:
        return Backoff(self)


class Backoff:
    """The state of one call that is tried again."""

    def __init__(self, policy: RetryPolicy) -> None:
        self.policy = policy
        self.progressed()

    def progressed(self) -> None:
        """Begin to count anew: something went through."""
        self._failures, self._began = 0, self.policy.clock()

    def wait(self, retry_after: float | None = None) -> bool:
        """Sleep before another try, or say False: the limit is reached.

        ``retry_after``: seconds that the server asked for; it lengthens the delay, never the deadline.
        """
        policy = self.policy
        self._failures += 1
        delay = min(policy.max_delay, policy.first_delay * 2 ** (self._failures - 1)) * random.uniform(0.5, 1)
        delay = max(delay, retry_after or 0.0)
        if self._failures >= policy.attempts or policy.clock() - self._began + delay > policy.deadline:
            return False
        policy.sleep(delay)
        return True
