"""Kinds of guidance: ComfyUI's nodes, and what other packs do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

Patch = Callable[[Any], Any]
"""Model patcher -> another one."""
LAMBDA, GAIN = 4.0, 0.2
"""Of the sliding-mode guidance (SMC-CFG): how fast the difference of the branches is led back, and
by how much at most."""
NAG_SCALE, NAG_TAU, NAG_ALPHA = 3.0, 1.5, 0.5
"""Of normalised attention guidance: the scale, the largest ratio of norms, and the share."""
INTERVAL = (0.2, 0.7)
"""Shares of the run between which there is guidance (arXiv 2404.07724)."""
LAYER = 2
"""The joint block that is perturbed or left out."""
PERTURBED_SCALE = 1.0
PERPENDICULAR_SCALE, NEGATIVE = 1.0, "snowman"


@dataclass(frozen=True)
class Guidance:
    """A kind of guidance.

    Args:
        patched: changes the model.
        guider: makes the guider; None for ComfyUI's own.
        negative: caption of a third branch between the others; None without one.
    """

    patched: Patch = lambda model: model.clone()
    guider: Callable[[Any], Any] | None = None
    negative: str | None = None


def _sliding_mode(model: Any) -> Any:
    """Guidance that leads the difference of the branches by what it was in the step before."""
    before: list[Tensor] = []

    def guided(args: dict[str, Any]) -> Tensor:
        difference = args["cond"] - args["uncond"]
        if before and before[-1].shape == difference.shape:
            error = difference - before[-1] + LAMBDA * before[-1]
            difference = difference - GAIN * difference.abs().mean() * error.sign()
        before[:] = [difference]
        led: Tensor = args["uncond"] + args["cond_scale"] * difference
        return led

    patched = model.clone()
    patched.set_model_sampler_cfg_function(guided)
    return patched


def by_node(node: Any, **inputs: Any) -> Patch:
    """The model as a node of ComfyUI gives it."""
    return lambda model: node.execute(model=model, **inputs).result[0]


# --- within the model -----------------------------------------------------------------------------

Change = Callable[[Tensor, Tensor, list[int]], Tensor]
"""(attention of the picture's tokens, their values, which rows are negative) -> the attention."""


def _with_attention(change: Change, args: dict[str, Any], extra: dict[str, Any]) -> Any:
    """A replaced joint block whose attention of the picture's tokens is changed."""
    text = args["txt"].shape[1]
    options = dict(args["transformer_options"])

    def attention(function: Any, q: Tensor, k: Tensor, v: Tensor, *more: Any, **named: Any) -> Any:
        out = function(q, k, v, *more, **named).clone()
        out[:, text:] = change(out[:, text:], v[:, text:].flatten(2), options["cond_or_uncond"])
        return out

    options["optimized_attention_override"] = attention
    return extra["original_block"]({**args, "transformer_options": options})


def _normalised(out: Tensor, values: Tensor, negative: list[int]) -> Tensor:
    """Attention led away from that of the negative rows (arXiv 2505.21179)."""
    if set(negative) != {0, 1}:
        return out
    parts = list(out.chunk(len(negative)))
    positive, other = parts[negative.index(0)], parts[negative.index(1)]
    led = NAG_SCALE * positive - (NAG_SCALE - 1) * other
    ratio = led.norm(p=1, dim=-1, keepdim=True) / positive.norm(p=1, dim=-1, keepdim=True)
    led = led * (ratio.clamp(max=NAG_TAU) / ratio)
    parts[negative.index(0)] = NAG_ALPHA * led + (1 - NAG_ALPHA) * positive
    return torch.cat(parts)


def _normalised_attention(model: Any) -> Any:
    """NAG: in every block."""
    patched = model.clone()
    for number in range(len(model.model.diffusion_model.joint_blocks)):
        block = partial(_with_attention, _normalised)
        patched.set_model_patch_replace(block, "dit", "double_block", number)
    return patched


def _perturbed_attention(model: Any) -> Any:
    """PAG, and STG-A for films: a further pass whose attention returns its values in one block."""
    import comfy.model_patcher
    import comfy.samplers

    def guided(args: dict[str, Any]) -> Tensor:
        block = partial(_with_attention, lambda out, values, negative: values)
        options = comfy.model_patcher.set_model_options_patch_replace(
            args["model_options"].copy(), block, "dit", "double_block", LAYER
        )
        (perturbed,) = comfy.samplers.calc_cond_batch(
            args["model"], [args["cond"]], args["input"], args["sigma"], options
        )
        led: Tensor = args["denoised"] + PERTURBED_SCALE * (args["cond_denoised"] - perturbed)
        return led

    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(guided)
    return patched


# --- over the run ---------------------------------------------------------------------------------


def _interval_by_function(model: Any) -> Any:
    """Guidance between two levels, by a function of it: both branches are evaluated."""
    sampling = model.get_model_object("model_sampling")
    start, end = map(sampling.percent_to_sigma, INTERVAL)

    def guided(args: dict[str, Any]) -> Tensor:
        scale = args["cond_scale"] if end <= float(args["sigma"].max()) <= start else 1.0
        led: Tensor = args["uncond"] + scale * (args["cond"] - args["uncond"])
        return led

    patched = model.clone()
    patched.set_model_sampler_cfg_function(guided)
    return patched


def _guider_of_scale(scale: Callable[[float, float], float], model: Any) -> Any:
    """A guider whose scale changes over the run.

    Args:
        scale: (scale that is set, share of the run) -> scale of the step.
    """
    import comfy.samplers

    class Scheduled(comfy.samplers.CFGGuider):  # type: ignore[misc]
        def predict_noise(self, x: Any, timestep: Any, model_options: Any, seed: Any = None) -> Any:
            levels = model_options["transformer_options"]["sample_sigmas"]
            step = int((levels - timestep.max()).abs().argmin())
            return comfy.samplers.sampling_function(
                self.inner_model, x, timestep, self.conds.get("negative"),
                self.conds.get("positive"), scale(self.cfg, step / (len(levels) - 1)),
                model_options=model_options, seed=seed,
            )  # fmt: skip

    return Scheduled(model)


def _in_interval(scale: float, share: float) -> float:
    return scale if INTERVAL[0] <= share <= INTERVAL[1] else 1.0


def _falling(scale: float, share: float) -> float:
    return 1 + 2 * (scale - 1) * (1 - share)


def _perpendicular(model: Any) -> Any:
    """Perp-Neg: led away from what in a third branch is perpendicular to the caption's."""
    from comfy_extras.nodes_perpneg import Guider_PerpNeg

    class Perpendicular(Guider_PerpNeg):  # type: ignore[misc]
        def set_cfg(self, cfg: float) -> None:
            super().set_cfg(cfg, PERPENDICULAR_SCALE)

    return Perpendicular(model)


def guidances() -> dict[str, Guidance]:
    """Kinds of guidance, by name."""
    from comfy_extras import nodes_apg, nodes_cfg, nodes_fresca, nodes_mahiro, nodes_slg, nodes_tcfg
    from comfy_extras.nodes_model_advanced import RescaleCFG

    apg = {"eta": 1.0, "norm_threshold": 5.0}
    layers = {"double_layers": str(LAYER), "single_layers": "", "scale": PERTURBED_SCALE}
    patches: dict[str, Patch] = {
        "plain": lambda model: model.clone(),
        "APG, momentum 0.5": by_node(nodes_apg.APG, momentum=0.5, **apg),
        "APG, momentum -0.5": by_node(nodes_apg.APG, momentum=-0.5, **apg),
        "sliding mode (SMC)": _sliding_mode,
        "FreSca": by_node(nodes_fresca.FreSca, scale_low=1.0, scale_high=1.25, freq_cutoff=20),
        "CFG-Zero*": by_node(nodes_cfg.CFGZeroStar),
        "CFG norm": by_node(nodes_cfg.CFGNorm, strength=1.0),
        "rescaled (RescaleCFG)": lambda model: RescaleCFG().patch(model, 0.7)[0],
        "tangential damping": by_node(nodes_tcfg.TCFG),
        "Mahiro": by_node(nodes_mahiro.Mahiro),
        "skip-layer guidance in the first half": by_node(
            nodes_slg.SkipLayerGuidanceDiT, start_percent=0.0, end_percent=0.5, **layers
        ),
        "skip-layer guidance (STG-R)": by_node(
            nodes_slg.SkipLayerGuidanceDiT, start_percent=0.0, end_percent=1.0, **layers
        ),
        "perturbed attention (PAG, STG-A)": _perturbed_attention,
        "normalised attention (NAG)": _normalised_attention,
        "guidance interval, by a function": _interval_by_function,
    }
    guiders = {
        "guidance interval, by a guider": partial(_guider_of_scale, _in_interval),
        "scale that falls from 7 to 1, by a guider": partial(_guider_of_scale, _falling),
    }
    return {
        **{name: Guidance(patched=patch) for name, patch in patches.items()},
        **{name: Guidance(guider=guider) for name, guider in guiders.items()},
        "Perp-Neg": Guidance(guider=_perpendicular, negative=NEGATIVE),
    }
