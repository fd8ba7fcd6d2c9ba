"""TeaCache on diffusers pipelines.

    handle = enable_teacache(pipe, rel_l1_thresh=0.2)
    image = pipe("a red apple").images[0]
    print(handle.report_for().summary)
    disable_teacache(pipe)

or `with teacache(pipe, 0.2) as handle: ...`. While it is on, the pipeline carries two attributes
of its own: `pipe.teacache`, the handle, and `pipe.progress_bar`, around whose bar every pipeline
runs its denoising loop. When the loop starts, hooks go on the transformers and the run's state is
made; when it ends, however it ends, both are gone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from ...calibration.override import Trial
from ...config import ConfigError, TeaCacheConfig
from ...engine.description import describe
from ...engine.presets import Known, choose
from ...engine.run import Listener, Run
from ...engine.strategy import Solver, asked_method
from ...families.registry import (
    Family,
    Sampling,
    class_name,
    find_family,
    find_untouched,
    unwrap_compiled,
)
from ...profiles.calibrated import Calibration
from ...profiles.conditions import Conditions, digest_of
from ...profiles.profile import Profile, get_profile, load_profiles, threshold_of
from ...profiles.store import ProfileStore, default_folder, named_calibration
from ...report import RunReport
from .branches import arguments_of, timestep_of
from .loop import DenoisingLoop, Forward, hooked, owner_of
from .noise_levels import CountedLevels, Levels, pipeline_levels
from .schedulers import OWN_LOOP, solver_of

HANDLE = "teacache"
BAR = "progress_bar"
TRANSFORMERS = ("transformer", "transformer_2")
KEPT_REPORTS = 8
PACKED = 3
"""Dimensions of a latent that is a list of tokens."""
log = logging.getLogger("teacache")

__all__ = ["CachedPipeline", "disable_teacache", "enable_teacache", "teacache"]


class UnsupportedModel(ConfigError):
    """The pipeline has no transformer that TeaCache knows."""


class CachedPipeline:
    """The cache on a pipeline or a transformer of the user's own loop, and its last reports.

    config, family, profile, threshold: what it runs with; `profile` is the one named before a
    run. reports: of finished runs, newest last.
    """

    def __init__(
        self,
        config: TeaCacheConfig,
        transformers: dict[str, nn.Module],
        listener: Listener | None,
        trial: Trial | None = None,
    ) -> None:
        self.config = config
        self.family, self.profile, self.calibration = _recognise(transformers, config)
        self.threshold = threshold_of(config, self.profile, asked_method(config))
        self.reports: deque[RunReport] = deque(maxlen=KEPT_REPORTS)
        self._listener = listener
        self._trial = trial
        self._undo = ExitStack()
        self._loop: DenoisingLoop | None = None

    def describe(self) -> str:
        """One line: what was recognised, and what it will do."""
        return describe(self.config, self.family, self.profile, self.calibration)

    def report_for(self) -> RunReport | None:
        """The report of the newest finished run, None before the first one."""
        return self.reports[-1] if self.reports else None

    def disable(self) -> None:
        """Take the cache off, and leave the pipeline or transformer as it was."""
        self._undo.close()

    def _run_for(
        self,
        levels: Levels,
        solver: Solver,
        experts: int,
        transformer: nn.Module,
        latent: tuple[int, ...],
    ) -> Run:
        by_run, profile = self.family.run_profile, self.profile
        if self.config.profile == "auto" and by_run is not None and latent:
            whole = levels.whole and experts == 1
            name = by_run(unwrap_compiled(transformer), Sampling(latent, whole))
            profile = get_profile(name, self.family.id, load_profiles())
        known = self._known(levels, solver, transformer, latent, profile)
        if self._trial is None:
            choice, observer = choose(self.config, known), None
        else:
            choice, observer = self._trial.choice(self.config, known), self._trial.observer
        return Run(
            choice, self.family, solver, levels.sigmas, "diffusers", self._listener, observer
        )

    def _known(
        self,
        levels: Levels,
        solver: Solver,
        transformer: nn.Module,
        latent: tuple[int, ...],
        profile: Profile,
    ) -> Known:
        named, calibration = self.calibration is not None, self.calibration
        store = ProfileStore(default_folder())
        identify = named or self._trial is not None or bool(store.names())
        parameters = unwrap_compiled(transformer).named_parameters()
        conditions = Conditions(
            family=self.family.id,
            model=digest_of(parameters) if identify else "unknown",
            patches="",  # LoRAs are parameters of their own here
            sampler=solver.name,
            sigmas=tuple(levels.sigmas),
            latent=latent[1:],
        )
        if not named and self.config.profile == "auto":
            calibration = store.find(conditions)
        return Known(profile, conditions, solver, calibration, named, len(latent) == PACKED)

    def _new_loop(
        self, transformers: dict[str, nn.Module], levels: Levels, solver: Solver
    ) -> DenoisingLoop:
        known = {
            place: unwrap_compiled(transformer)
            for place, transformer in transformers.items()
            if _same_family(find_family(transformer), self.family)
        }
        return DenoisingLoop(
            known or transformers,
            levels,
            lambda transformer, latent: self._run_for(
                levels, solver, len(known), transformer, latent
            ),
        )

    def _finish(self, loop: DenoisingLoop, outcome: str) -> None:
        report = loop.finish(outcome)
        self.reports.append(report)
        log.info("TeaCache: %s", report.summary)
        if report.advice:
            log.info("TeaCache: %s", report.advice)

    # --- a pipeline ------------------------------------------------------------------------------

    def attach(self, pipe: Any) -> None:
        """Every denoising loop of `pipe` runs with the cache from now on."""
        bar = pipe.progress_bar
        replaced = BAR in vars(pipe)

        def progress_bar(iterable: Any = None, total: int | None = None) -> _Bar:
            return _Bar(bar(iterable=iterable, total=total), self, pipe, total)

        def restore() -> None:
            if vars(pipe)[BAR] is progress_bar:
                if replaced:
                    pipe.progress_bar = bar
                else:
                    del pipe.progress_bar
            del pipe.teacache

        pipe.progress_bar = progress_bar
        pipe.teacache = self
        self._undo.callback(restore)

    @contextmanager
    def denoising(self, pipe: Any, total: int | None) -> Iterator[DenoisingLoop | None]:
        """One denoising loop of `pipe`. None within another one, and after `disable`."""
        if self._loop is not None or vars(pipe).get(HANDLE) is not self:
            yield None
            return
        levels, solver = pipeline_levels(pipe, total), solver_of(pipe.scheduler)
        loop = self._new_loop(_transformers(pipe), levels, solver)
        self._loop, outcome = loop, "failed"
        try:
            with ExitStack() as stack:
                if self.threshold > 0:
                    stack.enter_context(loop.attached())
                    stack.enter_context(loop.steering(pipe.scheduler))
                yield loop
            outcome = "interrupted" if "_interrupt" in vars(pipe) and pipe._interrupt else "done"
        except (KeyboardInterrupt, GeneratorExit):
            outcome = "interrupted"
            raise
        finally:
            self._loop = None
            self._finish(loop, outcome)

    # --- a bare transformer -----------------------------------------------------------------------

    def attach_to_transformer(self, transformer: nn.Module, num_steps: int) -> None:
        """Calls of `transformer` are taken for loops of `num_steps` evaluations."""
        levels = CountedLevels(num_steps)

        def close() -> None:
            nonlocal levels
            if self._loop is not None:
                self._loop.settle()
                self._finish(self._loop, "done" if levels.complete else "interrupted")
            self._loop = None
            levels = CountedLevels(num_steps)

        def answer(
            module: nn.Module,
            forward: Forward,
            context: str | None,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
        ) -> Any:
            given = arguments_of(module, args, kwargs)
            if (
                self._loop is not None
                and self._loop.begins_evaluation(context, given)
                and levels.over(timestep_of(given))
            ):
                close()
            if self._loop is None:
                self._loop = self._new_loop({"transformer": transformer}, levels, OWN_LOOP)
            return self._loop.call("transformer", module, forward, context, given)

        self._undo.callback(close)
        if self.threshold > 0:
            self._undo.enter_context(hooked(transformer, answer, self))


class _Bar:
    """A progress bar within which a pipeline denoises: as `with`, or as what is looped over."""

    def __init__(self, bar: Any, handle: CachedPipeline, pipe: Any, total: int | None) -> None:
        self._bar, self._handle, self._pipe, self._total = bar, handle, pipe, total
        self._stack = ExitStack()
        self._loop: DenoisingLoop | None = None

    def __enter__(self) -> _Bar:
        with ExitStack() as stack:
            stack.enter_context(self._bar)
            self._loop = stack.enter_context(self._handle.denoising(self._pipe, self._total))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> bool | None:
        return self._stack.__exit__(*raised)

    def __iter__(self) -> Iterator[Any]:
        with self._handle.denoising(self._pipe, None):
            yield from self._bar

    def update(self, n: float = 1) -> Any:
        """A step is over: known here before the next one begins."""
        if self._loop is not None:
            self._loop.settle()
        return self._bar.update(n)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bar, name)


def _transformers(pipe: Any) -> dict[str, nn.Module]:
    """The transformers of a pipeline by name: two where experts share the noise levels."""
    return {
        name: module
        for name in TRANSFORMERS
        if isinstance(module := pipe.components.get(name), nn.Module)
    }


def _same_family(one: Family | None, other: Family) -> bool:
    return one is not None and (one.id, one.lists) == (other.id, other.lists)


def _recognise(
    transformers: dict[str, nn.Module], config: TeaCacheConfig
) -> tuple[Family, Profile, Calibration | None]:
    """The family, its profile, and the user's own calibration where `config` names one."""
    for transformer in transformers.values():
        family = find_family(transformer)
        if family is None:
            continue
        shipped, calibration, name = load_profiles(), None, config.profile
        if name not in (*shipped, "auto"):
            calibration = named_calibration(name, family.id, ProfileStore(default_folder()))
        if name not in shipped:
            name = family.profile(unwrap_compiled(transformer))
        return family, get_profile(name, family.id, shipped), calibration
    raise UnsupportedModel(_why_unsupported(transformers))


def _why_unsupported(transformers: dict[str, nn.Module]) -> str:
    for transformer in transformers.values():
        untouched = find_untouched(transformer)
        if untouched is not None:
            return f"{untouched.name}: {untouched.reason}: TeaCache cannot be enabled on it"
        kind = class_name(transformer).rsplit(".", 1)[-1]
        return f"{kind} is not a transformer that TeaCache knows: it cannot be enabled on it"
    return "the pipeline has no transformer: TeaCache works on diffusion transformers only"


def _is_pipeline(target: Any) -> bool:
    return hasattr(target, "components") and hasattr(target, BAR)


def _installed(target: Any) -> CachedPipeline | None:
    """The cache that is on a pipeline or a transformer, if any."""
    found = owner_of(target) if isinstance(target, nn.Module) else vars(target).get(HANDLE)
    return found if isinstance(found, CachedPipeline) else None


def enable_teacache(
    pipe_or_transformer: Any,
    rel_l1_thresh: float | None = 0.2,
    *,
    listener: Listener | None = None,
    num_steps: int | None = None,
    trial: Trial | None = None,
    **config: Any,
) -> CachedPipeline:
    """Turn the cache on, and return its handle. An earlier cache of ours is replaced.

    rel_l1_thresh and config: the settings of `TeaCacheConfig`. listener: told of each run's events
    as data. num_steps: evaluations in a loop of the user's own, needed for a bare transformer.
    trial: of a calibration.
    Raises ConfigError for a bad setting and for a model that is not known.
    """
    settings = TeaCacheConfig.from_mapping({"rel_l1_thresh": rel_l1_thresh, **config})
    if _is_pipeline(pipe_or_transformer):
        if num_steps is not None:
            raise ConfigError("num_steps is for a bare transformer: a pipeline knows its steps")
        transformers = _transformers(pipe_or_transformer)
    elif isinstance(pipe_or_transformer, nn.Module):
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
            raise ConfigError(
                "num_steps must be the number of evaluations of your loop, a whole number from 1, "
                f"when TeaCache is enabled on a transformer, not {num_steps!r}"
            )
        transformers = {"transformer": pipe_or_transformer}
    else:
        kind = type(pipe_or_transformer).__name__
        raise ConfigError(f"a diffusers pipeline or transformer is needed, not {kind}")
    for name, transformer in transformers.items():
        inner = unwrap_compiled(transformer)
        if hasattr(inner, "is_cache_enabled") and inner.is_cache_enabled:
            raise ConfigError(
                f"{name} already has a cache of diffusers on: call {name}.disable_cache() first"
            )
    handle = CachedPipeline(settings, transformers, listener, trial)
    for target in (pipe_or_transformer, *transformers.values()):
        disable_teacache(target)
    if num_steps is None:
        handle.attach(pipe_or_transformer)
    else:
        handle.attach_to_transformer(pipe_or_transformer, num_steps)
    return handle


def disable_teacache(pipe_or_transformer: Any) -> None:
    """Turn the cache off; nothing happens where it is not on."""
    handle = _installed(pipe_or_transformer)
    if handle is not None:
        handle.disable()


@contextmanager
def teacache(
    pipe_or_transformer: Any,
    rel_l1_thresh: float | None = 0.2,
    *,
    listener: Listener | None = None,
    num_steps: int | None = None,
    trial: Trial | None = None,
    **config: Any,
) -> Iterator[CachedPipeline]:
    """`enable_teacache` for the time of a `with`; off again however it ends."""
    handle = enable_teacache(
        pipe_or_transformer,
        rel_l1_thresh,
        listener=listener,
        num_steps=num_steps,
        trial=trial,
        **config,
    )
    try:
        yield handle
    finally:
        handle.disable()
