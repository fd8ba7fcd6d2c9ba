"""Reading numbers from the device and timing it, with as few synchronisations as possible."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..schedule import same_sigma

OUT_OF_MEMORY: type[Exception] = (
    torch.OutOfMemoryError if hasattr(torch, "OutOfMemoryError") else torch.cuda.OutOfMemoryError
)
"""What PyTorch raises where the device has no memory left; the first name is from 2.5 on."""


class DeferredScalar(NamedTuple):
    """A scalar on its device, and the function that takes the number once it has been read."""

    value: torch.Tensor
    receive: Callable[[float], None]


class DeviceReader:
    """Batches reads of scalars: each read makes the host wait for all queued work of the device."""

    def __init__(self) -> None:
        self.count = 0
        """Reads so far."""
        self._pending: list[DeferredScalar] = []

    def defer(self, scalar: DeferredScalar) -> None:
        """Read `scalar` together with whatever is read next."""
        self._pending.append(scalar)

    def read(self, values: torch.Tensor | None = None) -> list[float]:
        """The numbers of `values` [n]; everything that is pending is read in the same transfer."""
        pending, self._pending = self._pending, []
        parts = [scalar.value.reshape(1) for scalar in pending]
        if values is not None:
            parts.append(values)
        if not parts:
            return []
        device = parts[-1].device
        numbers: list[float] = torch.cat([part.float().to(device) for part in parts]).tolist()
        self.count += 1
        for scalar, number in zip(pending, numbers, strict=False):
            scalar.receive(number)
        return numbers[len(pending) :]

    def discard(self) -> None:
        """Drop what is pending."""
        self._pending = []


class SigmaReader:
    """Reads the noise level of evaluations, from the schedule where the sampler follows it.

    On a device that is slow to read, an evaluation takes the expected level without waiting; the
    device's own value is compared with the next read. After a mismatch (`lost`) every level is
    read.
    """

    def __init__(self, reader: DeviceReader) -> None:
        self.lost = False
        """Whether the sampler has left its schedule."""
        self._reader = reader

    def __call__(self, timestep: torch.Tensor, expected: float | None) -> float:
        """The noise level of an evaluation.

        Args:
            timestep: the level as the sampler gives it, [rows], the same for each row.
            expected: the schedule's level for this evaluation, None where it is not known.
        """
        first = timestep.flatten()[:1]
        if expected is None or self.lost or self.is_cheap(first):
            return self._reader.read(first)[0]
        wanted = expected
        self._reader.defer(DeferredScalar(first, lambda sigma: self._compare(wanted, sigma)))
        return wanted

    @staticmethod
    def is_cheap(timestep: torch.Tensor) -> bool:
        """Whether reading does not make the host wait."""
        return timestep.device.type == "cpu"

    def _compare(self, expected: float, sigma: float) -> None:
        self.lost = self.lost or not same_sigma(expected, sigma)


@dataclass(frozen=True)
class Mark:
    """A moment on the host's clock and, on CUDA, in the device's queue."""

    host: float
    event: torch.cuda.Event | None


class Clock:
    """Takes times without stalling the device: CUDA's own times are read once, at the end."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"

    def mark(self) -> Mark:
        event = None
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
        return Mark(time.perf_counter(), event)

    def resolve(self, spans: Sequence[tuple[Mark, Mark]]) -> list[float]:
        """Seconds of each span; waits for the device once."""
        if not self._cuda:
            return [end.host - start.host for start, end in spans]
        if spans:
            torch.cuda.synchronize()
        return [_seconds(start, end) for start, end in spans]


class RunTimer:
    """Times the evaluations of one run on one device."""

    def __init__(self, device: torch.device) -> None:
        self._clock = Clock(device)
        self._start = self._clock.mark()
        self._spans: list[tuple[Mark, Mark]] = []

    def begin(self) -> None:
        """An evaluation begins."""
        self._start = self._clock.mark()

    def mark(self) -> Mark:
        """This moment, as an end for `end`."""
        return self._clock.mark()

    def end(self, end: Mark | None = None) -> float:
        """The evaluation has ended, now or at `end`.

        Returns:
            Its seconds on the host's clock; on CUDA the device may not be done yet.
        """
        span = (self._start, end or self._clock.mark())
        self._spans.append(span)
        return span[1].host - span[0].host

    def resolve(self) -> tuple[list[float], float]:
        """Seconds of each evaluation, and from the first one's start to the last one's end."""
        seconds = self._clock.resolve(self._spans)
        total = _seconds(self._spans[0][0], self._spans[-1][1]) if self._spans else 0.0
        return seconds, total


def _seconds(start: Mark, end: Mark) -> float:
    if start.event is not None and end.event is not None:
        return float(start.event.elapsed_time(end.event)) / 1000.0
    return end.host - start.host
