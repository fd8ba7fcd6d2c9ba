"""Comparing tensors by value and reading numbers, counted: each makes the host wait."""

from __future__ import annotations

import torch


def same_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are the same view of the same memory."""
    if one is other:
        return True
    layouts = [(each.shape, each.stride(), each.dtype, each.device) for each in (one, other)]
    return layouts[0] == layouts[1] and one.data_ptr() == other.data_ptr()


class TensorReads:
    """The reads of one denoising loop outside its run's reader."""

    def __init__(self) -> None:
        self._count = 0

    def all_equal(self, one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
        """Whether two lists of tensors hold the same values."""
        return len(one) == len(other) and all(map(self.equal, one, other))

    def equal(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        """Whether two tensors hold the same values; values in the same memory are not read."""
        if same_memory(one, other):
            return True
        if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
            return False
        self._count += 1
        return torch.equal(one, other)

    def number(self, tensor: torch.Tensor) -> float:
        """The value of `tensor`, a single one."""
        self._count += 1
        return float(tensor)

    def take(self) -> int:
        """How many reads there were since this was last asked."""
        count, self._count = self._count, 0
        return count
