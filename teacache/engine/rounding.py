"""Rounding errors of models that compute in half precision, as they show in predictions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

HALF = (torch.bfloat16, torch.float16)
"""Types whose rounding shows. The rounding error of a model's output has about the type's epsilon
as its root mean square, relative to the output: 1.0 to 1.1 times of it in the mean of the steps in
the transformers of the benchmarks, half of it in their UNet. Those of consecutive steps hardly
correlate (benchmarks/results/half_precision.md)."""
MOST_GAIN = 20.0
"""Guidance that seems to enlarge errors more is no weighted sum of two branches."""


def rounding_error(
    dtype: torch.dtype, value: torch.Tensor, branches: Sequence[torch.Tensor] = ()
) -> torch.Tensor | None:
    """Relative rounding error to be expected of a prediction.

    Args:
        dtype: that the model computes in.
        value: the prediction after guidance.
        branches: the outputs that it was made of. Guidance enlarges the errors of two; for any
            other number nothing is known of the guidance, and the errors of one are given.

    Returns:
        A number on the device of `value`; None for types whose rounding is negligible.
    """
    if dtype not in HALF:
        return None
    return torch.finfo(dtype).eps * _guidance_gain(value, branches)


def _guidance_gain(value: torch.Tensor, branches: Sequence[torch.Tensor]) -> torch.Tensor:
    """How much larger errors are after guidance than those of the branches, which are independent.

    The weights of the branches, g and 1 - g at guidance scale g, are read from the values.
    """
    if len(branches) != 2 or any(branch.shape != value.shape for branch in branches):
        return torch.ones((), device=value.device)
    base, other = (branch.flatten().float() for branch in branches)
    way = other - base
    weight = torch.dot(value.flatten().float() - base, way) / torch.dot(way, way).clamp_min(1e-30)
    return torch.hypot(weight, 1 - weight).clamp_max(MOST_GAIN)
