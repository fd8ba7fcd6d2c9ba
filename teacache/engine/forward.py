"""What a call of the model does: read, decide, remember, stand in."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..families.streams import AdapterFailed, BlockArguments, reading
from ..report import Reason
from .decision import BranchState, Decision
from .indicators import relative_change
from .predictors import combine, interpolation_weights

if TYPE_CHECKING:
    from .run import Run


def known_state(run: Run, decision: Decision, key: Hashable, layout: Hashable) -> BranchState:
    """The state of branch `key`; one that is new or has changed is fresh and demands computing."""
    branches = decision.track.branches
    layout = (layout, run.leg)
    state = branches.get(key)
    decision.seen.add(key)
    if state is None or state.layout != layout:
        reason = Reason.NEW_BRANCH if state is None else Reason.MISMATCH
        state = branches[key] = run.new_branch(layout)
        decision.demand(reason)
    elif not state.predictor.sigmas:
        decision.demand(Reason.NEW_BRANCH)
    return state


def consider_rate(run: Run, decision: Decision, states: Sequence[BranchState]) -> None:
    """Let the largest expected error of `states` decide."""
    share = run.step_share()
    for state in states:
        if not decision.measures:
            return
        distance = state.rate.distance(state.predictor, run.sigma, share)
        if distance is None:
            decision.demand(Reason.LEARNING)
        elif state.rate.out_of_reach(state.predictor, run.sigma):
            decision.demand(Reason.OUT_OF_REACH)
        else:
            decision.consider(distance)


def remember(run: Run, state: BranchState, value: torch.Tensor, kept: torch.Tensor) -> None:
    """Hold `kept` (`value`, where it is to wait), after seeing what its prediction missed."""
    if run.method.indicator == "rate":
        state.rate.measure(state.predictor, run.sigma, value)
    if run.method.indicator != "plan":
        lesson = state.predictor.lesson(run.sigma, value)
        if lesson is not None:
            run.reads.later(*lesson)
    state.predictor.observe(run.sigma, kept)


class WholeCall:
    """One evaluation of one branch whose whole prediction is kept: nothing runs on a skip."""

    def __init__(self, run: Run, decision: Decision, key: Hashable, layout: Hashable) -> None:
        self._run, self._decision = run, decision
        self._state = known_state(run, decision, key, layout)
        if run.method.indicator == "rate":
            consider_rate(run, decision, list(decision.track.branches.values()))

    @property
    def skipping(self) -> bool:
        return self._decision.skipping

    def predict(self, like: torch.Tensor) -> torch.Tensor:
        """The value expected now, on the device and in the type of `like`."""
        self._decision.skipped_a_call()
        sigma = self._run.sigma
        self._state.skipped.append((sigma, self._run.step_length()))
        return self._state.predictor.predict(sigma).to(like.device, like.dtype)

    def observe(self, value: torch.Tensor) -> torch.Tensor:
        """Remember the computed `value`; returns the one to go on with.

        With Euler's method the steps that were skipped before can now be made good: a polynomial
        through the values before and after them tells what the predictions have missed, and the
        difference of the two integrals is added to this step. The value itself is remembered.
        """
        run, state = self._run, self._state
        corrected = value
        if run.solver.euler and state.skipped:
            corrected = self._corrected(value)
        state.skipped = []
        if run.keeps():
            remember(run, state, value, run.place(value))
        return corrected

    def _corrected(self, value: torch.Tensor) -> torch.Tensor:
        run, predictor = self._run, self._state.predictor
        step = run.step_length()
        nodes = [*predictor.sigmas[-2:], run.sigma]
        if not step or len(set(nodes)) < len(nodes):
            return value
        weights = [0.0] * (len(predictor.sigmas) + 1)
        for sigma, length in self._state.skipped:
            after = interpolation_weights(nodes, sigma)
            for place, weight in enumerate(reversed(after)):
                weights[-1 - place] += length / step * weight
            for place, weight in enumerate(reversed(predictor.weights(sigma))):
                weights[-2 - place] -= length / step * weight
        weights[-1] += 1.0
        held = [known.to(value.device, value.dtype) for known in predictor.held]
        return combine([*held, value], weights)


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
        self._lead: torch.Tensor | None = None
        self._entry: torch.Tensor | None = None
        self._prediction: torch.Tensor | None = None

    def give_up(self, failure: AdapterFailed) -> None:
        self.image_tokens, self.skipping = 0, False
        self._entry = self._lead = None
        self._run.give_up(failure)
        self._decision.demand(Reason.UNCACHED)

    def _split(self, tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tensor.chunk(len(self._keys))

    @property
    def lead_tokens(self) -> int:
        return 0 if self._lead is None else self._lead.shape[1]

    def lead(self, image: torch.Tensor) -> None:
        self._lead = image.clone()

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
        elif self._run.keeps():
            self._entry = image.clone()

    def _measure(self, block: nn.Module, arguments: BlockArguments, image: torch.Tensor) -> None:
        """Let the change since the last evaluation, or the expected error, decide."""
        layout = (self._layout, image.shape[1:], image.shape[0] // len(self._keys), image.dtype)
        run, decision = self._run, self._decision
        states = [known_state(run, decision, key, layout) for key in self._keys]
        if run.method.indicator == "rate":
            consider_rate(run, decision, states)
            return
        if run.method.indicator in ("spectral", "plan"):
            return  # settled before: by `Run.consider_latent`, or by the plan
        if run.method.indicator == "first_block":
            assert self._lead is not None
            stride = run.config.token_stride
            readings: torch.Tensor | None = image[:, ::stride] - self._lead[:, ::stride]
            self._lead = None
        else:
            readings = run.read_entry(block, arguments, image)
        if readings is None:
            if run.observer is not None and decision.track.sigma is not None:
                change = run.scheduled_change(decision.track.sigma)
                for key in self._keys:
                    run.observer.reading(run.step, key, change)
            if decision.measures:
                decision.consider(run.scheduled_distance(decision.track.sigma))
            return
        parts = self._split(readings)
        before = [
            None if state.reading is None else state.reading.to(image.device) for state in states
        ]
        if run.observer is not None:
            for key, now, held in zip(self._keys, parts, before, strict=True):
                if held is not None:
                    change = float(relative_change(now, held).max())
                    run.observer.reading(run.step, key, change)
        if decision.measures and all(held is not None for held in before):
            changes = [
                relative_change(now, held)
                for now, held in zip(parts, before, strict=True)
                if held is not None
            ]
            values = run.reads.now(torch.cat(changes))
            decision.consider(max(run.distance(value) for value in values))
        if self._peeking or not run.keeps():
            return
        for state, part in zip(states, parts, strict=True):
            run.after_evaluation(state, part)

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
            if self._run.observer is not None:
                self._run.observer.residual(self._run.step, key, part)
            remember(self._run, state, part, self._run.place(part))

    def prediction(self) -> torch.Tensor:
        assert self._prediction is not None
        return self._prediction
