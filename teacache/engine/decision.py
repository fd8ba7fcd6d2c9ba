"""One decision for all branches of a pass, and what a run remembers between evaluations."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from ..report import SKIPPING, Reason
from .indicators import ErrorRate
from .policy import Policy
from .predictors import Predictor

MIXED = "In some steps one branch of the guidance was skipped and another one computed."


def largest(values: Iterable[float]) -> float:
    """The largest of `values`; NaN if one of them is NaN, wherever it stands (unlike `max`)."""
    every = list(values)
    return math.nan if any(map(math.isnan, every)) else max(every)


class RecomputePass(Exception):
    """A branch must be computed after another branch of the same pass was already skipped.

    Raised out of the model's call; the host evaluates the pass again, computed.
    """


class RecomputeEvaluation(Exception):
    """A pass must be computed after another pass of the same evaluation was already skipped.

    Raised out of the model's calls; the host evaluates again after `Run.recompute`.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass
class BranchState:
    """What is remembered of one branch of guidance.

    Args:
        layout: shapes, types and settings of its inputs; another layout starts afresh.
        predictor: holds the cached values.
        error_rate: expected error of the predictor.
        indicator_input: what the indicator read at the last evaluation, [rows, ...].
        skipped: of the evaluations skipped since the last computed one, the level on the axis of
            extrapolation, and the step size in sigma.
        followed: sum of step size * value over those evaluations; None without one.
    """

    layout: Hashable
    predictor: Predictor
    error_rate: ErrorRate
    indicator_input: torch.Tensor | None = None
    skipped: list[tuple[float, float]] = field(default_factory=list)
    followed: torch.Tensor | None = None

    def forget_skipped(self) -> None:
        """What was skipped has been corrected, or cannot be."""
        self.skipped, self.followed = [], None


@dataclass
class PassState:
    """What is remembered of one pass over one context window: its branches share a decision.

    Args:
        branches: by the host's own key for them.
        accumulated: distance since the last computed evaluation.
        skipped_in_a_row: evaluations skipped since then.
        sigma: noise level of the last evaluation.
    """

    branches: dict[Hashable, BranchState] = field(default_factory=dict)
    accumulated: float = 0.0
    skipped_in_a_row: int = 0
    sigma: float | None = None


class Decision:
    """One decision for all branches of a pass: the largest distance decides.

    Args:
        state: of the pass.
        policy: judges the accumulated distance.
        step: the sampler step that the evaluation belongs to.
        can_repeat: whether the host can evaluate the pass again (`RecomputePass`).
        earlier: decisions of the other passes of this evaluation; where one of them is computed,
            so is this one.
        lead: the decision of the whole evaluation, where it was taken before its passes; this one
            is the same, unless a branch must be computed.
    """

    def __init__(
        self,
        state: PassState,
        policy: Policy,
        step: int,
        can_repeat: bool = True,
        earlier: Sequence[Decision] = (),
        lead: Decision | None = None,
    ) -> None:
        self.state = state
        self.distance: float | None = None
        self.accumulated = state.accumulated
        self.reason = policy.fixed_reason(step)
        self.mixed = False
        """Whether a branch was computed after another one was skipped."""
        self.called: set[Hashable] = set()
        """Keys of the branches that were called."""
        self._calls: list[Hashable] = []
        self._policy = policy
        self._can_repeat = can_repeat
        self._skipped_a_call = False
        if lead is not None:
            earlier = [*earlier, lead]
            self.reason = self.reason or lead.reason
        self._skipped_earlier = any(decision.skipping for decision in earlier)
        for decision in earlier:
            if self.needs_distance and not decision.needs_distance:
                self.reason = decision.reason

    @property
    def skipping(self) -> bool:
        return self.reason in SKIPPING

    @property
    def needs_distance(self) -> bool:
        """Whether distances can still change the decision."""
        return self.reason is None or self.skipping

    def require_compute(self, reason: Reason) -> None:
        """Compute because of `reason`.

        Raises:
            RecomputePass: a call of this pass was skipped already. Where the host cannot repeat
                the pass, only the branches from here on are computed.
            RecomputeEvaluation: another pass of this evaluation was skipped already.
        """
        if self.needs_distance:
            self.reason = reason
        if self._skipped_earlier:
            raise RecomputeEvaluation(reason)
        if self._skipped_a_call:
            if self._can_repeat:
                raise RecomputePass
            self.mixed = True

    def consider(self, distance: float) -> None:
        """Take the `distance` of some branches into the decision; the largest one counts."""
        if not self.needs_distance:
            return
        self.distance = largest([distance, self.distance or 0.0])
        self.accumulated = self.state.accumulated + self.distance
        reason = self._policy.compare(self.accumulated, self.state.skipped_in_a_row)
        if reason is Reason.UNDER_THRESHOLD:
            self.reason = reason
        else:
            self.require_compute(reason)

    def repeats(self, keys: Sequence[Hashable]) -> bool:
        """Whether one of the branches `keys` of a call was called before in this evaluation.

        Then the key does not tell what is evaluated: tiles, or conds that share an identity.
        """
        self._calls += keys
        return len(set(self._calls)) < len(self._calls)

    def mark_call_skipped(self) -> None:
        """A call of the model was skipped by this decision."""
        self._skipped_a_call = True

    def restart(self) -> None:
        """Forget the calls made so far; the reason to compute stays."""
        self._skipped_a_call = False
        self._calls = []

    def finish(self, sigma: float) -> None:
        """The evaluation at `sigma` is over: update the state of the pass.

        A mixed decision keeps the accumulated distance, so that the next one computes every
        branch. Branches that were not called in a computed evaluation are forgotten.
        """
        state = self.state
        if self.skipping or self.mixed:
            state.accumulated = self.accumulated
            state.skipped_in_a_row += 1
        else:
            for key in state.branches.keys() - self.called:
                del state.branches[key]
            state.accumulated = 0.0
            state.skipped_in_a_row = 0
        state.sigma = sigma


class RunState:
    """The state of all passes of one run, and updates that take effect after the evaluation."""

    def __init__(self) -> None:
        self._passes: dict[Hashable, PassState] = {}
        self._inputs: list[tuple[BranchState, torch.Tensor]] = []

    def of_pass(self, key: Hashable) -> PassState:
        """The state of the pass `key`, new where it has none."""
        return self._passes.setdefault(key, PassState())

    def defer_indicator_input(self, state: BranchState, value: torch.Tensor) -> None:
        """`value` becomes the branch's when the evaluation ends."""
        self._inputs.append((state, value))

    def commit(self) -> None:
        """The evaluation has ended: apply the deferred updates."""
        for branch, value in self._inputs:
            branch.indicator_input = value
        self.discard()

    def discard(self) -> None:
        """Drop the deferred updates: the evaluation is made again."""
        self._inputs = []

    def release(self) -> None:
        """Free the cached tensors of every pass."""
        for state in self._passes.values():
            state.branches.clear()
        self.discard()

    @property
    def bytes_held(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors())

    def _tensors(self) -> Iterator[torch.Tensor]:
        for state in self._passes.values():
            for branch in state.branches.values():
                yield from branch.predictor.values
                if branch.followed is not None:
                    yield branch.followed
                if branch.indicator_input is not None:
                    yield branch.indicator_input
