"""The state of one sampling run: made when sampling starts, freed when it ends.

    Run            everything of one run; knows its noise levels and keeps the report
      Track        what one window of one pass remembers between evaluations
        BranchState  what one branch (cond, uncond, ...) remembers
      Evaluation   one call of the denoiser by the sampler
        Decision   one joint decision for all branches of a track in that evaluation
          ModelCall  one call of the transformer with some of those branches in its batch

Branches are keyed by the host's own identity for them, never by counting calls: batches split
and join with free memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import nn

from .blocks import AdapterFailed, BlockArguments, reading
from .config import TeaCacheConfig
from .decision import MIXED, BranchState, Decision, Track
from .families import Family
from .indicators import TIMESTEP_INDICATORS, TimestepSchedule, relative_change
from .policy import AccumulatedDistance, locate_step
from .predictors import make_predictor
from .profiles import Profile
from .report import Reason, RunReport, StepRecord
from .timing import Clock, Mark

log = logging.getLogger("teacache")

Listener = Callable[[str, dict[str, Any]], None]
"""Told of a run's events: ("start" | "step" | "end", plain data)."""


class ModelCall:
    """One call of the transformer: `rows` consecutive rows of the batch for each branch.

    peeking: only the indicator is wanted; blocks pass their inputs through, nothing is remembered.
    Serves the block stack (`blocks.StackCall`).
    """

    def __init__(
        self,
        run: Run,
        decision: Decision,
        branches: Sequence[Hashable],
        layout: Hashable,
        peeking: bool = False,
    ) -> None:
        self.image_tokens = 0
        self.skipping = False
        self._run = run
        self._decision = decision
        self._keys = branches
        self._layout = layout
        self._peeking = peeking
        self._entry: torch.Tensor | None = None
        self._prediction: torch.Tensor | None = None

    def give_up(self, failure: AdapterFailed) -> None:
        self.image_tokens, self.skipping, self._entry = 0, False, None
        self._run.give_up(failure)
        self._decision.demand(Reason.UNCACHED)

    def _split(self, tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tensor.chunk(len(self._keys))

    def enter(self, block: nn.Module, arguments: BlockArguments, image: torch.Tensor) -> None:
        self.image_tokens = image.shape[1]
        self._measure(block, arguments, image)
        if self._peeking:
            self.skipping, self._prediction = True, image
            return
        decision = self._decision
        self.skipping = decision.skipping
        if self.skipping:
            decision.skipped_a_call()
            self._prediction = self._predict(image)
        else:
            self._entry = image.clone()

    def _measure(self, block: nn.Module, arguments: BlockArguments, image: torch.Tensor) -> None:
        """Read the indicator, and let the change since the last evaluation decide."""
        states = self._known_states(image)
        readings = self._run.read_indicator(block, arguments, image)
        if readings is None:
            if self._decision.measures:
                self._decision.consider(self._run.scheduled_distance(self._decision.track.sigma))
            return
        parts = self._split(readings)
        before = [state.indicator for state in states]
        if self._decision.measures and all(held is not None for held in before):
            changes = [
                relative_change(now, held)
                for now, held in zip(parts, before, strict=True)
                if held is not None
            ]
            values = torch.cat(changes).tolist()
            self._decision.consider(max(self._run.profile.distance(value) for value in values))
        if self._peeking:
            return
        for state, part in zip(states, parts, strict=True):
            self._run.after_evaluation(state, part)

    def _known_states(self, image: torch.Tensor) -> list[BranchState]:
        """The branches' states; what is new or has changed shape is reset and demands computing."""
        layout = (self._layout, image.shape[1:], image.shape[0] // len(self._keys), image.dtype)
        track = self._decision.track
        states = []
        for key in self._keys:
            state = track.branches.get(key)
            if state is None or state.layout != layout:
                reason = Reason.NEW_BRANCH if state is None else Reason.MISMATCH
                state = track.branches[key] = self._run.new_branch(layout)
                self._decision.demand(reason)
            elif not state.predictor.residuals:
                self._decision.demand(Reason.NEW_BRANCH)
            states.append(state)
        return states

    def _predict(self, image: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(image)
        track, sigma = self._decision.track, self._run.sigma
        for key, entry, rows in zip(self._keys, self._split(image), self._split(out), strict=True):
            residual = track.branches[key].predictor.predict(sigma)
            torch.add(entry, residual.to(entry.device, entry.dtype), out=rows)
        return out

    def leave(self, image: torch.Tensor) -> None:
        if self._entry is None:
            return
        with reading():
            residual = torch.sub(image, self._entry, out=self._entry)
        self._entry = None
        for key, part in zip(self._keys, self._split(residual), strict=True):
            state = self._decision.track.branches[key]
            state.predictor.observe(self._run.sigma, self._run.place(part))

    def prediction(self) -> torch.Tensor:
        assert self._prediction is not None
        return self._prediction


class Run:
    """One sampling run over `sigmas` (noise levels, one more than the run has steps).

    threshold: above 0, in the profile's distance. host: the host's name for the report.
    """

    def __init__(
        self,
        config: TeaCacheConfig,
        family: Family,
        profile: Profile,
        threshold: float,
        sigmas: Sequence[float],
        host: str,
        listener: Listener | None = None,
    ) -> None:
        self.config = config
        self.family = family
        self.profile = profile
        self.sigma = 0.0
        self.gave_up = False
        """Whether the model turned out not to be what the table says: it runs without the cache."""
        self._sigmas = list(sigmas)
        self._step = 0
        self._listener = listener
        self._policy = AccumulatedDistance(
            threshold=threshold,
            steps=len(sigmas) - 1,
            start=config.start_percent,
            end=config.end_percent,
            max_skip=config.max_skip,
            warmup=profile.warmup_steps,
        )
        self.indicator = profile.indicator if config.indicator == "auto" else config.indicator
        self._schedule: TimestepSchedule | None = None
        self._tracks: dict[Hashable, Track] = {}
        self._decisions: list[tuple[Hashable, Decision]] = []
        self._updates: list[tuple[BranchState, torch.Tensor]] = []
        self._clock: Clock | None = None
        self._marks: list[tuple[Mark, Mark]] = []
        self._evaluation_start: Mark | None = None
        self.report = RunReport(
            host=host,
            family=family.id,
            family_name=family.name,
            profile=profile.name,
            calibrated=profile.calibrated,
            indicator=self.indicator,
            predictor=config.predictor,
            threshold=threshold,
            steps=len(sigmas) - 1,
            sigmas=self._sigmas,
        )

    # --- one evaluation ---------------------------------------------------------------------

    def begin_evaluation(self, sigma: float, device: torch.device, step: int | None = None) -> None:
        """The sampler calls the denoiser at noise level `sigma`, in `step` where it is known."""
        if self._clock is None:
            self._clock = Clock(device)
            self._tell("start", {"report": self.report.to_json()})
        self.sigma = sigma
        self._step = locate_step(sigma, self._sigmas, self._step) if step is None else step
        self._decisions = []
        self._evaluation_start = self._clock.mark()

    def decide(self, track: Hashable, reconsiders: bool = True) -> Decision:
        """A fresh decision for the branches of `track` (a window of a pass).

        reconsiders: whether the host can evaluate a decision again (`ReconsiderStep`). The same
        track asked for again in one evaluation is another pass, with its own memory.
        """
        occurrence = sum(known == track for known, _ in self._decisions)
        state = self._tracks.setdefault((track, occurrence), Track())
        decision = Decision(state, self._policy, self._step, reconsiders)
        self._decisions.append((track, decision))
        return decision

    def mark(self) -> Mark:
        """This moment, as an end for `end_evaluation`."""
        assert self._clock is not None
        return self._clock.mark()

    def end_evaluation(self, end: Mark | None = None) -> None:
        """The denoiser has answered, now or at `end`: settle its decisions and record them."""
        assert self._clock is not None and self._evaluation_start is not None
        for state, indicator in self._updates:
            state.indicator = indicator
        self._updates = []
        for _, decision in self._decisions:
            decision.settle(self.sigma)
            if decision.mixed:
                self.report.warn(MIXED)
        span = (self._evaluation_start, end or self._clock.mark())
        self._marks.append(span)
        self.report.bytes_held = max(self.report.bytes_held, self._bytes_held())
        record = self._record(self._clock.seconds_now(*span))
        self.report.records.append(record)
        self._tell("step", {"record": record.to_json()})
        self._decisions = []

    def _record(self, seconds: float) -> StepRecord:
        decisions = [decision for _, decision in self._decisions]
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

    @reading()
    def read_indicator(
        self, block: nn.Module, arguments: BlockArguments, image: torch.Tensor
    ) -> torch.Tensor | None:
        """The indicator's tensor, or None when it follows from the noise level alone."""
        if self.indicator in TIMESTEP_INDICATORS:
            return None
        if self.indicator == "stack_input":
            return image.clone()
        assert self.family.modulated_input is not None
        return self.family.modulated_input(block, arguments)

    def plan(self, embed: Callable[[list[float]], torch.Tensor], ahead: bool = True) -> None:
        """Compute the timestep indicator of the whole schedule, where it is what decides.

        ahead: whether all levels can be embedded at once, or each only when it is reached.
        """
        if self.indicator in TIMESTEP_INDICATORS and self._schedule is None:
            with reading():
                self._schedule = TimestepSchedule(embed, self._sigmas[:-1] if ahead else ())

    def give_up(self, failure: AdapterFailed) -> None:
        """The rest of the run is computed without the cache."""
        if not self.gave_up:
            self.gave_up = True
            self.report.warn(f"{self.family.name}: runs without the cache: {failure}")
            log.warning("TeaCache: %s", self.report.warnings[-1])

    def scheduled_distance(self, before: float | None) -> float:
        assert self._schedule is not None
        if before is None:
            return self.profile.distance(float("nan"))
        return self.profile.distance(self._schedule.change(before, self.sigma))

    def new_branch(self, layout: Hashable) -> BranchState:
        return BranchState(layout, make_predictor(self.config.predictor))

    def after_evaluation(self, state: BranchState, indicator: torch.Tensor) -> None:
        """`indicator` becomes the state's when this evaluation ends."""
        self._updates.append((state, indicator))

    def place(self, residual: torch.Tensor) -> torch.Tensor:
        """`residual` where the config wants it to wait."""
        return residual.to("cpu") if self.config.cache_device == "cpu" else residual

    # --- the end ------------------------------------------------------------------------------

    def finish(self, outcome: str) -> RunReport:
        """Free everything and complete the report. outcome: done, interrupted or failed."""
        if self._clock is not None:
            times = self._clock.resolve(self._marks)
            self.report.seconds = self._clock.elapsed(self._marks)
            self.report.records = [
                record.timed(seconds)
                for record, seconds in zip(self.report.records, times, strict=True)
            ]
        self.report.outcome = outcome
        self._tracks.clear()
        self._decisions = []
        self._updates = []
        self._schedule = None
        self._tell("end", {"report": self.report.to_json()})
        return self.report

    def _bytes_held(self) -> int:
        held = 0
        for track in self._tracks.values():
            for state in track.branches.values():
                tensors = list(state.predictor.residuals)
                if state.indicator is not None:
                    tensors.append(state.indicator)
                held += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return held

    def _tell(self, event: str, data: dict[str, Any]) -> None:
        if self._listener is not None:
            self._listener(event, data)
