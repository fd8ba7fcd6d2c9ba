"""TeaCache in ComfyUI: one wrapper on the model patcher, everything else made per sampling run.

Only `OUTER_SAMPLE` is registered on the patcher. When sampling starts, the wrappers that need
the run's state are added to that run's own copy of the model options, last of all, so that they
are innermost: blocks that other nodes swap in (torch.compile) are what the stand-ins wrap.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...calibration.override import Trial
from ...config import TeaCacheConfig
from ...engine.choice import Choice
from ...engine.description import describe
from ...engine.presets import Known, choose
from ...engine.run import Listener, Run
from ...engine.strategy import Solver
from ...families.registry import (
    Family,
    Sampling,
    class_name,
    find_family,
    find_untouched,
    unwrap_compiled,
)
from ...families.streams import AdapterFailed, reading
from ...profiles.calibrated import Calibration
from ...profiles.profile import Profile, get_profile, load_profiles
from ...profiles.store import named_calibration
from ...report import RunReport
from .conditions import conditions_of, guidance_of, profile_store
from .other_caches import answers_evaluations, stacked_caches
from .samplers import solver_of
from .wrappers import KEY, SamplingRun

KEPT_REPORTS = 8
FINGERPRINT_VALUES = 1024
PURE_NOISE = 0.95
"""Share of the model's highest noise level from which on a run counts as starting from noise."""
log = logging.getLogger("teacache")


class CachedModel:
    """What `apply_teacache` put on a patcher: the wrapper itself, and its last finished reports.

    profile: the one that goes by the model alone. calibration: the user's own, where the settings
    name one; else one is looked for when a run starts. trial: of a calibration, what every run
    does instead of what the settings say.
    """

    def __init__(
        self,
        config: TeaCacheConfig,
        family: Family,
        profile: Profile,
        listener: Listener | None = None,
        calibration: Calibration | None = None,
        trial: Trial | None = None,
    ) -> None:
        self.config = config
        self.family = family
        self.profile = profile
        self.calibration = calibration
        self._trial = trial
        self._by_run = config.profile == "auto" and family.run_profile is not None
        self._reports: deque[tuple[bytes, RunReport]] = deque(maxlen=KEPT_REPORTS)
        self._listener = listener

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
        levels: list[float] = sigmas.tolist()
        solver = solver_of(sampler)
        if answers_evaluations(executor.class_obj.model_options):
            solver = replace(solver, single=False, euler=False)
        choice = self._choose(executor.class_obj, solver, latent_image, levels)
        choice = replace(choice, config=_with_room(choice.config))
        observer = None if self._trial is None else self._trial.observer
        run = Run(choice, self.family, solver, levels, "comfyui", self._listener, observer)
        if choice.threshold > 0:
            stacked = stacked_caches(executor.class_obj.model_patcher)
            if stacked:
                run.report.warn(stacked)
                log.warning("TeaCache: %s", stacked)
            SamplingRun(run, executor.class_obj).attach(executor.class_obj.model_options)
        outcome, mark = "failed", b""
        try:
            result = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
            outcome, mark = "done", _fingerprint(result)
            return result
        except comfy.model_management.InterruptProcessingException:
            outcome = "interrupted"
            raise
        finally:
            report = run.finish(outcome)
            self._reports.append((mark, report))
            _log_report(report)

    def _choose(
        self, guider: Any, solver: Solver, latent: torch.Tensor, levels: list[float]
    ) -> Choice:
        model = guider.model_patcher
        profile = self._profile_for(model, latent, levels)
        named, calibration = self.calibration is not None, self.calibration
        store = profile_store()
        identify = named or self._trial is not None or bool(store.names())
        conditions = conditions_of(
            model, self.family, solver.name, levels, latent, guidance_of(guider), identify
        )
        if not named and self.config.profile == "auto":
            calibration = store.find(conditions)
        known = Known(profile, conditions, solver, calibration, named)
        if self._trial is not None:
            return self._trial.choice(self.config, known)
        return choose(self.config, known)

    def _profile_for(
        self, model: ModelPatcher, latent: torch.Tensor, levels: list[float]
    ) -> Profile:
        choose = self.family.run_profile
        if not self._by_run or choose is None:
            return self.profile
        highest = float(model.get_model_object("model_sampling").sigma_max)
        whole = levels[-1] == 0.0 and levels[0] >= PURE_NOISE * highest
        transformer = unwrap_compiled(model.get_model_object("diffusion_model"))
        name = choose(transformer, Sampling(tuple(latent.shape), whole))
        return get_profile(name, self.family.id, load_profiles())

    def describe(self) -> str:
        """One line for the node: what was recognised, and what it will do."""
        return describe(self.config, self.family, self.profile, self.calibration)

    def report_for(self, samples: torch.Tensor | None = None) -> RunReport | None:
        """The report of the run that gave `samples`; of the newest run where none is known."""
        newest = [report for _, report in self._reports]
        matching: list[RunReport] = []
        if samples is not None:
            mark = _fingerprint(samples)
            matching = [report for known, report in self._reports if known == mark]
        return next(reversed(matching or newest), None)


def _with_room(config: TeaCacheConfig) -> TeaCacheConfig:
    """`config`, keeping in main memory where ComfyUI wants the device's back (--lowvram, --novram)
    and the user did not decide."""
    state = comfy.model_management.VRAMState
    short = comfy.model_management.vram_state in (state.LOW_VRAM, state.NO_VRAM)
    return (
        replace(config, cache_device="cpu") if short and config.cache_device == "auto" else config
    )


def _fingerprint(samples: torch.Tensor) -> bytes:
    """Tells the latents of different runs apart, by their first values."""
    if samples.is_nested:
        samples = samples.unbind()[0]
    head = samples.detach().flatten()[:FINGERPRINT_VALUES].float().cpu()
    return head.numpy().tobytes()


def _log_report(report: RunReport) -> None:
    log.info("TeaCache: %s", report.summary)
    if report.advice:
        log.info("TeaCache: %s", report.advice)


def recommended(model: ModelPatcher) -> tuple[Family, Profile] | None:
    """The family of `model` and its default profile; None for a model that is left as it is."""
    transformer = unwrap_compiled(model.get_model_object("diffusion_model"))
    family = find_family(transformer)
    if family is None:
        return None
    try:
        with reading():
            name = family.profile(transformer)
    except AdapterFailed as failure:
        log.warning("TeaCache: %s: runs without the cache: %s", family.name, failure)
        return None
    return family, get_profile(name, family.id, load_profiles())


def describe_unsupported(model: ModelPatcher) -> str:
    """Why a model is left as it is."""
    transformer = model.get_model_object("diffusion_model")
    known = find_untouched(transformer)
    if known is not None:
        return f"{known.name}: {known.reason}: the model is left as it is."
    name = class_name(transformer).rsplit(".", 1)[-1]
    return f"{name} is not a transformer that TeaCache knows: the model is left as it is."


def apply_teacache(
    model: ModelPatcher,
    config: TeaCacheConfig,
    listener: Listener | None = None,
    trial: Trial | None = None,
) -> tuple[ModelPatcher, CachedModel | None]:
    """A clone of `model` that samples with the cache, and the cache's handle.

    An unknown model comes back as a clone without a cache, and None. Raises ConfigError when the
    profile is unknown or belongs to another family. An earlier cache on `model` is replaced.
    """
    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    found = recommended(model)
    if found is None:
        return clone, None
    family, profile = found
    calibration = None
    if config.profile in (shipped := load_profiles()):
        profile = get_profile(config.profile, family.id, shipped)
    elif config.profile != "auto":
        calibration = named_calibration(config.profile, family.id, profile_store())
    cached = CachedModel(config, family, profile, listener, calibration, trial)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, cached)
    return clone, cached


def cached_model(model: ModelPatcher) -> CachedModel | None:
    """The cache that `apply_teacache` put on `model`, if any."""
    wrappers: Sequence[Callable[..., Any]] = model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)
    return next((w for w in wrappers if isinstance(w, CachedModel)), None)
