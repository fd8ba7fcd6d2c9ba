"""What stands in for the residual of the block stack on a skipped step."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import torch

from .config import ConfigError


class Predictor(Protocol):
    """Predicts the residual of one branch from those of its computed steps."""

    def observe(self, sigma: float, residual: torch.Tensor) -> None:
        """Remember the residual [rows, tokens, width] computed at noise level `sigma`."""

    def predict(self, sigma: float) -> torch.Tensor:
        """The residual expected at `sigma`; needs one observation at least."""

    @property
    def residuals(self) -> list[torch.Tensor]:
        """What is held, newest last."""


class Reuse:
    """The newest residual, unchanged (arXiv 2411.19108, section 3.1)."""

    def __init__(self) -> None:
        self._held: deque[torch.Tensor] = deque(maxlen=1)

    def observe(self, sigma: float, residual: torch.Tensor) -> None:
        self._held.append(residual)

    def predict(self, sigma: float) -> torch.Tensor:
        return self._held[-1]

    @property
    def residuals(self) -> list[torch.Tensor]:
        return list(self._held)


def make_predictor(name: str) -> Predictor:
    """A fresh predictor of that name."""
    if name == "reuse":
        return Reuse()
    raise ConfigError(f"predictor must be one of reuse, not {name!r}")
