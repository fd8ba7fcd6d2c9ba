"""Reading numbers from the device and timing it, with as few synchronisations as possible."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

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


class TimingEvent(Protocol):
    """A moment in a device's queue: what the events of PyTorch's device modules have in common."""

    def record(self) -> None:
        """Enter the queue of the current device."""

    def elapsed_time(self, end: TimingEvent) -> float:
        """Milliseconds from this event to `end`, once the device has reached both."""


@dataclass(frozen=True)
class Mark:
    """A moment on the host's clock and, on a device with a queue, in that queue."""

    host: float
    event: TimingEvent | None


class DeviceEvents:
    """Events in the queue of one device.

    `torch.cuda`, `torch.xpu`, `torch.mps` and the modules of other backends share their names:
    `Event`, `synchronize` and, where there can be several devices, the context manager `device`.

    Args:
        device: the device whose work is timed, which need not be the current one.

    Raises:
        LookupError, TypeError, RuntimeError: the device has no events that take times.
    """

    def __init__(self, device: torch.device) -> None:
        module = vars(vars(torch)[device.type])
        self._make: Callable[..., TimingEvent] = module["Event"]
        self._synchronize: Callable[[], None] = module["synchronize"]
        self._select: Callable[[torch.device], AbstractContextManager[Any]] = module.get(
            "device", nullcontext
        )
        self._device = device
        self.record()

    def record(self) -> TimingEvent:
        """A new event at the end of the queue."""
        with self._select(self._device):
            event = self._make(enable_timing=True)
            event.record()
        return event

    def wait(self) -> None:
        """Wait until the device has done all of its queue."""
        with self._select(self._device):
            self._synchronize()


class Clock:
    """Takes times without stalling the device: its own times are read once, at the end.

    A device with a queue returns before it has done its work, so that the host's clock times the
    queueing alone: where such a device has no events, times are unknown.
    """

    def __init__(self, device: torch.device) -> None:
        self.is_host = device.type == "cpu"
        """Whether the host's clock is the device's."""
        self._events = None if self.is_host else _events_of(device)

    def mark(self) -> Mark:
        event = None if self._events is None else self._events.record()
        return Mark(time.perf_counter(), event)

    def resolve(self, spans: Sequence[tuple[Mark, Mark]]) -> list[float] | None:
        """Seconds of each span, None where they are unknown; waits for the device once."""
        if self.is_host:
            return [end.host - start.host for start, end in spans]
        if self._events is None:
            return None
        if spans:
            self._events.wait()
        try:
            return [_device_seconds(start, end) for start, end in spans]
        except NotImplementedError:  # XPU, where PyTorch was built with an older compiler
            return None


class RunTimer:
    """Times the evaluations of one run on one device."""

    def __init__(self, device: torch.device) -> None:
        self._clock = Clock(device)
        self._start = self._clock.mark()
        self._spans: list[tuple[Mark, Mark]] = []

    def begin(self, start: Mark | None = None) -> None:
        """An evaluation begins, now or at `start`."""
        self._start = start or self._clock.mark()

    def mark(self) -> Mark:
        """This moment, as an end for `end`."""
        return self._clock.mark()

    def end(self, end: Mark | None = None) -> float | None:
        """The evaluation has ended, now or at `end`.

        Returns:
            Its seconds; None on a device with a queue, which may not be done yet.
        """
        span = (self._start, end or self._clock.mark())
        self._spans.append(span)
        return span[1].host - span[0].host if self._clock.is_host else None

    def resolve(self) -> tuple[list[float] | None, float | None]:
        """Seconds of each evaluation, and from the first one's start to the last one's end; None
        where they are unknown."""
        whole = [(self._spans[0][0], self._spans[-1][1])] if self._spans else []
        seconds = self._clock.resolve([*self._spans, *whole])
        if seconds is None or not whole:
            return seconds, None if seconds is None else 0.0
        return seconds[:-1], seconds[-1]


def _events_of(device: torch.device) -> DeviceEvents | None:
    """Events of `device`; None where it has none that take times."""
    try:
        return DeviceEvents(device)
    except (LookupError, TypeError, RuntimeError):
        return None


def _device_seconds(start: Mark, end: Mark) -> float:
    assert start.event is not None and end.event is not None
    return start.event.elapsed_time(end.event) / 1000.0
