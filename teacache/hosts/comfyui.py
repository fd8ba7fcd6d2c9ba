"""TeaCache in ComfyUI: one wrapper on the model patcher, everything else made per sampling run.

Only `OUTER_SAMPLE` is registered on the patcher. When sampling starts, the wrappers that need
the run's state are added to that run's own copy of the model options, last of all, so that they
are innermost: blocks that other nodes swap in (torch.compile) are what the stand-ins wrap.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ..blocks import AdapterFailed, BlockStack, reading
from ..calibration.trial import Trial
from ..choice import Choice
from ..config import TeaCacheConfig
from ..decision import Decision, ReconsiderEvaluation, ReconsiderStep
from ..description import describe
from ..families import (
    Family,
    Sampling,
    class_name,
    find_family,
    find_untouched,
    unwrap_compiled,
)
from ..method import Solver
from ..model_call import ModelCall, WholeCall
from ..presets import Known, choose
from ..profiles import Profile, get_profile, load_profiles
from ..profiles.calibrated import Calibration
from ..profiles.store import named_calibration
from ..report import RunReport
from ..run import Listener, Run
from .comfyui_conditions import conditions_of, guidance_of, profile_store
from .other_caches import answers_evaluations, stacked_caches
from .samplers import boundaries, phase, solver_of

KEY = "teacache"
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
            _SamplingRun(run, executor.class_obj).attach(executor.class_obj.model_options)
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


class _SamplingRun:
    """The inner wrappers of one sampling run, and its block stack."""

    def __init__(self, run: Run, guider: Any) -> None:
        self._run = run
        self._guider = guider
        self._boundaries: list[float] | None = None
        self._stack: BlockStack | None = None
        self._decision: Decision | None = None

    def attach(self, model_options: dict[str, Any]) -> None:
        wrappers: list[tuple[str, Callable[..., Any]]] = [
            (WrappersMP.PREDICT_NOISE, self.predict_noise)
        ]
        if not self._run.method.whole:
            wrappers += [
                (WrappersMP.CALC_COND_BATCH, self.calc_cond_batch),
                (WrappersMP.APPLY_MODEL, self.apply_model),
            ]
        for kind, wrapper in wrappers:
            comfy.patcher_extension.add_wrapper_with_key(
                kind, KEY, wrapper, model_options, is_model_options=True
            )

    def predict_noise(
        self,
        executor: Any,
        x: torch.Tensor,
        timestep: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        self._run.begin_evaluation(timestep, x.device)

        def evaluate() -> torch.Tensor:
            try:
                predicted: torch.Tensor = executor(x, timestep, *args, **kwargs)
            except ReconsiderEvaluation as demanded:
                self._run.reconsider(demanded.reason)
                predicted = executor(x, timestep, *args, **kwargs)
            return predicted

        whole = self._run.method.whole and self._run.sigma > 0
        result = self._whole(x, evaluate) if whole else evaluate()
        if self._run.observer is not None and self._run.sigma > 0:
            self._run.observer.prediction(self._run.step, (x - result) / self._run.sigma)
        self._run.end_evaluation()
        return result

    def _whole(self, x: torch.Tensor, evaluate: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The denoised latent after guidance, evaluated or continued.

        What is continued is the derivative (x - denoised) / sigma, along which samplers step.
        """
        run = self._run
        layout = (tuple(x.shape), x.dtype, str(x.device), self._phase())
        decision = run.decide("prediction")
        run.consider_latent(decision, x)
        call = WholeCall(run, decision, "prediction", layout)
        if call.skipping:
            return x - run.sigma * call.predict(x)
        denoised = evaluate()
        derivative = (x - denoised) / run.sigma
        corrected = call.observe(derivative)
        return denoised if corrected is derivative else x - run.sigma * corrected

    def _phase(self) -> Hashable:
        """Which conds, ControlNets and scheduled weights are in force."""
        if self._boundaries is None:
            self._boundaries = boundaries(self._guider.conds)
        return phase(self._boundaries, self._run.sigma)

    def calc_cond_batch(
        self,
        executor: Any,
        model: Any,
        conds: Any,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict[str, Any],
    ) -> Any:
        track = _track_key(model_options.get("transformer_options", {}))
        decision = self._run.decide(track, window=("frames", track[0]))
        self._run.consider_latent(decision, x)
        outer, self._decision = self._decision, decision
        try:
            try:
                return executor(model, conds, x, timestep, model_options)
            except ReconsiderStep:
                decision.restart()
                return executor(model, conds, x, timestep, model_options)
        finally:
            self._decision = outer

    def apply_model(
        self,
        executor: Any,
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: torch.Tensor | None = None,
        c_crossattn: torch.Tensor | None = None,
        control: dict[str, Any] | None = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        options = {} if transformer_options is None else transformer_options
        arguments = (x, t, c_concat, c_crossattn, control, options)
        branches = _branches(options)
        if self._decision is None or not branches or x.shape[0] % len(branches):
            return executor(*arguments, **kwargs)
        base_model = executor.class_obj
        stack = self._prepare(base_model, x.device)
        if stack is None:
            return executor(*arguments, **kwargs)
        given = _layout((x, c_concat, c_crossattn, kwargs))
        layout = (given, str(x.device), _control(control), self._phase())
        with stack.installed(ModelCall(self._run, self._decision, branches, layout)):
            return executor(*arguments, **kwargs)

    def _prepare(self, model: Any, device: torch.device) -> BlockStack | None:
        """The block stack, ready to decide; None where the model runs without the cache."""
        run = self._run
        if run.gave_up:
            return None
        try:
            if self._stack is None:
                transformer = unwrap_compiled(model.diffusion_model)
                with reading():
                    leading = run.method.indicator == "first_block"
                    self._stack = BlockStack(
                        transformer, run.family.lists, run.family.sides, leading
                    )
            run.plan(lambda levels: self._embed(model, levels, device))
        except AdapterFailed as failure:
            run.give_up(failure)
            return None
        return self._stack

    def _embed(self, model: Any, levels: list[float], device: torch.device) -> torch.Tensor:
        family = self._run.family
        embed = (
            family.project_timesteps
            if self._run.reading == "timestep_projection"
            else family.embed_timesteps
        )
        assert embed is not None
        timesteps = model.model_sampling.timestep(torch.tensor(levels, device=device)).float()
        return embed(unwrap_compiled(model.diffusion_model), timesteps)


def _with_room(config: TeaCacheConfig) -> TeaCacheConfig:
    """`config`, keeping in main memory where ComfyUI wants the device's back (--lowvram, --novram)
    and the user did not decide."""
    state = comfy.model_management.VRAMState
    short = comfy.model_management.vram_state in (state.LOW_VRAM, state.NO_VRAM)
    return (
        replace(config, cache_device="cpu") if short and config.cache_device == "auto" else config
    )


def _branches(options: dict[str, Any]) -> list[Hashable]:
    """The branches in a batch, in order; empty where they are not told.

    A cond's own identity is not enough: ComfyUI gives the negative that stands opposite a positive
    with an area the identity of that positive.
    """
    if not options.get("uuids"):
        return []
    return list(zip(options["uuids"], options["cond_or_uncond"], strict=True))


def _track_key(options: dict[str, Any]) -> tuple[Hashable, Hashable, Hashable]:
    """Which context window, and which pass: the other nodes' patches that are in force."""
    window = options.get("context_window")
    frames = tuple(window.index_list) if window is not None else None
    return (
        frames,
        _patches(options.get("patches_replace", {})),
        _patches(options.get("patches", {})),
    )


def _patches(tree: dict[str, Any]) -> Hashable:
    """Names and places of patches, without their identity, which may change from call to call."""
    return tuple(
        (str(name), tuple(map(str, places)) if isinstance(places, dict) else len(places))
        for name, places in tree.items()
    )


def _layout(value: Any) -> Hashable:
    """Shapes and types of the tensors in `value`, recursively; what is no tensor is passed over."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape[1:]), value.dtype
    if isinstance(value, dict):
        return tuple((name, _layout(item)) for name, item in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(_layout(item) for item in value)
    return None


def _control(control: dict[str, Any] | None) -> Hashable:
    """Which blocks a ControlNet adds to: it changes when the control starts or ends."""
    if control is None:
        return None
    return tuple(
        (name, tuple(item is not None for item in items)) for name, items in control.items()
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
