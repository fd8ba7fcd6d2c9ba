"""TeaCache on models of the pack ComfyUI-WanVideoWrapper.

They are patchers of ComfyUI's kind, on which the cache is kept as on others. The pack samples them
in a loop of its own that calls no wrapper. Its sampler's `process` is exchanged, once, for one that
looks for the cache on the model that it is given, and without one is the same. With one it runs
within `CachedWanVideo.sample`: the transformer's `forward` and the function that makes the
schedulers are replaced for as long as the run lasts.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import comfy.cli_args
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

import nodes

from ...config import LEARN, TeaCacheConfig
from ...engine.run import Run, RunListener
from ...engine.strategy import requested_strategy, threshold_of
from ...errors import ConfigError
from ...families.comfyui.wan_video import WAN_VIDEO, is_wan_video
from ...families.spec import RunScope
from ...families.streams import reading_model
from ...report import RunReport
from ..common import recognise
from .conditions import conditions_of, profile_store
from .patch import PURE_NOISE, CachedModel, cached_model, in_available_memory
from .wan_video_calls import WanVideoCalls, Windows, stretches_in
from .wan_video_schedulers import noise_levels, sampler_traits
from .wrappers import KEY, replaced

SAMPLER = "WanVideoSampler"
"""The pack's sampler node; its other samplers for such models are derived from it."""
MODULE = Path("wanvideo", "modules", "model.py")
"""In the folder of the pack, whatever that is called."""
OWN_CACHES = ("cache_args", "teacache_args")
"""Inputs of the sampler that bring a cache of the pack's own."""
SMALL = 1e-3
"""Noise levels below it count as none: schedules may end just above 0."""
log = logging.getLogger("teacache")


NO_SCHEDULERS = "the pack has no function get_scheduler, whose noise levels are needed"
COMPILED = "torch.compile takes the transformer as a whole; let it compile the blocks alone"
NEVER_CALLED = "the sampler did not call the model step by step"


class Schedulers:
    """The scheduler that the pack's sampler has made or was given last, and its timesteps."""

    def __init__(self, given: Any) -> None:
        self._latest: tuple[Any, Any] | None = None
        if isinstance(given, Mapping):
            self._latest = given["sample_scheduler"], given["timesteps"]

    def make(self, get_scheduler: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What `get_scheduler` makes of the arguments, which is remembered."""
        made = get_scheduler(*args, **kwargs)
        self._latest = made[0], made[1]
        return made

    @reading_model()
    def latest(self) -> tuple[Any, list[float]]:
        """The scheduler, and the noise levels of the run that it makes.

        Raises:
            FamilyMismatch: there is none, or its levels cannot be read.
        """
        if self._latest is None:
            raise LookupError("the sampler has no scheduler")
        scheduler, timesteps = self._latest
        return scheduler, noise_levels(scheduler, timesteps)


class CachedWanVideo(CachedModel):
    """The cache on a model of the pack, and the last finished runs."""

    def sample(
        self, call: Callable[[], Any], sampler: Any, module: ModuleType, given: Mapping[str, Any]
    ) -> Any:
        """One run of the pack's sampler.

        Args:
            call: samples.
            sampler: the object of the sampler node.
            module: in which the sampler is defined.
            given: its inputs by name.

        Returns:
            What `call` returns.

        Raises:
            ConfigError: an input brings a cache of the pack's own.
        """
        if self.config.rel_l1_thresh == 0:
            return self.reported(call, partial(self.off_report, []), _latent_in)
        _refuse_own_cache(given)
        model: ModelPatcher = given["model"]
        transformer = model.model.diffusion_model
        problem = "" if hasattr(module, "get_scheduler") else NO_SCHEDULERS
        if problem or _is_compiled_whole(model):
            return self.reported(
                call, partial(self._native_report, problem or COMPILED), _latent_in
            )
        schedulers = Schedulers(given.get("scheduler"))
        calls = WanVideoCalls(
            transformer,
            partial(self._new_run, model, schedulers),
            self._keep_loop,
            Windows(sampler),
            tuple(stretches_in([*given.values(), model.model_options])),
            _why_uncached(model, given),
        )

        def sample_cached() -> Any:
            with ExitStack() as stack:
                stack.enter_context(replaced(module, "get_scheduler", schedulers.make))
                stack.enter_context(replaced(transformer, "forward", calls.forward))
                return call()

        def report(outcome: str) -> RunReport:
            calls.end()
            if calls.run is None:
                return self._native_report(calls.problem or NEVER_CALLED, outcome)
            return calls.run.finish(outcome)

        return self.reported(sample_cached, report, _latent_in)

    def _keep_loop(self, run: Run) -> None:
        """Keep the report of a loop of the sampler, which goes on with another one."""
        self._digests.append("")
        self.keep(run.finish("done"))

    def _native_report(self, problem: str, outcome: str) -> RunReport:
        """The report of a run that was sampled without the cache because of `problem`."""
        why = f"{self.family.name}: runs without the cache: {problem}"
        log.warning("TeaCache: %s", why)
        threshold = threshold_of(self.config, self.profile, requested_strategy(self.config))
        return self.off_report([], outcome, threshold, [why])

    def _new_run(self, model: ModelPatcher, schedulers: Schedulers, latent: torch.Tensor) -> Run:
        """The run of a loop whose first call gives `latent` [channels, frames, height, width].

        Raises:
            FamilyMismatch: the noise levels cannot be read.
        """
        scheduler, sigmas = schedulers.latest()
        traits = sampler_traits(scheduler)
        rows = latent[None]
        full_range = sigmas[0] >= PURE_NOISE and sigmas[-1] < SMALL
        return self.new_run(
            in_available_memory(self.config),
            profile_store(),
            model.model.diffusion_model,
            lambda: RunScope(tuple(rows.shape), full_range),
            traits,
            lambda identify: conditions_of(
                model, self.family, traits.name, sigmas, rows, None, identify
            ),
        )


def _latent_in(result: Any) -> Any:
    """The sampled latent in what the sampler returns; None where it gives something else."""
    first = result[0] if isinstance(result, tuple) and result else None
    return first.get("samples") if isinstance(first, Mapping) else None


def _refuse_own_cache(given: Mapping[str, Any]) -> None:
    for name in OWN_CACHES:
        if given.get(name) is not None:
            raise ConfigError(
                f"{name}: the sampler would skip steps by a cache of its own as well; disconnect "
                "it, or take Apply TeaCache (WanVideo) out"
            )


def _is_compiled_whole(model: ModelPatcher) -> bool:
    """Whether the sampler puts the transformer itself into torch.compile, not its blocks."""
    options = model.model.pipeline.get("compile_args")
    return options is not None and not options.get("compile_transformer_blocks_only", False)


def _why_uncached(model: ModelPatcher, given: Mapping[str, Any]) -> str:
    """Why no step can be predicted from another one, if so; else empty."""
    options = model.model_options.get("transformer_options", {})
    if given.get("loop_args") is not None:
        return "loop_args moves the frames between the steps"
    if options.get("lora_scheduling_enabled"):
        return "a LoRA changes its strength from step to step"
    embeds = given.get("image_embeds")
    if isinstance(embeds, Mapping) and embeds.get("ttm_reference_latents") is not None:
        return "Time-to-move leaves out steps at the start, and exchanges parts of the latent"
    return ""


# --- attaching it --------------------------------------------------------------------------------


def wan_video_is_there() -> bool:
    """Whether ComfyUI has the pack, loaded already or about to be: packs load in any order."""
    if SAMPLER in nodes.NODE_CLASS_MAPPINGS:
        return True
    args = comfy.cli_args.args
    return any(
        (pack / MODULE).is_file()
        for folder in map(Path, folder_paths.get_folder_paths("custom_nodes"))
        if folder.is_dir()
        for pack in folder.iterdir()
        if pack.suffix != ".disabled"
        and not (args.disable_all_custom_nodes and pack.name not in args.whitelist_custom_nodes)
    )


def attach_to_sampler(sampler: Any) -> None:
    """Let runs of the pack's sampler class have the cache that is on their model.

    Without one, `process` is called as it was. Nothing happens where this was done before.
    """
    process = sampler.process
    if _is_ours(inspect.unwrap(process, stop=_is_ours)):
        return
    signature, module = inspect.signature(process), sys.modules[process.__module__]

    @functools.wraps(process)
    def process_with_cache(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs).arguments
        handle = cached_model(given["model"])
        if not isinstance(handle, CachedWanVideo):
            return process(self, *args, **kwargs)
        return handle.sample(partial(process, self, *args, **kwargs), self, module, given)

    setattr(process_with_cache, KEY, CachedWanVideo)
    sampler.process = process_with_cache


def _is_ours(process: Any) -> bool:
    """Whether `process` is the one that looks for the cache, of this copy of the library."""
    return vars(process).get(KEY) is CachedWanVideo


def apply_to_wan_video(
    model: ModelPatcher, config: TeaCacheConfig, listener: RunListener | None = None
) -> tuple[ModelPatcher, CachedWanVideo | None]:
    """A clone of `model` that the pack's sampler samples with the cache.

    Args:
        model: a patcher of the pack; an earlier cache on it is replaced.
        config: the user's settings.
        listener: receives the events of every run.

    Returns:
        The clone and its handle; None as the handle of a model that is not the pack's own.

    Raises:
        ConfigError: the profile is unknown or made for another family, or the preset is `learn`.
    """
    if config.preset == LEARN:
        raise ConfigError("preset: learn is not offered for models of WanVideoWrapper")
    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    transformer = model.model.diffusion_model
    sampler = nodes.NODE_CLASS_MAPPINGS.get(SAMPLER)
    if sampler is None or not is_wan_video(transformer):
        return clone, None
    recognition = recognise(transformer, config, profile_store(), WAN_VIDEO)
    if recognition is None:
        return clone, None
    attach_to_sampler(sampler)
    handle = CachedWanVideo(config, recognition, listener)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, handle)
    return clone, handle
