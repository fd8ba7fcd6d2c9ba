"""The state of one sampling run: made when sampling starts, freed when it ends.

    Run                  everything of one run; keeps the report
      StepTracker        the position in the schedule
      RunState           what is remembered from evaluation to evaluation
        PassState        one context window of one pass
          BranchState    one branch of guidance (cond, uncond, ...)
      Decision           one joint decision for the branches of a pass in one evaluation
        StackForward     one call of the transformer with some of those branches in its batch
        PredictionForward  one whole prediction after guidance

Branches are identified by the host's own keys, never by counting calls: batches are split and
joined depending on free memory.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from math import nan
from typing import Any, Protocol

import torch

from ..families.spec import TIMESTEP_INDICATORS, Family
from ..families.streams import FamilyMismatch, reading_model
from ..levels import ObservedLevels, UnknownLevels
from ..report import Reason, RunReport, StepRecord
from ..schedule import Schedule, StepTracker
from .budget import budget_of
from .decision import MIXED, BranchState, Decision, RunState
from .device import OUT_OF_MEMORY, DeviceReader, Mark, RunTimer, SigmaReader
from .indicators import ErrorRate, StackInputReader, TimestepChanges
from .parallel import Ranks
from .policy import policy_of
from .predictors import make_predictor
from .regions import LatentLayout
from .strategy import RunSettings, SamplerTraits
from .transfer import to_main_memory

log = logging.getLogger("teacache")

RunListener = Callable[[str, dict[str, Any]], None]
"""Receives a run's events: ("start" | "step" | "end", JSON-like data)."""

SCHEDULE_LEFT = "The sampler evaluated the model at other noise levels than its schedule names."


class RunObserver(Protocol):
    """Receives what a run computes, step by step (`calibration.recorder.Recorder`)."""

    def on_prediction(self, step: int, derivative: torch.Tensor) -> None:
        """The derivative that the sampler follows in `step`, after guidance."""

    def on_indicator_change(self, step: int, branch: Hashable, change: float) -> None:
        """Relative L1 change of what the indicator reads of `branch`, since the step before."""

    def on_residual(self, step: int, branch: Hashable, residual: torch.Tensor) -> None:
        """The residual of `branch`'s block stack."""


class Run:
    """One sampling run.

    Args:
        settings: what the run does.
        family: of the model.
        sampler: traits of the sampler.
        sigmas: noise levels, one more than the run has steps.
        host: the host's name, for the report.
        listener: receives the run's events.
        observer: receives what is computed.
        latent: how the latent is compared; None where nothing is known of it.
    """

    def __init__(
        self,
        settings: RunSettings,
        family: Family,
        sampler: SamplerTraits,
        sigmas: Sequence[float],
        host: str,
        listener: RunListener | None = None,
        observer: RunObserver | None = None,
        latent: LatentLayout | None = None,
    ) -> None:
        self.config = settings.config
        self.family = family
        self.strategy = settings.strategy
        self.sampler = sampler
        self.observer = observer
        self.latent = latent or LatentLayout()
        self.gave_up = False
        """Whether the model does not match its family's entry: it runs without the cache."""
        self.ranks: Ranks | None = None
        """The processes that the model is split over, where the host knows of them."""
        self.reader = DeviceReader()
        self.lock = threading.RLock()
        """Held while a forward decides or caches: branches may run in threads, one per device."""
        schedule = Schedule(sigmas)
        observes = sampler.foreign and sampler.forecast and self.strategy.follows_prediction
        self.position = StepTracker(
            schedule,
            sampler.one_eval_per_step,
            raised=sampler.foreign or sampler.raises_levels,
            observed=ObservedLevels(schedule.sigmas) if observes else None,
        )
        self.state = RunState()
        self.profile_indicator = (
            settings.profile.indicator if self.strategy.indicator == "profile" else ""
        )
        """What the family's profile reads; empty where another indicator decides."""
        self.read_stack_input = StackInputReader(self.profile_indicator, family)
        self._profile = settings.profile
        self._policy = policy_of(settings, sampler, schedule)
        self._budget = budget_of(settings, schedule, self._policy)
        self._read_sigma = SigmaReader(self.reader)
        self._timestep_changes: TimestepChanges | None = None
        self._decisions: list[tuple[Hashable, Hashable | None, Decision]] = []
        self._required: Reason | None = None
        self._lead: Decision | None = None
        """The decision of the whole evaluation, while its passes are decided."""
        self._timer: RunTimer | None = None
        self._listener = listener
        self.report = RunReport(
            host=host,
            family=family.id,
            family_name=family.name,
            profile=self._profile.name if self.profile_indicator else "",
            calibrated=self._profile.calibrated and bool(self.profile_indicator),
            method=self.strategy.name,
            cached=self.strategy.cached,
            indicator=self.profile_indicator or self.strategy.indicator,
            predictor=self.strategy.predictor,
            sampler=sampler.name,
            threshold=settings.threshold,
            steps=schedule.steps,
            sigmas=schedule.sigmas,
            evidence=settings.evidence,
            tried_error=settings.tried_error,
            preset=settings.config.preset,
            wanted_steps=settings.wanted_steps,
            warnings=list(settings.notes),
        )

    # --- one evaluation --------------------------------------------------------------------------

    def begin_evaluation(
        self,
        sigma: float | torch.Tensor,
        device: torch.device,
        step: int | None = None,
        start: Mark | None = None,
    ) -> None:
        """The sampler calls the denoiser.

        Args:
            sigma: noise level, as a number or as the sampler's tensor [rows], which is read from
                the device only where it must be.
            device: where the model runs.
            step: index of the sampler step, where the host knows it.
            start: when the evaluation began on `device`; None for now.
        """
        if self._timer is None:
            self._timer = RunTimer(device)
            self._emit("start", lambda: {"report": self.report.to_json()})
        if isinstance(sigma, torch.Tensor):
            sigma = self._read_sigma(sigma, self.position.expected_sigma)
            if self._read_sigma.lost:
                self.report.warn(SCHEDULE_LEFT)
        try:
            self.position.advance(sigma, step)
        except UnknownLevels as unknown:
            self.give_up(f"the sampler {self.sampler.name} is not known, and {unknown}")
        self._decisions, self._required = [], None
        self._timer.begin(start)
        if self.any_rank(self.gave_up):
            self.give_up("another process that computes a part of the model does")
            self.state.release()
            self.ranks = None  # all of them are here, and none will ask again

    def decide(
        self, key: Hashable, can_repeat: bool = True, window: Hashable | None = None
    ) -> Decision:
        """A new decision for the branches of one pass.

        Args:
            key: identifies the pass. The same key asked for again in one evaluation is another
                pass, with a state of its own.
            can_repeat: whether the host can evaluate the pass again (`RecomputePass`).
            window: passes with the same one are computed together (`RecomputeEvaluation`); None
                for a pass that is decided by itself.
        """
        occurrence = sum(known == key for known, _, _ in self._decisions)
        state = self.state.of_pass((key, occurrence))
        earlier = [
            made for _, other, made in self._decisions if window is not None and other == window
        ]
        decision = Decision(
            state, self._policy, self.position.step, can_repeat, earlier, self._lead
        )
        required = Reason.UNCACHED if self.gave_up else self._required
        if required is not None and decision.needs_distance:
            decision.reason = required
        self._decisions.append((key, window, decision))
        return decision

    @contextmanager
    def led_by(self, decision: Decision) -> Iterator[None]:
        """Passes that are decided meanwhile follow `decision`, unless a branch must be computed."""
        self._lead = decision
        try:
            yield
        finally:
            self._lead = None

    def agree(self, decision: Decision, asked: bool, failed: bool = False) -> None:
        """Let the largest distance that any process has read decide for all of them.

        All processes come here at the same places; one that has nothing to say must compute.

        Args:
            asked: whether distances could change the decision before they were read.
            failed: this process could not read one.
        """
        if self.ranks is None or not asked:
            return
        own = -1.0 if decision.distance is None else decision.distance
        computing = failed or not decision.needs_distance
        distance, all_compute = self.ranks.largest([own, float(computing)])
        if distance >= 0:
            decision.consider(distance)
            decision.distance = distance
            decision.accumulated = decision.state.accumulated + distance
        if all_compute and decision.needs_distance:
            decision.require_compute(Reason.UNCACHED)

    def any_rank(self, condition: bool) -> bool:
        """Whether `condition` holds in any of the processes that the model is split over."""
        return condition if self.ranks is None else self.ranks.any(condition)

    def recompute(self, reason: Reason) -> None:
        """The evaluation is made again from its beginning, and computed because of `reason`."""
        self._required = reason
        self._decisions = []
        self.state.discard()

    def mark(self) -> Mark:
        """This moment, as an end for `end_evaluation`."""
        assert self._timer is not None
        return self._timer.mark()

    def end_evaluation(self, end: Mark | None = None) -> None:
        """The denoiser has answered, now or at `end`: update the state and record the step."""
        assert self._timer is not None
        self.state.commit()
        for _, _, decision in self._decisions:
            decision.finish(self.position.sigma)
            if decision.mixed:
                self.report.warn(MIXED)
        record = self._record(self._timer.end(end))
        self.report.bytes_held = max(self.report.bytes_held, self.state.bytes_held)
        self.report.records.append(record)
        self._add_expected_error(record)
        if self._budget is not None:
            self._budget.record(record.step, record.skipped)
        self._emit("step", lambda: {"record": record.to_json()})
        self._decisions = []

    def _add_expected_error(self, record: StepRecord) -> None:
        """Of a forecast that measures its errors: what a skip is expected to have missed."""
        if self.strategy.indicator != "rate" or not record.skipped or record.distance is None:
            return
        unit = 1.0 if self._budget is None else self._budget.threshold
        before = self.report.expected_error or 0.0
        self.report.expected_error = before + record.distance * unit / self.report.steps

    def _record(self, seconds: float | None) -> StepRecord:
        decisions = [decision for _, _, decision in self._decisions]
        computed = [decision for decision in decisions if not decision.skipping]
        shown = next(iter(computed or decisions), None)
        reason = Reason.UNCACHED if shown is None or shown.reason is None else shown.reason
        return StepRecord(
            step=self.position.step,
            sigma=self.position.sigma,
            skipped=bool(decisions) and not computed,
            reason=reason,
            distance=None if shown is None else shown.distance,
            accumulated=0.0 if shown is None else shown.accumulated,
            seconds=seconds,
        )

    # --- what a forward asks for -----------------------------------------------------------------

    @property
    def segment(self) -> int:
        """The segment of the schedule within which values are extrapolated."""
        return 0 if self.strategy.predictor == "reuse" else self.position.segment

    @property
    def cache_is_reusable(self) -> bool:
        """Whether a later step can be skipped, so that what is computed now must be cached."""
        return self._policy.cache_is_reusable(self.position.step)

    def new_branch(self, layout: Hashable) -> BranchState:
        """A branch of which nothing is cached."""
        predictor = make_predictor(self.strategy.predictor)
        return BranchState(layout, predictor, ErrorRate(self.reader, self.sampler.error_growth))

    def prepare_timestep_changes(
        self, embed: Callable[[list[float]], torch.Tensor], ahead: bool = True
    ) -> None:
        """Prepare the timestep indicator, where the profile reads it.

        Args:
            embed: noise levels [n] -> their embeddings [n, width].
            ahead: whether all levels can be embedded now, or each only when it is reached.

        Raises:
            FamilyMismatch: the model's timestep embedding is not what the family says.
        """
        if self.profile_indicator in TIMESTEP_INDICATORS and self._timestep_changes is None:
            with reading_model():
                sigmas = self.position.schedule.sigmas[:-1] if ahead else ()
                self._timestep_changes = TimestepChanges(embed, sigmas, self.reader)

    def timestep_change(self, before: float) -> float:
        """Relative change of the timestep embedding since noise level `before`."""
        assert self._timestep_changes is not None
        return self._timestep_changes.between(before, self.position.sigma)

    def timestep_distance(self, before: float | None) -> float:
        """The distance of that change; unknown (computed) without a level before."""
        return self._profile.distance(nan if before is None else self.timestep_change(before))

    def distance(self, change: float) -> float:
        """The distance that a relative `change` of what the profile reads stands for."""
        return self._profile.distance(change)

    def distance_of_skip(self, distance: float, state: BranchState) -> float:
        """`distance` of a forecast's skip as it counts: with the sampler's weight, or as a part of
        the threshold that keeps the number of computed steps, where one is wanted."""
        if self._budget is None:
            return distance * self.sampler.error_weight
        nodes, rate = state.predictor.sigmas, state.error_rate.rate
        return self._budget.relative(distance, self.position.step, nodes, rate)

    def to_cache_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` where cached tensors are kept."""
        return to_main_memory(tensor) if self.config.cache_device == "cpu" else tensor

    def give_up(self, reason: FamilyMismatch | str) -> None:
        """The rest of the run is computed without the cache, because of `reason`."""
        if isinstance(reason, FamilyMismatch) and isinstance(reason.__cause__, OUT_OF_MEMORY):
            self.release()
        elif not self.gave_up:
            self.gave_up = True
            self.report.warn(f"{self.family.name}: runs without the cache: {reason}")
            log.warning("TeaCache: %s", self.report.warnings[-1])

    def release(self) -> None:
        """There is no memory for the cache: free what it holds, and run without it."""
        self.give_up("there is no memory left for what it caches")
        self.state.release()
        self.reader.discard()

    # --- the end ---------------------------------------------------------------------------------

    def finish(self, outcome: str) -> RunReport:
        """Free all tensors, though a traceback may hold the run itself, and complete the report.

        Args:
            outcome: "done", "interrupted" or "failed".
        """
        self.state.release()
        self.reader.discard()
        self._timestep_changes = None
        if self._timer is not None:
            times, self.report.seconds = self._timer.resolve()
            self.report.set_times(times)
        self.report.outcome = outcome
        if self._budget is not None:
            for sentence in self._budget.notes(self.report.computed_steps):
                self.report.warn(sentence)
        self._emit("end", lambda: {"report": self.report.to_json()})
        return self.report

    def _emit(self, event: str, data: Callable[[], dict[str, Any]]) -> None:
        if self._listener is not None:
            self._listener(event, data())
