"""How each method is switched on, and off again, on a testbed.

A switch is called with the testbed and gives a context, in which what is to be sampled (a
ComfyUI patcher or a diffusers pipeline) has the method on. Where a peer lacks what it needs on a
model, it is given that here (HELP says so in the results).
"""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import cache_dit
import torch
from diffusers import hooks
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.hooks.hooks import CacheContext, HookRegistry, _set_cache_context
from diffusers.models.attention import JointTransformerBlock
from torch import Tensor, nn

from benchmarks.sampling import sample
from benchmarks.testbeds import DIFFUSERS, Pair, Testbed
from teacache.config import TeaCacheConfig
from teacache.hosts.comfyui.headless.boot import PACK
from teacache.profiles.calibrated import Calibration
from teacache.profiles.plans import steps_for
from teacache.profiles.store import PARTIAL_SUFFIX, ProfileStore

HELP = (
    "EasyCache changes its input in place, which spoils the picture in float32 (there is no copy "
    "by a change of type): it gets a copy. ComfyUI's SD3 model does not call the wrapper that "
    "EasyCache hangs on: it is called around the model's forward, as other models do.",
    "SD3 in diffusers gives no cache context: each step gets one. Its last block returns no text, "
    "which FirstBlockCache, SeaCache, TaylorSeer (lite) and DBCache cannot take: it returns the "
    "text that it was given.",
    "SeaCache on SD3 takes the latent as its raw vision and exponent 2, that of pictures. MagCache "
    "is calibrated by its own calibration on one tuning caption. TaylorSeer's own patterns for "
    "attention name none of Wan's layers: they are named to it.",
)
Switch = Callable[[Testbed], AbstractContextManager[Any]]
Apply = Callable[[Testbed, nn.Module], None]
SKIP_ALL = 90.0
CALIBRATED_ON = 6
PROFILES = PACK / "output" / "benchmarks" / "profiles"


# --- ComfyUI -------------------------------------------------------------------------------------


@contextmanager
def nothing_comfyui(bed: Testbed) -> Iterator[Any]:
    yield bed.patcher


def teacache_comfyui(**config: Any) -> Switch:
    @contextmanager
    def switch(bed: Testbed) -> Iterator[Any]:
        from teacache.hosts.comfyui.patch import apply_teacache

        yield apply_teacache(bed.patcher, TeaCacheConfig(**config))[0]

    return switch


class Planned:
    """Our plans for a model, made once by our own calibration on some tuning captions."""

    def __init__(self) -> None:
        self._calibrations: dict[str, Calibration] = {}

    def at(self, speedup: float) -> Switch:
        @contextmanager
        def switch(bed: Testbed) -> Iterator[Any]:
            from teacache.calibration.override import RunOverride
            from teacache.hosts.comfyui.patch import apply_teacache

            if bed.name not in self._calibrations:
                self._calibrations[bed.name] = calibrated(bed)
            plan = self._calibrations[bed.name].nearest_plan(steps_for(bed.steps, speedup))
            yield apply_teacache(bed.patcher, TeaCacheConfig(), override=RunOverride(plan))[0]

        return switch


def calibrated(bed: Testbed) -> Calibration:
    """What `Calibrate TeaCache` learns on `CALIBRATED_ON` tuning captions; kept for later runs."""
    from teacache.calibration.calibrator import Calibrator
    from teacache.calibration.journal import Journal
    from teacache.hosts.comfyui.backend import ModelCalibrationBackend, Prompt, SamplerSettings

    store, name = ProfileStore(PROFILES), f"{bed.name}-{bed.digest()}-{bed.steps}-{bed.guidance:g}"
    if name in store.names():
        return store.load(name)
    prompts = [
        Prompt(bed.condition([caption]), bed.condition([""]), seed, caption)
        for seed, caption in enumerate(bed.tuning[:CALIBRATED_ON])
    ]
    settings = SamplerSettings(bed.steps, bed.guidance, "euler", "simple")
    latent = {"samples": torch.zeros(1, *bed.latent)}
    backend = ModelCalibrationBackend(bed.patcher, latent, settings, prompts)
    journal = Journal(PROFILES / f"{name}{PARTIAL_SUFFIX}", backend.key)
    with torch.inference_mode():
        calibration = Calibrator(backend, name, journal).run()
    store.save(calibration)
    journal.remove()
    return calibration


def lazycache(threshold: float) -> Switch:
    """ComfyUI's LazyCache node with its default range."""

    @contextmanager
    def switch(bed: Testbed) -> Iterator[Any]:
        from comfy_extras.nodes_easycache import LazyCacheNode

        yield LazyCacheNode.execute(bed.patcher, threshold, 0.15, 0.95, False).args[0]

    return switch


def easycache(threshold: float) -> Switch:
    """ComfyUI's EasyCache node with its default range, on a model that calls its wrapper."""

    @contextmanager
    def switch(bed: Testbed) -> Iterator[Any]:
        from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
        from comfy_extras.nodes_easycache import EasyCacheNode

        kind = WrappersMP.DIFFUSION_MODEL

        def own_input(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            found: Tensor = executor(x.clone(), *args, **kwargs)
            return found

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            wrappers = get_all_wrappers(kind, kwargs["transformer_options"])
            executor = WrapperExecutor.new_class_executor(own_forward, model, wrappers)
            found: Tensor = executor.execute(x, *args, **kwargs)
            return found

        model = bed.patcher.model.diffusion_model
        own_forward = model.forward
        patcher = bed.patcher.clone()
        patcher.add_wrapper_with_key(kind, "own_input", own_input)
        patcher = EasyCacheNode.execute(patcher, threshold, 0.15, 0.95, False).args[0]
        if bed.frames:
            yield patcher
            return
        model.forward = forward
        try:
            yield patcher
        finally:
            del model.forward

    return switch


# --- diffusers -----------------------------------------------------------------------------------


@contextmanager
def nothing_diffusers(bed: Testbed) -> Iterator[Any]:
    yield bed.pipe


def teacache_diffusers(threshold: float, **config: Any) -> Switch:
    @contextmanager
    def switch(bed: Testbed) -> Iterator[Any]:
        from teacache.hosts.diffusers.enable import teacache

        with teacache(bed.pipe, threshold, **config):
            yield bed.pipe

    return switch


class TextKept(JointTransformerBlock):  # type: ignore[misc]
    """SD3's last block, giving back the text it was given where it would give None."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        _, image = super().forward(
            hidden_states, encoder_hidden_states, temb, joint_attention_kwargs
        )
        return encoder_hidden_states, image


@contextmanager
def text_kept(transformer: nn.Module) -> Iterator[None]:
    """Every block returns a text tensor. The model ignores the last one's."""
    block = [part for part in transformer.children() if isinstance(part, nn.ModuleList)][-1][-1]
    if type(block) is not JointTransformerBlock:
        yield
        return
    TransformerBlockRegistry.register(
        TextKept,
        TransformerBlockMetadata(
            return_hidden_states_index=1, return_encoder_hidden_states_index=0
        ),
    )
    block.__class__ = TextKept
    try:
        yield
    finally:
        block.__class__ = JointTransformerBlock


@contextmanager
def step_contexts(bed: Testbed) -> Iterator[None]:
    """What pipelines with `cache_context` tell the caches; the one for SD3 has none."""

    def tell(transformer: nn.Module, args: Any) -> None:
        scheduler = bed.pipe.scheduler
        step = scheduler.step_index or 0
        context = CacheContext(
            "both",
            step_index=step,
            num_inference_steps=scheduler.num_inference_steps,
            sigma=float(scheduler.sigmas[step]),
        )
        _set_cache_context(transformer, context)

    if bed.frames:
        yield
        return
    hook = bed.pipe.transformer.register_forward_pre_hook(tell)
    try:
        yield
    finally:
        hook.remove()


def diffusers_cache(apply: Apply) -> Switch:
    """One of `diffusers.hooks`, with all its hooks taken off afterwards."""

    @contextmanager
    def switch(bed: Testbed) -> Iterator[Any]:
        transformer = bed.pipe.transformer
        with text_kept(transformer), step_contexts(bed):
            try:
                apply(bed, transformer)
                HookRegistry.check_if_exists_or_initialize(
                    transformer
                ).invalidate_child_registries_cache()
                yield bed.pipe
            finally:
                remove_hooks(transformer)

    return switch


def remove_hooks(transformer: nn.Module) -> None:
    for module in transformer.modules():
        registry = vars(module).get("_diffusers_hook")
        if registry is not None:
            for name in list(registry.hooks):
                registry.remove_hook(name, recurse=False)
            del module._diffusers_hook
            vars(module).pop("forward", None)


def first_block(threshold: float) -> Switch:
    config = hooks.FirstBlockCacheConfig(threshold=threshold)
    return diffusers_cache(lambda _, model: hooks.apply_first_block_cache(model, config))


def taylorseer(interval: int, lite: bool) -> Switch:
    """lite: forecast the model's output; else that of every attention layer."""
    config = hooks.TaylorSeerCacheConfig(
        cache_interval=interval,
        use_lite_mode=lite,
        cache_identifiers=None if lite else [r".*blocks\.\d+\.attn[12]?"],
        taylor_factors_dtype=torch.float32,
    )
    return diffusers_cache(lambda _, model: hooks.apply_taylorseer_cache(model, config))


def faster(below: float) -> Switch:
    """below: timestep from which on attention and the empty caption's branch may be skipped."""

    def apply(bed: Testbed, model: nn.Module) -> None:
        scheduler = bed.pipe.scheduler
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


def sea(threshold: float, **options: Any) -> Switch:
    """options: of `SeaCacheConfig`."""

    def pictures(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        """The latent, once: both branches of guidance have the same."""
        return [kwargs["hidden_states"][0][:, None]]

    def apply(bed: Testbed, model: nn.Module) -> None:
        adapter = {} if bed.frames else {"power_exp": 2.0, "raw_vision_callback": pictures}
        hooks.apply_sea_cache(
            model, hooks.SeaCacheConfig(threshold=threshold, **adapter, **options)
        )

    return diffusers_cache(apply)


class MagRatios:
    """MagCache's ratios of each model, found once by its own calibration on a tuning caption."""

    def __init__(self) -> None:
        self.known: dict[str, list[float]] = {}

    def of(self, bed: Testbed) -> list[float]:
        if bed.name not in self.known:
            config = hooks.MagCacheConfig(calibrate=True, num_inference_steps=bed.steps)
            calibrate = diffusers_cache(lambda _, model: hooks.apply_mag_cache(model, config))
            printed = io.StringIO()
            with calibrate(bed) as pipe, contextlib.redirect_stdout(printed):
                sample(bed, DIFFUSERS, pipe, [Pair(bed.tuning[0], 0)], bed.levels(bed.steps))
            lines = [line for line in printed.getvalue().splitlines() if line.startswith("[1.0")]
            found = torch.tensor([ast.literal_eval(line) for line in lines])
            self.known[bed.name] = found.mean(0).tolist()
        return self.known[bed.name]


def mag(ratios: MagRatios, threshold: float, **options: Any) -> Switch:
    @contextmanager
    def switch(bed: Testbed) -> Iterator[Any]:
        config = hooks.MagCacheConfig(
            threshold=threshold,
            num_inference_steps=bed.steps,
            mag_ratios=ratios.of(bed),
            **options,
        )
        with diffusers_cache(lambda _, model: hooks.apply_mag_cache(model, config))(bed) as pipe:
            yield pipe

    return switch


# --- cache-dit -----------------------------------------------------------------------------------


def dbcache(threshold: float, first: int, warmup: int, taylor: bool) -> Switch:
    """first: blocks that are always computed. warmup: steps that are."""

    @contextmanager
    def switch(bed: Testbed) -> Iterator[Any]:
        config = cache_dit.DBCacheConfig(
            Fn_compute_blocks=first,
            Bn_compute_blocks=0,
            residual_diff_threshold=threshold,
            max_warmup_steps=warmup,
        )
        calibrator = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1) if taylor else None
        with text_kept(bed.pipe.transformer):
            cache_dit.enable_cache(bed.pipe, cache_config=config, calibrator_config=calibrator)
            try:
                yield bed.pipe
            finally:
                cache_dit.disable_cache(bed.pipe)

    return switch
