"""The calls of one evaluation of a denoising loop, and those of the evaluation before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any, NamedTuple

from torch import nn

from .equal_calls import EqualCalls, Place
from .hooks import Forward
from .reads import TensorReads

BranchKey = tuple[Hashable, int]
"""What names a branch, with its transformer, and its occurrence among the calls so named."""


class Call(NamedTuple):
    """One call of a transformer.

    Args:
        component: the transformer's name in the pipeline.
        module: the transformer.
        forward: its own forward.
        given: the call's arguments by name.
    """

    component: str
    module: nn.Module
    forward: Forward
    given: dict[str, Any]


class EvaluationCalls:
    """The calls of this evaluation and of the one before, by branch.

    Args:
        reads: counts the comparisons of their inputs.
    """

    def __init__(self, reads: TensorReads) -> None:
        self.made: dict[BranchKey, Call] = {}
        self.before: dict[BranchKey, Call] = {}
        self.equal_calls = EqualCalls(reads)

    def begin_evaluation(self) -> None:
        """What follows are the calls of another evaluation."""
        self.before, self.made = self.made, {}
        self.equal_calls.begin_evaluation()

    def add(self, name: Hashable, call: Call) -> tuple[BranchKey, Place]:
        """Add a call whose branch is called `name`."""
        alike = (call.component, name)
        place = self.equal_calls.place(alike, call.given)
        branch = (alike, place.occurrence)
        self.made[branch] = call
        return branch, place

    def first_of(self, component: str, name: Hashable) -> Call | None:
        """The first of the calls of this evaluation that are named so."""
        alike = (component, name)
        return next((call for (other, _), call in self.made.items() if other == alike), None)

    def has_called(self, component: str) -> bool:
        """Whether the transformer `component` was called in this evaluation."""
        return any(call.component == component for call in self.made.values())

    @property
    def numbers_changed(self) -> bool:
        """Whether this evaluation has another number of equal calls than the one before."""
        now, before = (Counter(alike for alike, _ in calls) for calls in (self.made, self.before))
        return any(now[alike] != before[alike] for alike in now.keys() & before.keys())
