"""Samplers as other packs make them, and ComfyUI's nodes that change the guidance."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

Patch = Callable[[Any], Any]
"""Model patcher -> another one."""
LOWER = 0.1
"""Share by which the model is shown a lower level in the middle of a run."""
LAMBDA, GAIN = 4.0, 0.2
"""Of the sliding-mode guidance (SMC-CFG): how fast the difference of the branches is led back, and
by how much at most."""


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


def _sliding_mode(model: Any) -> Any:
    """Guidance that leads the difference of the branches by what it was in the step before."""
    before: list[torch.Tensor] = []

    def guided(args: dict[str, Any]) -> torch.Tensor:
        difference = args["cond"] - args["uncond"]
        if before and before[-1].shape == difference.shape:
            error = difference - before[-1] + LAMBDA * before[-1]
            difference = difference - GAIN * difference.abs().mean() * error.sign()
        before[:] = [difference]
        led: torch.Tensor = args["uncond"] + args["cond_scale"] * difference
        return led

    patched = model.clone()
    patched.set_model_sampler_cfg_function(guided)
    return patched


def _by_node(node: Any, **inputs: Any) -> Patch:
    """The model as a node of ComfyUI gives it."""
    return lambda model: node.execute(model=model, **inputs).result[0]


def guidances() -> dict[str, Patch]:
    """Changes of the guidance, by name."""
    from comfy_extras import nodes_apg, nodes_cfg, nodes_fresca, nodes_mahiro, nodes_slg, nodes_tcfg

    apg = {"eta": 1.0, "norm_threshold": 5.0}
    layers = {"double_layers": "2", "single_layers": ""}
    half = {"start_percent": 0.0, "end_percent": 0.5}
    return {
        "plain": lambda model: model.clone(),
        "APG, momentum 0.5": _by_node(nodes_apg.APG, momentum=0.5, **apg),
        "APG, momentum -0.5": _by_node(nodes_apg.APG, momentum=-0.5, **apg),
        "sliding mode (SMC)": _sliding_mode,
        "FreSca": _by_node(nodes_fresca.FreSca, scale_low=1.0, scale_high=1.25, freq_cutoff=20),
        "CFG-Zero*": _by_node(nodes_cfg.CFGZeroStar),
        "CFG norm": _by_node(nodes_cfg.CFGNorm, strength=1.0),
        "tangential damping": _by_node(nodes_tcfg.TCFG),
        "Mahiro": _by_node(nodes_mahiro.Mahiro),
        "skip-layer guidance in the first half": _by_node(
            nodes_slg.SkipLayerGuidanceDiT, scale=1.0, **half, **layers
        ),
    }
