"""Time of evaluations without stalling the device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Mark:
    """A moment on the host's clock and, on CUDA, in the device's queue."""

    host: float
    event: torch.cuda.Event | None


class Clock:
    """Marks moments; on CUDA the device's own times are read once, at the end."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"

    def mark(self) -> Mark:
        event = None
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
        return Mark(time.perf_counter(), event)

    def seconds_now(self, start: Mark, end: Mark) -> float:
        """The host's time between two marks: on CUDA only what is known before the device is."""
        return end.host - start.host

    def resolve(self, spans: Sequence[tuple[Mark, Mark]]) -> list[float]:
        """Seconds of each span; on CUDA waits for the device once."""
        if not self._cuda:
            return [end.host - start.host for start, end in spans]
        if spans:
            torch.cuda.synchronize()
        return [_between(start, end) for start, end in spans]

    def elapsed(self, spans: Sequence[tuple[Mark, Mark]]) -> float:
        """Seconds from the first span's start to the last one's end."""
        return _between(spans[0][0], spans[-1][1]) if spans else 0.0


def _between(start: Mark, end: Mark) -> float:
    if start.event is not None and end.event is not None:
        return float(start.event.elapsed_time(end.event)) / 1000.0
    return end.host - start.host
