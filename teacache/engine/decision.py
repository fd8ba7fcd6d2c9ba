"""One decision for all branches of a step, and what is remembered from step to step."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch

from ..report import SKIPPING, Reason
from .indicators import Rate
from .policy import Policy
from .predictors import Predictor

MIXED = "In some steps one branch of the guidance was skipped and another one computed."


class ReconsiderStep(Exception):
    """A branch demands computing after another of the same decision was already skipped.

    Raised out of the model's call; the host evaluates the whole decision again, computed.
    """


class ReconsiderEvaluation(Exception):
    """A pass demands computing after another pass of the evaluation was already skipped.

    Raised out of the model's calls; the host evaluates again behind `Run.reconsider`, computed.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass
class BranchState:
    """What is remembered of one branch: layout of its inputs, last reading, values, rate.

    skipped: noise level and step length of the evaluations skipped since the last computed one.
    """

    layout: Hashable
    predictor: Predictor
    rate: Rate
    reading: torch.Tensor | None = None
    skipped: list[tuple[float, float]] = field(default_factory=list)


@dataclass
class Track:
    """One window of one pass: its branches, the view of its latent, its accumulated distance."""

    branches: dict[Hashable, BranchState] = field(default_factory=dict)
    accumulated: float = 0.0
    skipped_in_a_row: int = 0
    sigma: float | None = None
    view: torch.Tensor | None = None


class Decision:
    """One decision for all branches of a track: the largest distance decides.

    earlier: of the other passes of this evaluation; where one of them is computed, so is this.
    """

    def __init__(
        self,
        track: Track,
        policy: Policy,
        step: int,
        reconsiders: bool = True,
        earlier: Sequence[Decision] = (),
    ) -> None:
        self.track = track
        self.distance: float | None = None
        self.accumulated = track.accumulated
        self.reason = policy.settled(step)
        self.mixed = False
        """Whether a branch was computed after another one was skipped."""
        self.seen: set[Hashable] = set()
        """The branches that were called."""
        self._policy = policy
        self._reconsiders = reconsiders
        self._skipped_a_call = False
        self._skipped_before = any(decision.skipping for decision in earlier)
        for decision in earlier:
            if self.measures and not decision.measures:
                self.reason = decision.reason

    @property
    def skipping(self) -> bool:
        return self.reason in SKIPPING

    @property
    def measures(self) -> bool:
        """Whether distances are still needed."""
        return self.reason is None or self.skipping

    def demand(self, reason: Reason) -> None:
        """Compute, because of `reason`; raises ReconsiderStep if a call was skipped already, and
        ReconsiderEvaluation if another pass was.

        Where the host cannot call again (`reconsiders`), the branches from here on are computed.
        """
        if self.measures:
            self.reason = reason
        if self._skipped_before:
            raise ReconsiderEvaluation(reason)
        if self._skipped_a_call:
            if self._reconsiders:
                raise ReconsiderStep
            self.mixed = True

    def consider(self, distance: float) -> None:
        """Take the largest `distance` of some branches into the decision."""
        if not self.measures:
            return
        self.distance = max(distance, self.distance or 0.0)
        self.accumulated = self.track.accumulated + self.distance
        reason = self._policy.judge(self.accumulated, self.track.skipped_in_a_row)
        if reason is Reason.UNDER_THRESHOLD:
            self.reason = reason
        else:
            self.demand(reason)

    def skipped_a_call(self) -> None:
        self._skipped_a_call = True

    def restart(self) -> None:
        """Forget the calls made so far; the reason to compute stays."""
        self._skipped_a_call = False

    def settle(self, sigma: float) -> None:
        """The evaluation is over: bring the track up to date.

        A mixed one keeps what was accumulated, so that the next one computes every branch.
        Branches that were not called when all was computed are forgotten.
        """
        if not self.skipping and not self.mixed:
            for key in self.track.branches.keys() - self.seen:
                del self.track.branches[key]
        if self.skipping or self.mixed:
            self.track.accumulated = self.accumulated
            self.track.skipped_in_a_row += 1
        else:
            self.track.accumulated = 0.0
            self.track.skipped_in_a_row = 0
        self.track.sigma = sigma
