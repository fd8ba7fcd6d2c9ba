"""TeaCache on diffusers pipelines.

    handle = enable_teacache(pipe, rel_l1_thresh=0.2)
    image = pipe("a red apple").images[0]
    print(handle.report_for().summary)
    disable_teacache(pipe)

or `with teacache(pipe, 0.2) as handle: ...`. While it is on, the pipeline has an attribute
`pipe.teacache`, the handle, and a `progress_bar` (`attachment`), around whose bar every pipeline
runs its denoising loop. When the loop starts, hooks go on the transformers and the run's state is
made; when it ends, however it ends, both are gone. Copies of the pipeline have the same handle.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from ...calibration.override import RunOverride
from ...config import DEFAULT_THRESHOLD, TeaCacheConfig
from ...engine.run import Run, RunListener
from ...engine.strategy import SamplerTraits, requested_strategy, threshold_of
from ...errors import ConfigError
from ...families.spec import RunScope, unwrap_compiled
from ...families.streams import FamilyMismatch, reading_model
from ...profiles.conditions import UNKNOWN_DIGEST, Conditions
from ...profiles.store import ProfileStore, default_folder
from ...report import RunReport
from ..common import CacheHandle, Recognition, recognise, why_unsupported
from .attachment import BAR, HANDLE, attach, detach
from .branches import arguments_of, timestep_of
from .denoisers import denoisers_of, of_family, recognisable, without
from .hooks import Forward, hook_owner, hooked
from .loop import DenoisingLoop
from .parallel import ranks_of
from .schedulers import OWN_LOOP, LoopSigmas, ObservedSigmas, pipeline_sigmas, sampler_traits
from .weights import weights_digest

UNREAD = "runs without the cache: the scheduler's noise levels cannot be read"
NO_DENOISER = "the pipeline has no network that takes a timestep: there are no steps to skip"
log = logging.getLogger("teacache")


class UnsupportedModel(ConfigError):
    """The pipeline has no network whose steps TeaCache could skip."""


class CachedPipeline(CacheHandle):
    """The cache on a pipeline, or on a transformer of the user's own loop.

    Args:
        config: the user's settings.
        transformers: by component name.
        listener: receives the events of every run.
        override: of a calibration.
    """

    def __init__(
        self,
        config: TeaCacheConfig,
        transformers: dict[str, nn.Module],
        listener: RunListener | None,
        override: RunOverride | None = None,
    ) -> None:
        recognition = _recognise_first(transformers, config)
        super().__init__(config, recognition, "diffusers", listener, override)
        self.threshold = threshold_of(config, self.profile, requested_strategy(config))
        self._undo = ExitStack()
        self._pipelines: list[weakref.ref[Any]] = []
        """Those that it was attached to: the one it was made for, and copies."""
        self._running: set[int] = set()
        """Identities of the pipelines that denoise now, each in a thread of its own."""

    def report_for(self) -> RunReport | None:
        """The report of the newest finished run, None before the first one."""
        return self.reports[-1] if self.reports else None

    def disable(self) -> None:
        """Turn the cache off and leave the pipeline, its copies or the transformer as they were."""
        for known in self._pipelines:
            pipe = known()
            if pipe is not None and installed(pipe) is self:
                detach(pipe)
        self._pipelines = []
        self._undo.close()

    def _new_loop(
        self, denoisers: dict[str, nn.Module], sigmas: LoopSigmas, sampler: SamplerTraits
    ) -> DenoisingLoop:
        known = of_family(denoisers, self.family) or denoisers
        full_range = sigmas.full_range and len(known) == 1

        def make_run(transformer: nn.Module, latent: tuple[int, ...], device: torch.device) -> Run:
            def conditions_of(identify: bool) -> Conditions:
                return Conditions(
                    family=self.family.id,
                    weights_digest=weights_digest(transformer) if identify else UNKNOWN_DIGEST,
                    patches_digest="",  # LoRAs are parameters of their own here
                    sampler=sampler.name,
                    sigmas=tuple(sigmas.sigmas),
                    latent=latent[1:],
                )

            run = self.new_run(
                self.config,
                ProfileStore(default_folder()),
                transformer,
                lambda: RunScope(latent, full_range) if latent else None,
                sampler,
                conditions_of,
            )
            run.ranks = ranks_of(known.values(), device)
            return run

        others = without(denoisers, known)
        return DenoisingLoop(known, others, sigmas, make_run, self.family.text_arguments)

    # --- a pipeline ------------------------------------------------------------------------------

    def attach(self, pipe: Any) -> None:
        """Every denoising loop of `pipe` runs with the cache from now on."""
        self._pipelines.append(weakref.ref(pipe))
        attach(pipe, self)

    @contextmanager
    def denoising(self, pipe: Any, total: int | None) -> Iterator[DenoisingLoop | None]:
        """One denoising loop of `pipe`.

        None within another one, after `disable`, and where it runs without the cache: at threshold
        0, and with a scheduler whose noise levels cannot be read.
        """
        if id(pipe) in self._running or installed(pipe) is not self:
            yield None
            return
        loop, finish = self._loop_of(pipe, total)
        self._running.add(id(pipe))
        outcome = "failed"
        try:
            with ExitStack() as stack:
                if loop is not None:
                    stack.enter_context(loop.attached())
                    stack.enter_context(loop.replacing_step(pipe.scheduler))
                yield loop
            outcome = "interrupted" if "_interrupt" in vars(pipe) and pipe._interrupt else "done"
        except (KeyboardInterrupt, GeneratorExit):
            outcome = "interrupted"
            raise
        finally:
            self._running.discard(id(pipe))
            self.keep(finish(outcome))

    def _loop_of(
        self, pipe: Any, total: int | None
    ) -> tuple[DenoisingLoop | None, Callable[[str], RunReport]]:
        """The loop of `pipe`, None without the cache; and what makes its report of the outcome."""
        levels: list[float] = []
        try:
            with reading_model():
                sigmas = pipeline_sigmas(pipe, total)
            levels = sigmas.sigmas
            if self.threshold > 0:
                loop = self._new_loop(denoisers_of(pipe), sigmas, sampler_traits(pipe.scheduler))
                return loop, loop.finish
        except FamilyMismatch as mismatch:
            if self.threshold > 0:
                return None, partial(self._unread_report, mismatch)
        return None, partial(self.off_report, levels)

    def _unread_report(self, mismatch: FamilyMismatch, outcome: str) -> RunReport:
        why = f"{UNREAD}: {mismatch}"
        log.warning("TeaCache: %s", why)
        return self.off_report([], outcome, self.threshold, [why])

    # --- a bare transformer -----------------------------------------------------------------------

    def attach_to_transformer(self, transformer: nn.Module, num_steps: int) -> None:
        """Calls of `transformer` are taken for loops of `num_steps` evaluations."""
        loops: dict[int, OwnLoop] = {}

        def handle(
            module: nn.Module,
            forward: Forward,
            name: str | None,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
        ) -> Any:
            given = arguments_of(module, args, kwargs)
            thread = threading.get_ident()
            running = loops.get(thread)
            if running is not None and running.is_over_before(name, given):
                self.keep(running.finish())
                running = None
            if running is None:
                sigmas = ObservedSigmas(num_steps)
                loop = self._new_loop({"transformer": transformer}, sigmas, OWN_LOOP)
                running = loops[thread] = OwnLoop(loop, sigmas)
            return running.loop.call("transformer", module, forward, name, given)

        def close() -> None:
            for running in loops.values():
                self.keep(running.finish())
            loops.clear()

        self._undo.callback(close)
        if self.threshold > 0:
            self._undo.enter_context(hooked(transformer, handle, self))


class OwnLoop(NamedTuple):
    """A loop of the user's own over a transformer, in one thread."""

    loop: DenoisingLoop
    sigmas: ObservedSigmas

    def is_over_before(self, name: str | None, given: dict[str, Any]) -> bool:
        """Whether such a call belongs to the next loop."""
        begins = self.loop.begins_evaluation("transformer", name, given)
        return begins and self.sigmas.starts_over_at(timestep_of(given), self.loop.reads)

    def finish(self) -> RunReport:
        self.loop.end_evaluation()
        return self.loop.finish("done" if self.sigmas.complete else "interrupted")


def _recognise_first(transformers: dict[str, nn.Module], config: TeaCacheConfig) -> Recognition:
    """The first transformer that is known.

    Raises:
        UnsupportedModel: there is none.
        ConfigError: the profile that `config` names is unknown or made for another family.
    """
    for transformer in transformers.values():
        recognition = recognise(transformer, config, ProfileStore(default_folder()))
        if recognition is not None:
            return recognition
    for transformer in transformers.values():
        raise UnsupportedModel(f"{why_unsupported(transformer)}: it cannot be enabled on it")
    raise UnsupportedModel(NO_DENOISER)


def _denoisers_to_serve(pipe: Any) -> dict[str, nn.Module]:
    """The networks of a pipeline that may be cached, by name.

    Raises:
        UnsupportedModel: the pipeline runs no loop of its own.
    """
    inner = [name for name, part in vars(pipe).items() if _is_pipeline(part)]
    connects = hasattr(pipe, "_load_connected_pipes") and pipe._load_connected_pipes
    if connects and inner:
        parts = " and ".join(f"pipe.{name}" for name in inner)
        raise UnsupportedModel(
            f"{type(pipe).__name__} runs other pipelines, each with a loop of its own: "
            f"enable TeaCache on {parts}"
        )
    return recognisable(denoisers_of(pipe))


def _is_pipeline(target: Any) -> bool:
    return hasattr(target, "components") and hasattr(target, BAR)


def installed(target: Any) -> CachedPipeline | None:
    """The cache that is on a pipeline or a transformer, if any."""
    found = hook_owner(target) if isinstance(target, nn.Module) else vars(target).get(HANDLE)
    return found if isinstance(found, CachedPipeline) else None


def enable_teacache(
    pipe_or_transformer: Any,
    rel_l1_thresh: float | None = DEFAULT_THRESHOLD,
    *,
    listener: RunListener | None = None,
    num_steps: int | None = None,
    override: RunOverride | None = None,
    **config: Any,
) -> CachedPipeline:
    """Turn the cache on, and return its handle. An earlier cache of ours is replaced.

    rel_l1_thresh and config: the settings of `TeaCacheConfig`. listener: told of each run's events
    as data. num_steps: evaluations in a loop of the user's own, needed for a bare transformer.
    override: of a calibration.
    Raises ConfigError for a bad setting and for a model that is not known.
    """
    settings = TeaCacheConfig.from_mapping({"rel_l1_thresh": rel_l1_thresh, **config})
    if _is_pipeline(pipe_or_transformer):
        if num_steps is not None:
            raise ConfigError("num_steps is for a bare transformer: a pipeline knows its steps")
        transformers = _denoisers_to_serve(pipe_or_transformer)
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
    handle = CachedPipeline(settings, transformers, listener, override)
    for target in (pipe_or_transformer, *transformers.values()):
        disable_teacache(target)
    if num_steps is None:
        handle.attach(pipe_or_transformer)
    else:
        handle.attach_to_transformer(pipe_or_transformer, num_steps)
    return handle


def disable_teacache(pipe_or_transformer: Any) -> None:
    """Turn the cache off; nothing happens where it is not on. Copies of a pipeline keep theirs."""
    handle = installed(pipe_or_transformer)
    if handle is None:
        return
    if isinstance(pipe_or_transformer, nn.Module):
        handle.disable()
    else:
        detach(pipe_or_transformer)


@contextmanager
def teacache(
    pipe_or_transformer: Any,
    rel_l1_thresh: float | None = DEFAULT_THRESHOLD,
    *,
    listener: RunListener | None = None,
    num_steps: int | None = None,
    override: RunOverride | None = None,
    **config: Any,
) -> Iterator[CachedPipeline]:
    """`enable_teacache` for the time of a `with`; off again however it ends."""
    handle = enable_teacache(
        pipe_or_transformer,
        rel_l1_thresh,
        listener=listener,
        num_steps=num_steps,
        override=override,
        **config,
    )
    try:
        yield handle
    finally:
        handle.disable()
