"""Progress of a long task, and the time that is left of it."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a task has come.

    Args:
        done, total: in any unit, such as runs or evaluations.
        stage: what is being done, for the user.
        seconds_left: None while it is not known.
    """

    done: float
    total: float
    stage: str
    seconds_left: float | None = None

    def __str__(self) -> str:
        if self.seconds_left is None:
            return self.stage
        return f"{self.stage}, {clock(self.seconds_left)} left"


class TimeLeft:
    """Estimates the seconds left from the pace since the first call."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def __call__(self, done: float, total: float) -> float | None:
        """The seconds left with `done` of `total`; None until something was done."""
        now = time.perf_counter()
        if self._first is None:
            self._first = now, done
        began, done_before = self._first
        if done <= done_before:
            return None
        return max(0.0, (now - began) / (done - done_before) * (total - done))


def clock(seconds: float) -> str:
    """`0:42`, `12:05`, `1:02:05`."""
    whole = round(seconds)
    minutes = f"{whole // 60 % 60:02}:{whole % 60:02}"
    return f"{whole // 3600}:{minutes}" if whole >= 3600 else minutes.removeprefix("0")
