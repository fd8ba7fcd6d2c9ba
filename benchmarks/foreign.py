"""Samplers as other packs make them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

LOWER = 0.1
"""Share by which the model is shown a lower level in the middle of a run."""


def shifted(share: Callable[[float], float]) -> Callable[..., Any]:
    """A sampler that shows the model lower levels than the sampler inside it is at.

    Args:
        share: progress of the run, 0 to 1 -> by which share the level is lower.
    """

    def sample_shifted(
        model: Any, x: Any, sigmas: Any, *, inner: Any, extra_args: Any = None, **more: Any
    ) -> Any:
        highest = float(sigmas[0])

        class Shown:
            inner_model = model.inner_model

            def __call__(self, x: Any, sigma: Any, **options: Any) -> Any:
                progress = 1 - float(sigma.max()) / highest
                return model(x, sigma * (1 - share(progress)), **options)

        return inner.sampler_function(
            Shown(), x, sigmas, extra_args=extra_args, **more, **inner.extra_options
        )

    return sample_shifted


def midpoint(
    model: Any, x: Any, sigmas: Any, extra_args: Any = None, callback: Any = None, **more: Any
) -> Any:
    """A Runge-Kutta method with two evaluations in each step."""
    ones = x.new_ones(x.shape[0])
    for now, following in pairwise(sigmas):
        slope = (x - model(x, now * ones, **extra_args)) / now
        half = (now + following) / 2
        middle = x + slope * (half - now)
        x = x + (middle - model(middle, half * ones, **extra_args)) / half * (following - now)
    return x


def samplers() -> dict[str, Any]:
    """`comfy.samplers.Sampler` by name."""
    import comfy.samplers

    def around(name: str) -> Any:
        options = {"inner": comfy.samplers.sampler_object(name)}
        bell = shifted(lambda progress: LOWER * 4 * progress * (1 - progress))
        return comfy.samplers.KSAMPLER(bell, extra_options=options)

    names = ("euler", "dpmpp_2m", "euler_ancestral", "heun")
    wrapped = {f"lower levels shown, around {name}": around(name) for name in names}
    return {**wrapped, "midpoint method": comfy.samplers.KSAMPLER(midpoint)}
