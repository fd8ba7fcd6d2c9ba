"""How much the model's input changed since the step before.

An indicator reads something cheap at the entry of the block stack; its relative L1 change,
rescaled by the profile, is what the policy accumulates (arXiv 2411.19108, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .blocks import BlockArguments

ModulatedInput = Callable[[Any, "BlockArguments"], torch.Tensor]
"""(first block, its arguments) -> the block's modulated image tokens, [rows, tokens, width]."""

EmbedTimesteps = Callable[[Any, torch.Tensor], torch.Tensor]
"""(transformer, timesteps [n]) -> their embeddings, [n, width]."""

TIMESTEP_INDICATORS = ("timestep", "timestep_projection")
"""Indicators that follow from the noise level alone, read by `EmbedTimesteps`."""


def relative_change(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """mean|now - before| / mean|before| for each row, [rows], in fp32, on the tensors' device."""
    difference = (now - before).abs().flatten(1).float().mean(dim=1)
    return difference / before.abs().flatten(1).float().mean(dim=1)


class TimestepSchedule:
    """Change of the timestep embedding between two noise levels, known before sampling starts.

    All consecutive pairs of the run's own levels are computed at once, with one read from the
    device; other pairs (samplers that evaluate between the levels) when first asked for.
    """

    def __init__(
        self,
        embed: Callable[[list[float]], torch.Tensor],
        sigmas: Sequence[float],
    ) -> None:
        self._embed = embed
        self._changes: dict[tuple[float, float], float] = {}
        levels = list(dict.fromkeys(sigmas))
        if len(levels) > 1:
            table = embed(levels)
            changes = relative_change(table[1:], table[:-1]).tolist()
            self._changes = dict(zip(pairwise(levels), changes, strict=True))

    def change(self, before: float, now: float) -> float:
        """Relative L1 change of the embedding from noise level `before` to `now`."""
        if before == now:
            return 0.0
        if (before, now) not in self._changes:
            table = self._embed([before, now])
            self._changes[before, now] = relative_change(table[1:], table[:-1]).item()
        return self._changes[before, now]
