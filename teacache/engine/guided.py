"""One evaluation before guidance: what each of its passes returned, computed or predicted.

A guidance that is not one linear formula, or that remembers earlier steps, must run in skipped
steps too. What it is made of is then predicted, with the same weights as the prediction after it:
for linear guidance that is the same as predicting its result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import torch

from ..report import Reason
from .decision import Decision, RecomputeEvaluation
from .device import OUT_OF_MEMORY
from .forward import PredictionForward, branch_state
from .predictors import combine
from .transfer import beside

if TYPE_CHECKING:
    from .run import Run


class GuidedForward:
    """The passes of one evaluation, each with one value for every cond.

    Args:
        decision: of the evaluation.
        whole: its prediction after guidance, which gives the weights.
    """

    def __init__(self, run: Run, decision: Decision, whole: PredictionForward) -> None:
        self._run, self._decision, self._whole = run, decision, whole
        self._passes: Counter[Hashable] = Counter()

    @property
    def skipping(self) -> bool:
        return self._decision.skipping

    def begin_pass(self, key: Hashable) -> Hashable:
        """A key for the pass that begins; the same `key` names another one each time."""
        self._passes[key] += 1
        return "guided", key, self._passes[key]

    def predict(self, key: Hashable, count: int, like: torch.Tensor) -> list[torch.Tensor]:
        """The predicted values of a pass, in the type and on the device of `like`.

        Args:
            key: from `begin_pass`.
            count: number of its values.

        Raises:
            RecomputeEvaluation: one of them is not cached at the levels of the whole prediction,
                or there is no memory: the evaluation must be computed.
        """
        run, nodes = self._run, self._whole.nodes
        weights = self._whole.weights
        try:
            values = []
            for index in range(count):
                state = self._decision.state.branches.get((key, index))
                if state is None or state.predictor.sigmas != nodes:
                    raise RecomputeEvaluation(Reason.MISMATCH)
                cached = [beside(value, like) for value in state.predictor.values]
                values.append(combine(cached, weights).to(like.dtype))
        except OUT_OF_MEMORY:
            run.release()
            raise RecomputeEvaluation(Reason.UNCACHED) from None
        self._decision.mark_call_skipped()
        return values

    def observe(self, key: Hashable, values: Sequence[torch.Tensor]) -> None:
        """Cache the computed `values` of a pass."""
        run = self._run
        if run.gave_up or not run.cache_is_reusable:
            return
        try:
            for index, value in enumerate(values):
                layout = tuple(value.shape), value.dtype, str(value.device)
                state = branch_state(run, self._decision, (key, index), layout)
                state.predictor.observe(run.position.axis, run.to_cache_device(value))
        except OUT_OF_MEMORY:
            run.release()
