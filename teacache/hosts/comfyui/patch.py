"""TeaCache in ComfyUI: one wrapper on the model patcher, everything else made per sampling run.

Only `OUTER_SAMPLE` is registered on the patcher. When sampling starts, the wrappers that need the
run's state are added to that run's own copy of the model options, last of all, so that they are
innermost: blocks that other nodes swap in (torch.compile) are what the proxies wrap.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.sampler_helpers import prepare_mask

from ...calibration.override import RunOverride
from ...config import TeaCacheConfig
from ...digest import digest
from ...engine.regions import LatentLayout
from ...engine.run import Run, RunListener
from ...families.spec import RunScope, unwrap_compiled
from ...families.streams import FamilyMismatch, reading_model
from ...report import RunReport
from ..common import KEPT_REPORTS, CacheHandle, Recognition, recognise, why_unsupported
from .conditions import conditions_of, guidance_of, profile_store
from .other_caches import has_prediction_wrappers, stacked_caches_warning
from .samplers import sampler_traits
from .wrappers import KEY, RunWrappers

DIGEST_VALUES = 1024
PURE_NOISE = 0.95
"""Share of the model's highest noise level from which on a run counts as starting from noise."""
UNTOUCHED = TeaCacheConfig(rel_l1_thresh=None)
log = logging.getLogger("teacache")


class CachedModel(CacheHandle):
    """The cache on a model patcher: an `OUTER_SAMPLE` wrapper, and the last finished runs."""

    def __init__(
        self,
        config: TeaCacheConfig,
        recognition: Recognition,
        listener: RunListener | None = None,
        override: RunOverride | None = None,
    ) -> None:
        super().__init__(config, recognition, "comfyui", listener, override)
        self._digests: deque[str] = deque(maxlen=KEPT_REPORTS)

    def __call__(
        self,
        executor: Any,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        sampler: Any,
        sigmas: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """`OUTER_SAMPLE`: one sampling run."""

        def sample() -> Any:
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)

        levels = sigmas.tolist()
        if self.config.rel_l1_thresh == 0:
            return self.reported(sample, partial(self.off_report, levels))
        guider = executor.class_obj
        layout = _latent_layout(latent_image, guider.model_patcher.load_device, *args, **kwargs)
        new_run = partial(self._run_for, guider, sampler, latent_image, layout)

        def restart(run: Run, other_levels: list[float]) -> Run:
            if run.position.evaluations:
                self._digests.append("")
                self.keep(run.finish("done"))
            return new_run(other_levels)

        wrappers = RunWrappers(new_run(levels), guider, restart)

        def sample_cached() -> Any:
            with wrappers.attached():
                return sample()

        return self.reported(sample_cached, lambda outcome: wrappers.run.finish(outcome))

    def reported(
        self,
        sample: Callable[[], Any],
        report: Callable[[str], RunReport],
        latent_in: Callable[[Any], Any] = lambda result: result,
    ) -> Any:
        """The result of `sample`, whose report is kept however it ends.

        Args:
            sample: samples.
            report: makes the report of the outcome.
            latent_in: gives the latent of the result, by which its report is found again.
        """
        outcome, result_digest = "failed", ""
        try:
            result = sample()
            outcome, result_digest = "done", _digest(latent_in(result))
            return result
        except comfy.model_management.InterruptProcessingException:
            outcome = "interrupted"
            raise
        finally:
            self._digests.append(result_digest)
            self.keep(report(outcome))

    def _run_for(
        self,
        guider: Any,
        sampler: Any,
        latent: torch.Tensor,
        layout: LatentLayout,
        sigmas: list[float],
    ) -> Run:
        model: ModelPatcher = guider.model_patcher
        traits = sampler_traits(sampler)
        if has_prediction_wrappers(guider.model_options):
            traits = replace(traits, one_eval_per_step=False, euler=False)

        def scope() -> RunScope:
            highest = float(model.get_model_object("model_sampling").sigma_max)
            full_range = sigmas[-1] == 0.0 and sigmas[0] >= PURE_NOISE * highest
            return RunScope(tuple(latent.shape), full_range)

        run = self.new_run(
            in_available_memory(self.config),
            profile_store(),
            model.get_model_object("diffusion_model"),
            scope,
            traits,
            lambda identify: conditions_of(
                model, self.family, traits.name, sigmas, latent, guidance_of(guider), identify
            ),
            layout=layout,
        )
        stacked = stacked_caches_warning(model, sampler)
        if stacked:
            run.report.warn(stacked)
            self.log_once(logging.WARNING, stacked)
        return run

    def report_for(self, samples: torch.Tensor | None = None) -> RunReport | None:
        """The report of the run that gave `samples`; of the newest run where none is known."""
        if samples is not None:
            wanted = _digest(samples)
            pairs = zip(reversed(self._digests), reversed(self.reports), strict=True)
            for known, report in pairs:
                if known == wanted:
                    return report
        return self.reports[-1] if self.reports else None


def _latent_layout(
    latent: torch.Tensor,
    device: torch.device,
    denoise_mask: Any = None,
    callback: Any = None,
    disable_pbar: Any = False,
    seed: Any = None,
    latent_shapes: Any = (),
    **other: Any,
) -> LatentLayout:
    """How the latent is compared, from what `CFGGuider.outer_sample` is called with beside it.

    Older versions of ComfyUI bring the mask into the latent's shape only within that function.
    """
    mask = None
    if isinstance(denoise_mask, torch.Tensor):
        try:
            with reading_model():
                mask = prepare_mask(denoise_mask, latent.shape, device)
        except FamilyMismatch as mismatch:
            log.warning("TeaCache: the mask does not fit the latent: %s", mismatch)
    return LatentLayout(latent.shape, latent_shapes or (), mask)


def in_available_memory(config: TeaCacheConfig) -> TeaCacheConfig:
    """`config`, caching in main memory where ComfyUI runs with --lowvram or --novram and the user
    did not decide."""
    state = comfy.model_management.VRAMState
    short = comfy.model_management.vram_state in (state.LOW_VRAM, state.NO_VRAM)
    return (
        replace(config, cache_device="cpu") if short and config.cache_device == "auto" else config
    )


def _digest(samples: Any) -> str:
    """Tells the latents of different runs apart, by their first values; empty for no latent."""
    if not isinstance(samples, torch.Tensor):
        return ""
    if samples.is_nested:
        samples = samples.unbind()[0]
    return digest(samples, DIGEST_VALUES)


def recognise_model(model: ModelPatcher, config: TeaCacheConfig = UNTOUCHED) -> Recognition | None:
    """The family and profile of `model`; None for a model that is left as it is.

    Raises:
        ConfigError: the profile that `config` names is unknown or made for another family.
    """
    return recognise(model.get_model_object("diffusion_model"), config, profile_store())


def describe_unsupported(model: ModelPatcher) -> str:
    """Why a model is left as it is."""
    transformer = unwrap_compiled(model.get_model_object("diffusion_model"))
    return f"{why_unsupported(transformer)}: the model is left as it is."


def apply_teacache(
    model: ModelPatcher,
    config: TeaCacheConfig,
    listener: RunListener | None = None,
    override: RunOverride | None = None,
) -> tuple[ModelPatcher, CachedModel | None]:
    """A clone of `model` that samples with the cache; an earlier cache on `model` is replaced.

    Args:
        model: any model patcher.
        config: the user's settings.
        listener: receives the events of every run.
        override: of a calibration.

    Returns:
        The clone and its handle; None as the handle of an unknown model, whose clone is plain.

    Raises:
        ConfigError: the profile is unknown or made for another family.
    """
    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    recognition = recognise_model(model, config)
    if recognition is None:
        return clone, None
    handle = CachedModel(config, recognition, listener, override)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, handle)
    return clone, handle


def cached_model(model: ModelPatcher) -> CachedModel | None:
    """The cache that `apply_teacache` put on `model`, if any."""
    wrappers: Sequence[Callable[..., Any]] = model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)
    return next((w for w in wrappers if isinstance(w, CachedModel)), None)
