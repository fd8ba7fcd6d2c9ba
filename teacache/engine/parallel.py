"""One decision for all processes that compute parts of the same model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:  # PyTorch may have been built without it
    from torch.distributed import ProcessGroup


class Ranks:
    """The processes among which the tokens or the weights of a model are split.

    Each of them reads the distance of its own part. As long as all of them skip and compute the
    same calls, they meet in the same reductions.

    Args:
        groups: a value is reduced over each of them in turn.
        device: where what is reduced is put, which the groups must be able to reach.
    """

    def __init__(self, groups: Sequence[ProcessGroup], device: torch.device) -> None:
        self._groups = groups
        self._device = device

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest value of any process at each place; infinity where one is no number."""
        numbers = torch.tensor(
            [math.inf if math.isnan(value) else value for value in values],
            dtype=torch.float64,
            device=self._device,
        )
        for group in self._groups:
            torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX, group)
        reduced: list[float] = numbers.tolist()
        return reduced

    def any(self, condition: bool) -> bool:
        """Whether `condition` holds in one of the processes."""
        return self.largest([float(condition)])[0] > 0
