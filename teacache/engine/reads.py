"""Numbers read from the device: together, and only when one of them is needed.

Each read makes the host wait for all that the device has still to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .predictors import same_level


class DeviceReads:
    """Scalars that wait on the device; one read brings them all."""

    def __init__(self) -> None:
        self.count = 0
        """Reads so far."""
        self._waiting: list[tuple[torch.Tensor, Callable[[float], None]]] = []

    def later(self, scalar: torch.Tensor, receive: Callable[[float], None]) -> None:
        """`receive` gets the number with the next read."""
        self._waiting.append((scalar, receive))

    def now(self, values: torch.Tensor | None = None) -> list[float]:
        """The numbers of `values` [n], and all that waits, in one read."""
        waiting, self._waiting = self._waiting, []
        parts = [scalar.reshape(1) for scalar, _ in waiting]
        if values is not None:
            parts.append(values)
        if not parts:
            return []
        device = parts[-1].device
        numbers: list[float] = torch.cat([part.float().to(device) for part in parts]).tolist()
        self.count += 1
        for (_, receive), number in zip(waiting, numbers, strict=False):
            receive(number)
        return numbers[len(waiting) :]

    def forget(self) -> None:
        self._waiting = []


class LevelOfEvaluation:
    """The noise level of each evaluation of a run over `sigmas`.

    With a sampler that evaluates once at each level (`single`), an evaluation on a device that is
    slow to read takes the level from the schedule; what the device holds is compared when
    something else is read, and after a mismatch (`lost`) every level is read.
    """

    def __init__(self, sigmas: Sequence[float], single: bool, reads: DeviceReads) -> None:
        self.lost = False
        self._sigmas = sigmas
        self._single = single
        self._reads = reads
        self._evaluation = 0

    def __call__(self, timestep: torch.Tensor) -> float:
        """timestep: the noise level [rows] as the sampler gives it, the same for each row."""
        first = timestep.flatten()[:1]
        place, self._evaluation = self._evaluation, self._evaluation + 1
        known = self._single and not self.lost and place < len(self._sigmas) - 1
        if not known or self.is_cheap(first):
            return self._reads.now(first)[0]
        expected = self._sigmas[place]
        self._reads.later(first, lambda level: self._check(expected, level))
        return expected

    @staticmethod
    def is_cheap(timestep: torch.Tensor) -> bool:
        """Whether reading does not make the host wait."""
        return timestep.device.type == "cpu"

    def _check(self, expected: float, level: float) -> None:
        self.lost = self.lost or not same_level(expected, level)
