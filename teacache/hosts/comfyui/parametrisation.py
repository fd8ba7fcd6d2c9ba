"""What of an evaluation is continued from step to step: the derivative, or the denoised latent."""

from __future__ import annotations

from typing import Protocol

import torch


class Parametrisation(Protocol):
    """A value that stands for the denoised latent, and that changes smoothly over a run."""

    def encode(self, x: torch.Tensor, sigma: float, denoised: torch.Tensor) -> torch.Tensor:
        """The value, a tensor of its own, for the latent `x` at noise level `sigma`."""

    def decode(self, x: torch.Tensor, sigma: float, value: torch.Tensor) -> torch.Tensor:
        """The denoised latent that `value` stands for."""

    def origin(self, x: torch.Tensor) -> torch.Tensor | None:
        """From where the size of the value is measured, so that relative errors mean the same."""


class Derivative:
    """The derivative (x - denoised) / sigma, which deterministic samplers follow."""

    def encode(self, x: torch.Tensor, sigma: float, denoised: torch.Tensor) -> torch.Tensor:
        return (x - denoised) / sigma

    def decode(self, x: torch.Tensor, sigma: float, value: torch.Tensor) -> torch.Tensor:
        return x - sigma * value

    def origin(self, x: torch.Tensor) -> torch.Tensor | None:
        return None


class Denoised:
    """The denoised latent itself: where noise is added to `x`, the derivative is not smooth.

    Its errors are measured in parts of x - denoised, as those of the derivative are.
    """

    def encode(self, x: torch.Tensor, sigma: float, denoised: torch.Tensor) -> torch.Tensor:
        return denoised.clone()

    def decode(self, x: torch.Tensor, sigma: float, value: torch.Tensor) -> torch.Tensor:
        return value

    def origin(self, x: torch.Tensor) -> torch.Tensor | None:
        return x


DERIVATIVE, DENOISED = Derivative(), Denoised()
