"""Properties of ComfyUI's samplers (`comfy/k_diffusion/sampling.py`), and the noise levels at
which a run's conditioning changes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import comfy.k_diffusion.sampling
import comfy.samplers
from comfy.extra_samplers import uni_pc

from ...engine.strategy import SamplerTraits
from ..common import noise_option
from .inner_samplers import flattened, samplers_within
from .other_caches import origin, pack_or_module

ONE_EVAL_PER_STEP = (
    "euler",
    "euler_cfg_pp",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "lms",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
)
"""Deterministic samplers with one evaluation at each noise level of the schedule."""
SEVERAL_EVALS_PER_STEP = ("heun", "heunpp2", "exp_heun_2_x0", "dpm_2", "unipc", "unipc_bh2")
"""Deterministic samplers with further evaluations, at or between the schedule's noise levels."""
NOISY_ONE_EVAL_PER_STEP = (
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun",
    "dpmpp_2m_sde_heun_gpu",
    "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu",
    "ddpm",
    "lcm",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "er_sde",
    "sa_solver",
)
"""Samplers that add noise after a step, with one evaluation at each level of the schedule."""
NOISY_SEVERAL_EVALS_PER_STEP = (
    "exp_heun_2_x0_sde",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde",
    "dpmpp_sde_gpu",
    "seeds_2",
    "seeds_3",
    "sa_solver_pece",
)
"""Samplers that add noise within or after a step of several evaluations."""
HIGH_ORDER = ("lms", "ipndm", "ipndm_v", "deis", "unipc", "unipc_bh2")
"""Those that combine the derivatives of three steps and more."""
UNSTEADY = (
    "dpmpp_2m_cfg_pp",
    "dpmpp_2s_ancestral_cfg_pp",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation_cfg_pp",
)
"""CFG++ with values of earlier steps: noise added to the initial latent, a ten-thousandth of it,
alone changes a picture of the demo model at guidance 1.5 to 16 to 48 dB in the worst of three."""
ADAPTIVE = ("dpm_fast", "dpm_adaptive")
"""Samplers that take only the ends of the schedule and choose their own noise levels."""
COMPUTED_IN_FULL = {
    **dict.fromkeys(ADAPTIVE, "chooses its own noise levels"),
    **dict.fromkeys(UNSTEADY, "lets small differences grow"),
    "heunpp2": "evaluates ahead and goes back",
}
"""Why every step is computed, unless the faithful mode is asked for."""
KNOWN = (
    *ONE_EVAL_PER_STEP,
    *SEVERAL_EVALS_PER_STEP,
    *NOISY_ONE_EVAL_PER_STEP,
    *NOISY_SEVERAL_EVALS_PER_STEP,
)


def sampler_traits(sampler: Any) -> SamplerTraits:
    """The properties of a sampler that decide how its model may be cached.

    A sampler is known if its function is ComfyUI's own, by identity: another pack may register its
    functions beside ComfyUI's. Any other is foreign: what it does is seen while it runs. One around
    another sampler has that one's traits, as far as a wrapper leaves them.

    Args:
        sampler: A `comfy.samplers.Sampler`.
    """
    if type(sampler) is not comfy.samplers.KSAMPLER:
        return SamplerTraits(_display_name(type(sampler)), foreign=True)
    function, options = flattened(sampler.sampler_function, sampler.extra_options)
    name = _own_name(function)
    if name in ADAPTIVE:
        return SamplerTraits(
            name, forecast=False, computed_in_full=COMPUTED_IN_FULL[name], adaptive=True
        )
    if name not in KNOWN:
        inner = [sampler_traits(each) for each in samplers_within(sampler).values()]
        around = f", around {inner[0].name}" if inner else ""
        own = inner[0] if len(inner) == 1 else SamplerTraits("")
        return replace(
            own,
            name=(name or _display_name(function)) + around,
            foreign=True,
            around_known=len(inner) == 1 and (own.around_known or not own.foreign),
            euler=False,
            one_eval_per_step=False,
            raises_levels=False,
        )
    raises = name in ONE_EVAL_PER_STEP + SEVERAL_EVALS_PER_STEP and bool(noise_option(options))
    one_eval = name in ONE_EVAL_PER_STEP + NOISY_ONE_EVAL_PER_STEP and not raises
    noisy = raises or name in NOISY_ONE_EVAL_PER_STEP + NOISY_SEVERAL_EVALS_PER_STEP
    return SamplerTraits(
        name,
        euler=name == "euler" and not raises,
        one_eval_per_step=one_eval,
        raises_levels=raises,
        adds_noise=noisy,
        forecast=name not in COMPUTED_IN_FULL,
        computed_in_full=COMPUTED_IN_FULL.get(name, ""),
        continues_a_branch=name.endswith("_cfg_pp"),
        high_order=name in HIGH_ORDER,
    )


def _own_name(function: Any) -> str | None:
    """The name of a sampler function of ComfyUI's own, in the tables or not; else None."""
    if not inspect.isfunction(function):
        return None
    for name in ADAPTIVE:
        inner = f"ksampler.<locals>.{name}_function"
        if (function.__module__, function.__qualname__) == ("comfy.samplers", inner):
            return name
    name = function.__name__.removeprefix("sample_")
    for module in (comfy.k_diffusion.sampling, uni_pc):
        own = function.__module__ == module.__name__
        if own and vars(module).get(f"sample_{name}") is function:
            return name
    return None


def _display_name(function: Any) -> str:
    """A foreign function or class as messages name it: with the pack or module it comes from."""
    name, module = origin(function)
    return f"{name} of {pack_or_module(module)}"


def conditioning_boundaries(
    conds: Mapping[str, Any], percent_to_sigma: Callable[[float], float] | None = None
) -> list[float]:
    """The noise levels at which a cond, its ControlNet or one of its hooks starts, ends or changes.

    Args:
        conds: Lists of conds by name, as `CFGGuider.conds` holds them during a run.
        percent_to_sigma: The model's; without it, keyframes that only know their share of the run
            are passed over.

    Returns:
        Distinct sigmas in ascending order.
    """
    every = (cond for conds_list in conds.values() for cond in conds_list)
    return sorted({sigma for cond in every for sigma in _ends(cond, percent_to_sigma)})


def control_strengths(conds: Mapping[str, Any]) -> Hashable:
    """The strengths of all ControlNets, which other packs change within a run.

    Args:
        conds: As for `conditioning_boundaries`.
    """
    every = (cond for conds_list in conds.values() for cond in conds_list)
    strengths = [vars(control).get("strength") for cond in every for control in _controls(cond)]
    return tuple(float(known) for known in strengths if isinstance(known, (int, float)))


def _ends(
    cond: Mapping[str, Any], percent_to_sigma: Callable[[float], float] | None
) -> Iterator[float]:
    for name in ("timestep_start", "timestep_end"):
        if name in cond:
            yield float(cond[name])
    for control in _controls(cond):
        if control.timestep_range is not None:
            yield from map(float, control.timestep_range)
        for keyframe in _keyframes(control):
            known = vars(keyframe)
            if "start_t" in known:
                yield float(known["start_t"])
            elif "start_percent" in known and percent_to_sigma is not None:
                yield float(percent_to_sigma(float(known["start_percent"])))
    if cond.get("hooks") is not None:
        for hook in cond["hooks"].hooks:
            yield from (float(keyframe.start_t) for keyframe in hook.hook_keyframe.keyframes)


def _controls(cond: Mapping[str, Any]) -> Iterator[Any]:
    """The ControlNets of a cond, which are a chain."""
    control = cond.get("control")
    while control is not None:
        yield control
        control = control.previous_controlnet


def _keyframes(control: Any) -> Iterator[Any]:
    """The keyframes of a ControlNet of another pack: a list, or a group that holds one.

    ComfyUI's own ControlNets have none. Advanced-ControlNet keeps them in `timestep_keyframes`, and
    sets their `start_t`, a noise level, before the first step.
    """
    for name, value in vars(control).items():
        if "keyframes" not in name or value is None:
            continue
        held = value if isinstance(value, (list, tuple)) else vars(value).get("keyframes", ())
        yield from (keyframe for keyframe in held if hasattr(keyframe, "__dict__"))


def conditioning_phase(boundaries: list[float], sigma: float) -> Hashable:
    """A key that is equal for two noise levels if and only if the same conditioning applies.

    Args:
        boundaries: As `conditioning_boundaries` returns them.
        sigma: A noise level.
    """
    return tuple((sigma > boundary) - (sigma < boundary) for boundary in boundaries)
