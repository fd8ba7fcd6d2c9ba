"""What other packs hand to ComfyUI: samplers, guiders and wrappers of foreign make."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import tiny_models
import torch
from hostile import FAMILY

# --- samplers ------------------------------------------------------------------------------------


def partial_euler(**options: Any) -> Any:
    from comfy.k_diffusion.sampling import sample_euler

    return functools.partial(sample_euler, **options)


class CallableSampler:
    """A sampler function that is an object, without a name."""

    def __call__(self, model: Any, x: Any, sigmas: Any, **options: Any) -> Any:
        from comfy.k_diffusion.sampling import sample_euler

        return sample_euler(model, x, sigmas, **options)


def sample_euler(*args: Any, **options: Any) -> Any:
    """It has the name of Euler's method, and adds noise."""
    from comfy.k_diffusion import sampling

    return sampling.sample_euler_ancestral(*args, **options)


def own_steps(
    denoiser: Any,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: Any = None,
    callback: Any = None,
    disable: Any = None,
    *,
    noise: float = 0.0,
    stop: int | None = None,
) -> torch.Tensor:
    """Euler's steps, written anew.

    Args:
        noise: how much noise each step adds.
        stop: number of steps after which it ends, None for all.
    """
    generator = torch.Generator().manual_seed(5)
    for step, (sigma, following) in enumerate(list(pairwise(sigmas))[:stop]):
        denoised = denoiser(x, sigma * x.new_ones([x.shape[0]]), **(extra_args or {}))
        x = x + (x - denoised) / sigma * (following - sigma)
        x = x + noise * following * torch.randn(x.shape, generator=generator)
        if callback is not None:
            callback({"i": step, "denoised": denoised, "x": x, "sigma": sigma})
    return x


def denoised_at_the_end(denoiser: Any, x: Any, sigmas: Any, extra_args: Any, **more: Any) -> Any:
    """Own steps, and the prediction at the last level, or close above 0."""
    x = own_steps(denoiser, x, sigmas, extra_args)
    level = sigmas[-1].clamp(min=1e-3) * x.new_ones([x.shape[0]])
    return denoiser(x, level, **extra_args)


def moving_levels(sigmas: torch.Tensor) -> torch.Tensor:
    """`sigmas` without a zero in front, up to where they stop falling."""
    levels = sigmas[1:] if float(sigmas[0]) == 0 else sigmas
    values = levels.tolist()
    stop = next((i + 1 for i, (a, b) in enumerate(pairwise(values)) if a == b), len(values))
    return levels[:stop]


def until_the_levels_stop(denoiser: Any, x: Any, sigmas: Any, **options: Any) -> Any:
    """Euler's method over the levels that move the sample."""
    from comfy.k_diffusion.sampling import sample_euler

    return sample_euler(denoiser, x, moving_levels(sigmas), **options)


def over_two_predictions(
    model_k: Any, x: Any, sigmas: Any, extra_args: Any = None, **more: Any
) -> Any:
    """Euler's method with a guider that returns two predictions, past ComfyUI's inpainting."""
    options = {name: extra_args[name] for name in ("model_options", "seed")}
    for sigma, following in pairwise(sigmas):
        denoised, _ = model_k.inner_model(x, sigma * x.new_ones([x.shape[0]]), **options)
        x = x + (x - denoised) / sigma * (following - sigma)
    return x


def sampler_of_own_class(function: Any) -> Any:
    """A subclass of ComfyUI's sampler."""
    import comfy.samplers

    class Mine(comfy.samplers.KSAMPLER):
        def sample(self, *args: Any, **options: Any) -> Any:
            return super().sample(*args, **options)

    return Mine(function)


def sampler_from_the_ground_up() -> Any:
    """A sampler that takes the guider itself, without ComfyUI's inpainting."""
    import comfy.samplers

    class Grounded(comfy.samplers.Sampler):
        def sample(
            self, guider: Any, sigmas: Any, extra_args: Any, callback: Any, noise: Any,
            latent_image: Any = None, denoise_mask: Any = None, disable_pbar: bool = False,
        ) -> Any:  # fmt: skip
            x = latent_image * (1 - sigmas[0]) + noise * sigmas[0]
            return own_steps(guider, x, sigmas, extra_args)

    return Grounded()


def _function(function: Any) -> Callable[[], Any]:
    def make() -> Any:
        import comfy.samplers

        return comfy.samplers.KSAMPLER(function)

    return make


def _made(make: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: _function(make())()


SAMPLERS: dict[str, Callable[[], Any]] = {
    "partial": _made(partial_euler),
    "partial with noise": _made(lambda: partial_euler(s_churn=0.5)),
    "object": _made(CallableSampler),
    "own steps": _function(own_steps),
    "own steps with noise": _function(functools.partial(own_steps, noise=0.2)),
    "known name": _function(sample_euler),
    "until the levels stop": _function(until_the_levels_stop),
    "denoised at the end": _function(denoised_at_the_end),
    "stops early": _function(functools.partial(own_steps, stop=3)),
    "own class": lambda: sampler_of_own_class(partial_euler()),
    "from the ground up": sampler_from_the_ground_up,
}
"""Makers of samplers, by what is foreign about them."""
SAMPLER_OF_TWO = _function(over_two_predictions)
"""Makes the sampler of `twofold`."""


# --- guiders -------------------------------------------------------------------------------------


def make_guider(model: Any, kind: type | None = None, cfg: Any = 3.0, name: str = FAMILY) -> Any:
    """A guider of the class `kind` with two conds; ComfyUI's own one if it is None."""
    import comfy.samplers

    guider = (kind or comfy.samplers.CFGGuider)(model)
    guider.set_conds(tiny_models.cond(name, 1), tiny_models.cond(name, 2))
    guider.cfg = cfg
    return guider


def scheduled() -> type:
    """A guider that does not read its guidance scale, which may be anything."""
    import comfy.samplers

    class Scheduled(comfy.samplers.CFGGuider):
        def predict_noise(
            self, x: Any, timestep: Any, model_options: Any = None, seed: Any = None
        ) -> Any:
            conds = self.conds
            return comfy.samplers.sampling_function(
                self.inner_model, x, timestep, conds["negative"], conds["positive"], 3.0,
                model_options=model_options or {}, seed=seed,
            )  # fmt: skip

    return Scheduled


def direct() -> type:
    """A guider that calls its own `predict_noise`, past the wrappers of PREDICT_NOISE."""
    import comfy.samplers

    class Direct(comfy.samplers.CFGGuider):
        def __call__(self, *args: Any, **options: Any) -> Any:
            return self.predict_noise(*args, **options)

    return Direct


def twofold() -> type:
    """A guider that returns two predictions; its sampler is `over_two_predictions`."""
    import comfy.samplers

    class Twofold(comfy.samplers.CFGGuider):
        def predict_noise(self, *args: Any, **options: Any) -> Any:
            denoised = super().predict_noise(*args, **options)
            return denoised, denoised

    return Twofold


def separate() -> type:
    """A guider that evaluates its conds in passes of their own."""
    import comfy.samplers

    class Separate(comfy.samplers.CFGGuider):
        def predict_noise(
            self, x: Any, timestep: Any, model_options: Any = None, seed: Any = None
        ) -> Any:
            cond, uncond = (
                comfy.samplers.calc_cond_batch(
                    self.inner_model, [self.conds[name]], x, timestep, model_options or {}
                )[0]
                for name in ("positive", "negative")
            )
            return uncond + (cond - uncond) * 3.0

    return Separate


def averaging() -> type:
    """A guider that predicts twice at the same noise level, at two latents."""
    import comfy.samplers

    class Averaging(comfy.samplers.CFGGuider):
        def predict_noise(self, x: Any, timestep: Any, *args: Any, **options: Any) -> Any:
            predict = super().predict_noise
            first = predict(x, timestep, *args, **options)
            return (first + predict(x * 0.99, timestep, *args, **options)) / 2

    return Averaging


def _dual(model: Any, name: str) -> Any:
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    guider = Guider_DualCFG(model)
    guider.set_conds(*(tiny_models.cond(name, seed) for seed in (1, 3, 2)))
    guider.set_cfg(3.0, 2.0)
    return guider


def _basic(model: Any, name: str) -> Any:
    from comfy_extras.nodes_custom_sampler import Guider_Basic

    guider = Guider_Basic(model)
    guider.set_conds(tiny_models.cond(name, 1))
    return guider


def _of(kind: Callable[[], type] | None = None, cfg: Any = 3.0) -> Callable[[Any, str], Any]:
    return lambda model, name: make_guider(model, None if kind is None else kind(), cfg, name)


GUIDERS: dict[str, Callable[[Any, str], Any]] = {
    "cfg": _of(),
    "list": _of(scheduled, [3.0] * 9),
    "none": _of(scheduled, None),
    "tensor": _of(scheduled, torch.tensor([3.0, 3.0])),
    "direct": _of(direct),
    "twofold": _of(twofold),
    "separate": _of(separate),
    "averaging": _of(averaging),
    "dual": _dual,
    "basic": _basic,
}
"""Makers of guiders for a model and the name of its conds, by what is foreign about them."""


# --- wrappers ------------------------------------------------------------------------------------


def twice(executor: Any, *args: Any, **options: Any) -> Any:
    """Samples, and samples once more."""
    executor(*args, **options)
    return executor(*args, **options)


def tiled(apply: Callable[..., Any], arguments: dict[str, Any]) -> torch.Tensor:
    """Calls the model once for each half of the latent."""
    x, c = arguments["input"], arguments["c"]
    tiles = [apply(tile, arguments["timestep"], **c) for tile in x.chunk(2, dim=-1)]
    return torch.cat(tiles, dim=-1)


def over_tiles(patcher: Any) -> Any:
    clone = patcher.clone()
    clone.set_model_unet_function_wrapper(tiled)
    return clone


def with_outer(patcher: Any, wrapper: Callable[..., Any], kind: str, key: str) -> Any:
    """A clone with a wrapper outside of those that it has."""
    clone = patcher.clone()
    inner = clone.wrappers.pop(kind, {})
    clone.wrappers[kind] = {}
    clone.add_wrapper_with_key(kind, key, wrapper)
    clone.wrappers[kind].update(inner)
    return clone


def shortened(
    executor: Any, guider: Any, sigmas: torch.Tensor, *args: Any, **options: Any
) -> torch.Tensor:
    """A wrapper of SAMPLER_SAMPLE that leaves out the last two steps."""
    return executor(guider, sigmas[: max(2, len(sigmas) - 2)], *args, **options)


def denser(
    executor: Any, guider: Any, sigmas: torch.Tensor, *args: Any, **options: Any
) -> torch.Tensor:
    """A wrapper of SAMPLER_SAMPLE that puts a level between any two."""
    between = (sigmas[:-1] + sigmas[1:]) / 2
    levels = torch.stack([sigmas[:-1], between], dim=1).flatten()
    return executor(guider, torch.cat([levels, sigmas[-1:]]), *args, **options)
