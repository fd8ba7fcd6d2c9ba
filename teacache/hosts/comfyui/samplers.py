"""Properties of ComfyUI's samplers (`comfy/k_diffusion/sampling.py`), and the noise levels at
which a run's conditioning changes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from ...engine.strategy import SamplerTraits

ONE_EVAL_PER_STEP = (
    "euler",
    "dpmpp_2m",
    "lms",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "gradient_estimation",
)
"""Deterministic samplers with one evaluation at each noise level of the schedule."""
SEVERAL_EVALS_PER_STEP = ("heun", "heunpp2", "dpm_2", "unipc", "unipc_bh2")
"""Deterministic samplers with further evaluations, at or between the schedule's noise levels."""
ADAPTIVE = ("dpm_fast", "dpm_adaptive")
"""Samplers that take only the ends of the schedule and choose their own noise levels."""


def sampler_traits(sampler: Any) -> SamplerTraits:
    """The properties of a sampler that decide how its model may be cached.

    A sampler in none of the tables counts as not deterministic, so that nothing is extrapolated:
    those that add noise, and those that use the unconditional prediction by itself (CFG++).

    Args:
        sampler: A `comfy.samplers.Sampler`.
    """
    function = vars(sampler).get("sampler_function")
    options: Mapping[str, Any] = vars(sampler).get("extra_options") or {}
    if function is None:
        return SamplerTraits(type(sampler).__name__, deterministic=False)
    name = function.__name__.removeprefix("sample_").removesuffix("_function")
    if name in ADAPTIVE:
        return SamplerTraits(name, deterministic=False, adaptive=True)
    noisy = any(options.get(option) for option in ("s_churn", "eta"))
    if noisy or name not in ONE_EVAL_PER_STEP + SEVERAL_EVALS_PER_STEP:
        return SamplerTraits(name, deterministic=False)
    return SamplerTraits(
        name, deterministic=True, euler=name == "euler", one_eval_per_step=name in ONE_EVAL_PER_STEP
    )


def conditioning_boundaries(conds: Mapping[str, Any]) -> list[float]:
    """The noise levels at which a cond, its ControlNet or one of its hooks starts or ends.

    Args:
        conds: Lists of conds by name, as `CFGGuider.conds` holds them during a run.

    Returns:
        Distinct sigmas in ascending order.
    """
    return sorted(
        {sigma for conds_list in conds.values() for c in conds_list for sigma in _ends(c)}
    )


def _ends(cond: Mapping[str, Any]) -> Iterator[float]:
    for name in ("timestep_start", "timestep_end"):
        if name in cond:
            yield float(cond[name])
    control = cond.get("control")
    while control is not None:
        if control.timestep_range is not None:
            yield from map(float, control.timestep_range)
        control = control.previous_controlnet
    if cond.get("hooks") is not None:
        for hook in cond["hooks"].hooks:
            yield from (float(keyframe.start_t) for keyframe in hook.hook_keyframe.keyframes)


def conditioning_phase(boundaries: list[float], sigma: float) -> Hashable:
    """A key that is equal for two noise levels if and only if the same conditioning applies.

    Args:
        boundaries: As `conditioning_boundaries` returns them.
        sigma: A noise level.
    """
    return tuple((sigma > boundary) - (sigma < boundary) for boundary in boundaries)
