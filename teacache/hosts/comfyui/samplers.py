"""What is known of ComfyUI's samplers (`comfy/k_diffusion/sampling.py`), and of a run's phases."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from ...engine.strategy import Solver

SINGLE = (
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
MULTIPLE = ("heun", "heunpp2", "dpm_2", "unipc", "unipc_bh2")
"""Deterministic, with evaluations between or beside the schedule's levels."""
OWN_LEVELS = ("dpm_fast", "dpm_adaptive")
"""Given only where the schedule begins and ends."""


def solver_of(sampler: Any) -> Solver:
    """What is known of a sampler; one that is not in the tables is not extrapolated.

    Not in them are those that add noise on the way, those that take the unconditional prediction
    from within the guidance (CFG++), and those that choose their own levels.
    """
    function = vars(sampler).get("sampler_function")
    options: Mapping[str, Any] = vars(sampler).get("extra_options") or {}
    if function is None:
        return Solver(type(sampler).__name__, smooth=False)
    name = function.__name__.removeprefix("sample_").removesuffix("_function")
    if name in OWN_LEVELS:
        return Solver(name, smooth=False, own_levels=True)
    noisy = any(options.get(option) for option in ("s_churn", "eta"))
    if noisy or name not in SINGLE + MULTIPLE:
        return Solver(name, smooth=False)
    return Solver(name, smooth=True, euler=name == "euler", single=name in SINGLE)


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
