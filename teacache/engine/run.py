"""The state of one sampling run: made when sampling starts, freed when it ends.

    Run            everything of one run; knows its noise levels and keeps the report
      Track        what one window of one pass remembers between evaluations
        BranchState  what one branch (cond, uncond, ...) remembers
      Evaluation   one call of the denoiser by the sampler
        Decision   one joint decision for all branches of a track in that evaluation
          ModelCall, WholeCall  one call of the transformer with some of those branches in its
            batch, or one whole prediction

Branches are keyed by the host's own identity for them, never by counting calls: batches split
and join with free memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from math import nan
from typing import Any, Protocol

import torch

from ..families.registry import Family
from ..families.streams import AdapterFailed, reading
from ..report import Reason, RunReport, StepRecord
from ..schedule import Pace
from .choice import Choice
from .decision import MIXED, BranchState, Decision, Track
from .entry import EntryReader
from .indicators import TIMESTEP_READINGS, Rate, TimestepSchedule, relative_change, spectral_view
from .policy import AccumulatedDistance, EveryStep, PlannedSteps, Policy, legs, locate_step
from .predictors import make_predictor, same_level
from .reads import DeviceReads, LevelOfEvaluation
from .strategy import Solver
from .timing import Clock, Mark

log = logging.getLogger("teacache")

Listener = Callable[[str, dict[str, Any]], None]
"""Told of a run's events: ("start" | "step" | "end", plain data)."""


class Observer(Protocol):
    """Is shown what a run computes, step by step (`calibration.recording.Recorder`)."""

    def prediction(self, step: int, derivative: torch.Tensor) -> None:
        """What the sampler steps along in `step`, after guidance."""

    def reading(self, step: int, branch: Hashable, change: float) -> None:
        """How much what the indicator reads of `branch` has changed since the step before."""

    def residual(self, step: int, branch: Hashable, residual: torch.Tensor) -> None:
        """The residual of `branch`'s block stack."""


SPECTRAL_MAX_SKIP = 2
"""SeaCache's own limit of skips in a row, where the user sets none."""
LOST_COUNT = "The sampler evaluated the model at other noise levels than its schedule names."


class Run:
    """One sampling run over `sigmas` (noise levels, one more than the run has steps).

    choice, solver: what the run does, and what is known of its sampler. host: the host's name for
    the report. observer: who is shown what is computed.
    """

    def __init__(
        self,
        choice: Choice,
        family: Family,
        solver: Solver,
        sigmas: Sequence[float],
        host: str,
        listener: Listener | None = None,
        observer: Observer | None = None,
    ) -> None:
        config, profile, method = choice.config, choice.profile, choice.method
        self.config = config
        self.family = family
        self.profile = profile
        self.method = method
        self.solver = solver
        self.observer = observer
        self.sigma = 0.0
        self.reads = DeviceReads()
        self.gave_up = False
        """Whether the model turned out not to be what the table says: it runs without the cache."""
        self._sigmas = list(sigmas)
        self._level = LevelOfEvaluation(self._sigmas, solver.single, self.reads)
        self._pace = Pace(self._sigmas)
        self._legs = legs(self._sigmas)
        self._step = 0
        self._sigma_before: float | None = None
        self._listener = listener
        self._policy: Policy = AccumulatedDistance(
            threshold=choice.threshold,
            steps=len(sigmas) - 1,
            start=config.start_percent,
            end=config.end_percent,
            max_skip=config.max_skip
            or (SPECTRAL_MAX_SKIP if method.indicator == "spectral" else 0),
            warmup=profile.warmup_steps if method.indicator == "profile" else 0,
        )
        if choice.plan is not None:
            self._policy = PlannedSteps(frozenset(choice.plan), len(sigmas) - 1)
        if solver.own_levels:
            self._policy = EveryStep()
        self.reading = profile.indicator if method.indicator == "profile" else ""
        """What the family's profile reads; empty where another indicator decides."""
        self.read_entry = EntryReader(self.reading, family, config.token_stride)
        self._schedule: TimestepSchedule | None = None
        self._tracks: dict[Hashable, Track] = {}
        self._decisions: list[tuple[Hashable, Hashable | None, Decision]] = []
        self._demanded: Reason | None = None
        self._updates: list[tuple[BranchState, torch.Tensor]] = []
        self._views: list[tuple[Track, torch.Tensor]] = []
        self._clock: Clock | None = None
        self._marks: list[tuple[Mark, Mark]] = []
        self._evaluation_start: Mark | None = None
        self.report = RunReport(
            host=host,
            family=family.id,
            family_name=family.name,
            profile=profile.name if self.reading else "",
            calibrated=profile.calibrated and bool(self.reading),
            method=method.name,
            cached=method.cached,
            indicator=self.reading or method.indicator,
            predictor=method.predictor,
            sampler=solver.name,
            threshold=choice.threshold,
            steps=len(sigmas) - 1,
            sigmas=self._sigmas,
            evidence=choice.evidence,
            warnings=list(choice.notes),
        )

    # --- one evaluation ---------------------------------------------------------------------

    def begin_evaluation(
        self, sigma: float | torch.Tensor, device: torch.device, step: int | None = None
    ) -> None:
        """The sampler calls the denoiser at noise level `sigma`, in `step` where it is known.

        sigma: a number, or the sampler's own tensor, which is read only where it must be.
        """
        if self._clock is None:
            self._clock = Clock(device)
            self._tell("start", lambda: {"report": self.report.to_json()})
        self._sigma_before = self.sigma if self.report.records else None
        if isinstance(sigma, torch.Tensor):
            sigma = self._level(sigma)
            if self._level.lost:
                self.report.warn(LOST_COUNT)
        self.sigma = sigma
        self._step = self._locate(sigma) if step is None else step
        self._decisions, self._demanded = [], None
        self._evaluation_start = self._clock.mark()

    def _locate(self, sigma: float) -> int:
        """The step of an evaluation at `sigma`; repeated levels are told apart by counting."""
        place = len(self.report.records)
        counted = self.solver.single and place < self.report.steps
        if counted and same_level(sigma, self._sigmas[place]):
            return place
        return locate_step(sigma, self._sigmas, self._step)

    def decide(
        self, track: Hashable, reconsiders: bool = True, window: Hashable | None = None
    ) -> Decision:
        """A fresh decision for the branches of `track` (a window of a pass).

        reconsiders: whether the host can evaluate a decision again (`ReconsiderStep`). The same
        track asked for again in one evaluation is another pass, with its own memory. window: the
        passes with the same one are computed together (`ReconsiderEvaluation`); None: by itself.
        """
        occurrence = sum(known == track for known, _, _ in self._decisions)
        state = self._tracks.setdefault((track, occurrence), Track())
        passes = [
            made for _, other, made in self._decisions if window is not None and other == window
        ]
        decision = Decision(state, self._policy, self._step, reconsiders, passes)
        if self._demanded is not None and decision.measures:
            decision.reason = self._demanded
        self._decisions.append((track, window, decision))
        return decision

    def reconsider(self, reason: Reason) -> None:
        """The evaluation is made again from its beginning, and computed because of `reason`."""
        self._demanded = reason
        self._decisions = []
        self._updates, self._views = [], []

    @property
    def step(self) -> int:
        """The sampler's step that the evaluation belongs to."""
        return self._step

    @property
    def leg(self) -> int:
        """Along which part of the schedule values are continued: it changes where levels turn."""
        return 0 if self.method.predictor == "reuse" else self._legs[self._step]

    def step_length(self) -> float:
        """Length of this evaluation's step in sigma, with its sign.

        Where the sampler is not known to go through the schedule, that of the one before; the
        schedule's own, where the evaluation repeats a level.
        """
        following, before = self._sigmas[self._step + 1], self._sigma_before
        if self.solver.single:
            return following - self.sigma
        if before is None or same_level(self.sigma, before):
            return following - self._sigmas[self._step]
        return self.sigma - before

    def step_share(self) -> float:
        """Length of this evaluation's step in average steps of the run."""
        return self._pace.share(self.sigma, self.sigma + self.step_length())

    def keeps(self) -> bool:
        """Whether what this evaluation computes can stand in for a later one."""
        return self._policy.keeps(self._step)

    def consider_latent(self, decision: Decision, latent: torch.Tensor) -> None:
        """Let the change of what can be seen in the latent decide (indicator `spectral`)."""
        if self.method.indicator != "spectral":
            return
        view = spectral_view(latent, self.sigma)
        before = decision.track.view
        if before is not None and before.shape == view.shape and decision.measures:
            change = relative_change(view, before.to(view.device))
            decision.consider(max(self.reads.now(change)))
        elif decision.measures:
            decision.demand(Reason.NEW_BRANCH if before is None else Reason.MISMATCH)
        self._views.append((decision.track, self.place(view)))

    def mark(self) -> Mark:
        """This moment, as an end for `end_evaluation`."""
        assert self._clock is not None
        return self._clock.mark()

    def end_evaluation(self, end: Mark | None = None) -> None:
        """The denoiser has answered, now or at `end`: settle its decisions and record them."""
        assert self._clock is not None and self._evaluation_start is not None
        for state, readings in self._updates:
            state.reading = readings
        for track, view in self._views:
            track.view = view
        self._updates, self._views = [], []
        for _, _, decision in self._decisions:
            decision.settle(self.sigma)
            if decision.mixed:
                self.report.warn(MIXED)
        span = (self._evaluation_start, end or self._clock.mark())
        self._marks.append(span)
        self.report.bytes_held = max(self.report.bytes_held, self._bytes_held())
        record = self._record(self._clock.seconds_now(*span))
        self.report.records.append(record)
        self._tell("step", lambda: {"record": record.to_json()})
        self._decisions = []

    def _record(self, seconds: float) -> StepRecord:
        decisions = [decision for _, _, decision in self._decisions]
        computed = [decision for decision in decisions if not decision.skipping]
        shown = next(iter(computed or decisions), None)
        reason = Reason.UNCACHED if shown is None or shown.reason is None else shown.reason
        return StepRecord(
            step=self._step,
            sigma=self.sigma,
            skipped=bool(decisions) and not computed,
            reason=reason,
            distance=None if shown is None else shown.distance,
            accumulated=0.0 if shown is None else shown.accumulated,
            seconds=seconds,
        )

    # --- what a call of the model asks --------------------------------------------------------

    def plan(self, embed: Callable[[list[float]], torch.Tensor], ahead: bool = True) -> None:
        """Compute the timestep indicator of the whole schedule, where it is what decides.

        ahead: whether all levels can be embedded at once, or each only when it is reached.
        """
        if self.reading in TIMESTEP_READINGS and self._schedule is None:
            with reading():
                self._schedule = TimestepSchedule(embed, self._sigmas[:-1] if ahead else ())

    def give_up(self, failure: AdapterFailed) -> None:
        """The rest of the run is computed without the cache."""
        if not self.gave_up:
            self.gave_up = True
            self.report.warn(f"{self.family.name}: runs without the cache: {failure}")
            log.warning("TeaCache: %s", self.report.warnings[-1])

    def scheduled_change(self, before: float) -> float:
        """Change of the timestep's embedding since noise level `before`."""
        assert self._schedule is not None
        return self._schedule.change(before, self.sigma)

    def scheduled_distance(self, before: float | None) -> float:
        return self.profile.distance(nan if before is None else self.scheduled_change(before))

    def distance(self, change: float) -> float:
        """The distance that a `change` of what the indicator reads stands for."""
        return self.profile.distance(change) if self.reading else change

    def new_branch(self, layout: Hashable) -> BranchState:
        return BranchState(layout, make_predictor(self.method.predictor), Rate(self.reads))

    def after_evaluation(self, state: BranchState, readings: torch.Tensor) -> None:
        """`readings` become the state's when this evaluation ends."""
        self._updates.append((state, self.place(readings)))

    def place(self, held: torch.Tensor) -> torch.Tensor:
        """`held` where the config wants it to wait for a later step."""
        return held.to("cpu") if self.config.cache_device == "cpu" else held

    # --- the end ------------------------------------------------------------------------------

    def finish(self, outcome: str) -> RunReport:
        """Free everything and complete the report. outcome: done, interrupted or failed."""
        self._tracks.clear()
        self._decisions = []
        self._updates, self._views = [], []
        self._schedule = None
        self.reads.forget()
        if self._clock is not None:
            times = self._clock.resolve(self._marks)
            self.report.seconds = self._clock.elapsed(self._marks)
            self.report.records = [
                record.timed(seconds)
                for record, seconds in zip(self.report.records, times, strict=True)
            ]
        self.report.outcome = outcome
        self._tell("end", lambda: {"report": self.report.to_json()})
        return self.report

    def _bytes_held(self) -> int:
        tensors: list[torch.Tensor | None] = []
        for track in self._tracks.values():
            tensors.append(track.view)
            for state in track.branches.values():
                tensors += [*state.predictor.held, state.reading]
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)

    def _tell(self, event: str, data: Callable[[], dict[str, Any]]) -> None:
        if self._listener is not None:
            self._listener(event, data())
