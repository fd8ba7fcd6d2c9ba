"""What is known of ComfyUI's samplers (`comfy/k_diffusion/sampling.py`), and of a run's phases."""

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
"""Deterministic, one evaluation at each level of the schedule."""
SEVERAL_EVALS_PER_STEP = ("heun", "heunpp2", "dpm_2", "unipc", "unipc_bh2")
"""Deterministic, with evaluations between or beside the schedule's levels."""
ADAPTIVE = ("dpm_fast", "dpm_adaptive")
"""Given only where the schedule begins and ends."""


def sampler_traits(sampler: Any) -> SamplerTraits:
    """What is known of a sampler; one that is not in the tables is not extrapolated.

    Not in them are those that add noise on the way, those that take the unconditional prediction
    from within the guidance (CFG++), and those that choose their own levels.
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


def boundaries(conds: Mapping[str, Any]) -> list[float]:
    """Noise levels at which a cond, its ControlNet or a hook of it begins or ends.

    conds: by name, as ComfyUI's guider holds them during a run.
    """
    found = {level for several in conds.values() for cond in several for level in _levels(cond)}
    return sorted(found)


def _levels(cond: Mapping[str, Any]) -> Iterator[float]:
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


def phase(levels: list[float], sigma: float) -> Hashable:
    """Which of `boundaries` lie behind `sigma`: it changes when one of them is crossed."""
    return tuple((sigma > level) - (sigma < level) for level in levels)
