"""Enabling each caching method on a testbed.

An `Enable` function takes the testbed and returns a context manager. It yields the ComfyUI patcher
or the diffusers pipeline with the method enabled, and disables it on exit. What other methods need
to run on the testbeds is adjusted here; `ADJUSTMENTS` lists it for the results.
"""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline, hooks
from diffusers.hooks.hooks import HookRegistry
from torch import Tensor, nn

from benchmarks.grounds import Ground
from benchmarks.pipeline_gaps import (
    cache_contexts,
    last_block_returns_text,
    restored_on_exit,
)
from benchmarks.sampling import sample
from benchmarks.testbeds import DIFFUSERS, Testbed
from teacache.config import TeaCacheConfig
from teacache.engine.run import RunListener
from teacache.hosts.comfyui.headless.boot import PACK
from teacache.profiles.calibrated import Calibration
from teacache.profiles.store import PARTIAL_SUFFIX, ProfileStore

ADJUSTMENTS = (
    "EasyCache modifies its input in place, which spoils the picture in float32, where no change "
    "of dtype copies it: it gets a copy. ComfyUI's SD3 model does not call EasyCache's wrapper: it "
    "is called around the model's forward, as other models do.",
    "The SD3 pipeline of diffusers sets no cache context: one is set for each step. Those of FLUX "
    "and Qwen-Image tell neither step nor noise level, without which SeaCache computes every step: "
    "they are added. SD3's last block returns no text, which FirstBlockCache, SeaCache, TaylorSeer "
    "(lite) and DBCache do not support: it returns its input text.",
    "SeaCache on SD3 and FLUX takes the latent as its raw vision and exponent 2, that of pictures. "
    "MagCache is calibrated by its own calibration on one tuning caption. TaylorSeer's default "
    "patterns match no attention layer of Wan: its layers are named explicitly. cache-dit takes "
    "both calls of FLUX in a step for one branch of guidance: it is told that there are two.",
)
Enable = Callable[[Testbed], AbstractContextManager[Any]]
Apply = Callable[[Testbed, nn.Module], None]
"""(testbed, transformer): applies the hooks of one method."""
ALWAYS_SKIP = 90.0
"""A threshold that is never reached: every step is skipped that may be."""
CALIBRATION_PAIRS = 6
"""Tuning pairs that our own plans are calibrated on."""
PROFILE_FOLDER = PACK / "output" / "benchmarks" / "profiles"


# --- ComfyUI -------------------------------------------------------------------------------------


@contextmanager
def uncached_comfyui(testbed: Testbed) -> Iterator[Any]:
    yield testbed.patcher


def teacache_comfyui(listener: RunListener | None = None, **config: Any) -> Enable:
    @contextmanager
    def enable(testbed: Testbed) -> Iterator[Any]:
        from teacache.hosts.comfyui.patch import apply_teacache

        yield apply_teacache(testbed.patcher, TeaCacheConfig(**config), listener)[0]

    return enable


class Presets:
    """A wanted speed-up as our users ask for it, with one calibration of each ground or without.

    Args:
        quick: learn from one uncached run; None for no calibration.
    """

    def __init__(self, quick: bool | None = None) -> None:
        self._quick = quick
        self._calibrations: dict[Ground, Calibration] = {}

    def for_speedup(self, speedup: float) -> Enable:
        config = TeaCacheConfig(rel_l1_thresh=None, preset=f"{speedup:g}x")

        @contextmanager
        def enable(testbed: Testbed) -> Iterator[Any]:
            from teacache.hosts.comfyui.patch import apply_teacache

            override = _with_calibration(self._calibration(testbed))
            yield apply_teacache(testbed.patcher, config, override=override)[0]

        return enable

    def _calibration(self, testbed: Testbed) -> Calibration | None:
        if self._quick is None:
            return None
        ground = testbed.ground
        if ground not in self._calibrations:
            self._calibrations[ground] = load_or_calibrate(testbed, self._quick)
        return self._calibrations[ground]


def _with_calibration(calibration: Calibration | None) -> Any:
    """An override that gives a run this calibration, or none, whatever the user's folder holds."""
    from teacache.calibration.override import RunOverride
    from teacache.engine.presets import RunContext, resolve_settings
    from teacache.engine.strategy import RunSettings

    class Calibrated(RunOverride):
        def settings(self, config: TeaCacheConfig, context: RunContext) -> RunSettings:
            named = calibration is not None
            return resolve_settings(config, replace(context, calibration=calibration, named=named))

    return Calibrated()


def load_or_calibrate(testbed: Testbed, quick: bool = False) -> Calibration:
    """Our calibration on `CALIBRATION_PAIRS` tuning pairs, or on one uncached run, stored in
    `PROFILE_FOLDER`."""
    from teacache.calibration.calibrator import Calibrator
    from teacache.calibration.journal import Journal
    from teacache.calibration.shards import in_turn
    from teacache.hosts.comfyui.backend import ModelCalibrationBackend, Prompt, SamplerSettings

    store = ProfileStore(PROFILE_FOLDER)
    ground = testbed.ground
    name = f"{ground.slug}-{testbed.digest()}-{1 if quick else CALIBRATION_PAIRS}-pairs"
    if name in store.names():
        return store.load(name)
    prompts = [
        Prompt(
            testbed.conditioning([pair.prompt]), testbed.conditioning([""]), pair.seed, pair.prompt
        )
        for pair in testbed.tuning_pairs(CALIBRATION_PAIRS)
    ]
    settings = SamplerSettings(ground.steps, testbed.cfg, ground.sampler, ground.scheduler)
    latent = {"samples": torch.zeros(1, *testbed.latent_shape)}
    backend = ModelCalibrationBackend(testbed.patcher, latent, settings, prompts)
    journal = Journal(PROFILE_FOLDER / f"{name}{PARTIAL_SUFFIX}", {**backend.key, "quick": quick})
    calibration = Calibrator(backend, in_turn(backend), name, journal, quick=quick).run()
    store.save(calibration)
    journal.remove()
    return calibration


def lazycache(threshold: float) -> Enable:
    """ComfyUI's LazyCache node with its default range."""

    @contextmanager
    def enable(testbed: Testbed) -> Iterator[Any]:
        from comfy_extras.nodes_easycache import LazyCacheNode

        yield LazyCacheNode.execute(testbed.patcher, threshold, 0.15, 0.95, False).args[0]

    return enable


def easycache(threshold: float) -> Enable:
    """ComfyUI's EasyCache node with its default range, on a model that calls its wrapper."""

    @contextmanager
    def enable(testbed: Testbed) -> Iterator[Any]:
        from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
        from comfy_extras.nodes_easycache import EasyCacheNode

        kind = WrappersMP.DIFFUSION_MODEL

        def copy_input(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            output: Tensor = executor(x.clone(), *args, **kwargs)
            return output

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            wrappers = get_all_wrappers(kind, kwargs["transformer_options"])
            executor = WrapperExecutor.new_class_executor(original_forward, model, wrappers)
            output: Tensor = executor.execute(x, *args, **kwargs)
            return output

        model = testbed.patcher.model.diffusion_model
        original_forward = model.forward
        patcher = testbed.patcher.clone()
        patcher.add_wrapper_with_key(kind, "copy_input", copy_input)
        patcher = EasyCacheNode.execute(patcher, threshold, 0.15, 0.95, False).args[0]
        if not isinstance(testbed.pipe, StableDiffusion3Pipeline):
            yield patcher
            return
        model.forward = forward
        try:
            yield patcher
        finally:
            del model.forward

    return enable


# --- diffusers -----------------------------------------------------------------------------------


@contextmanager
def uncached_diffusers(testbed: Testbed) -> Iterator[Any]:
    yield testbed.pipe


def teacache_diffusers(threshold: float, **config: Any) -> Enable:
    @contextmanager
    def enable(testbed: Testbed) -> Iterator[Any]:
        from teacache.hosts.diffusers.enable import teacache

        with teacache(testbed.pipe, threshold, **config):
            yield testbed.pipe

    return enable


def diffusers_cache(apply: Apply) -> Enable:
    """A method of `diffusers.hooks`; all its hooks are removed on exit."""

    @contextmanager
    def enable(testbed: Testbed) -> Iterator[Any]:
        transformer = testbed.pipe.transformer
        with last_block_returns_text(transformer), cache_contexts(testbed):
            try:
                apply(testbed, transformer)
                HookRegistry.check_if_exists_or_initialize(
                    transformer
                ).invalidate_child_registries_cache()
                yield testbed.pipe
            finally:
                remove_hooks(transformer)

    return enable


def remove_hooks(transformer: nn.Module) -> None:
    for module in transformer.modules():
        registry = vars(module).get("_diffusers_hook")
        if registry is not None:
            for name in list(registry.hooks):
                registry.remove_hook(name, recurse=False)
            del module._diffusers_hook
            vars(module).pop("forward", None)


def first_block_cache(threshold: float) -> Enable:
    config = hooks.FirstBlockCacheConfig(threshold=threshold)
    return diffusers_cache(lambda _, model: hooks.apply_first_block_cache(model, config))


def taylorseer(interval: int, lite: bool) -> Enable:
    """TaylorSeer.

    Args:
        interval: one of so many steps is computed.
        lite: predict the output of the model, not that of every attention layer.
    """
    config = hooks.TaylorSeerCacheConfig(
        cache_interval=interval,
        use_lite_mode=lite,
        cache_identifiers=None if lite else [r".*blocks\.\d+\.attn[12]?"],
        taylor_factors_dtype=torch.float32,
    )
    return diffusers_cache(lambda _, model: hooks.apply_taylorseer_cache(model, config))


def fastercache(below: float) -> Enable:
    """FasterCache.

    Args:
        below: timestep below which attention and the unconditional branch may be skipped.
    """

    def apply(testbed: Testbed, model: nn.Module) -> None:
        scheduler = testbed.pipe.scheduler
        config = hooks.FasterCacheConfig(
            spatial_attention_timestep_skip_range=(-1, below),
            unconditional_batch_timestep_skip_range=(-1, below),
            attention_weight_callback=lambda _: 0.5,
            tensor_format="BCHW",
            current_timestep_callback=lambda: float(scheduler.timesteps[scheduler.step_index or 0]),
            _unconditional_conditional_input_kwargs_identifiers=[
                "hidden_states", "encoder_hidden_states", "timestep", "pooled_projections"
            ],
        )  # fmt: skip
        hooks.apply_faster_cache(model, config)

    return diffusers_cache(apply)


def seacache(threshold: float, **options: Any) -> Enable:
    """SeaCache; `options` are those of `SeaCacheConfig`."""

    def apply(testbed: Testbed, model: nn.Module) -> None:
        def raw_vision(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
            """The latent of one branch of guidance; both have the same."""
            return [testbed.from_pipeline(kwargs["hidden_states"])[0][:, None]]

        adapter = {} if testbed.is_video else {"power_exp": 2.0, "raw_vision_callback": raw_vision}
        hooks.apply_sea_cache(
            model, hooks.SeaCacheConfig(threshold=threshold, **adapter, **options)
        )

    return diffusers_cache(apply)


class MagCacheRatios:
    """MagCache's ratios for each ground, from its own calibration on one tuning pair."""

    def __init__(self) -> None:
        self._ratios: dict[Ground, list[float]] = {}

    def for_testbed(self, testbed: Testbed) -> list[float]:
        ground = testbed.ground
        if ground not in self._ratios:
            config = hooks.MagCacheConfig(calibrate=True, num_inference_steps=ground.steps)
            calibrate = diffusers_cache(lambda _, model: hooks.apply_mag_cache(model, config))
            printed = io.StringIO()
            with calibrate(testbed) as pipe, contextlib.redirect_stdout(printed):
                sigmas = testbed.sigmas(ground.steps)
                sample(testbed, DIFFUSERS, pipe, testbed.tuning_pairs(1), sigmas)
            lines = [line for line in printed.getvalue().splitlines() if line.startswith("[1.0")]
            by_branch = torch.tensor([ast.literal_eval(line) for line in lines])
            self._ratios[ground] = by_branch.mean(0).tolist()
        return self._ratios[ground]


def magcache(ratios: MagCacheRatios, threshold: float, **options: Any) -> Enable:
    @contextmanager
    def enable(testbed: Testbed) -> Iterator[Any]:
        config = hooks.MagCacheConfig(
            threshold=threshold,
            num_inference_steps=testbed.ground.steps,
            mag_ratios=ratios.for_testbed(testbed),
            **options,
        )
        with diffusers_cache(lambda _, model: hooks.apply_mag_cache(model, config))(
            testbed
        ) as pipe:
            yield pipe

    return enable


# --- cache-dit -----------------------------------------------------------------------------------


def dbcache(threshold: float, first: int, warmup: int, taylor: bool) -> Enable:
    """cache-dit's DBCache.

    Args:
        threshold: of the residual's change.
        first: number of blocks at the start that are always computed.
        warmup: number of steps at the start that are always computed.
        taylor: predict by TaylorSeer.
    """

    @contextmanager
    def enable(testbed: Testbed) -> Iterator[Any]:
        import cache_dit

        config = cache_dit.DBCacheConfig(
            Fn_compute_blocks=first,
            Bn_compute_blocks=0,
            residual_diff_threshold=threshold,
            max_warmup_steps=warmup,
            enable_separate_cfg=True if isinstance(testbed.pipe, FluxPipeline) else None,
        )
        calibrator = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1) if taylor else None
        transformer = testbed.pipe.transformer
        with last_block_returns_text(transformer), restored_on_exit(transformer):
            cache_dit.enable_cache(testbed.pipe, cache_config=config, calibrator_config=calibrator)
            try:
                yield testbed.pipe
            finally:
                cache_dit.disable_cache(testbed.pipe)

    return enable
