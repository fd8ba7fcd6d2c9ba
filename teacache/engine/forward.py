"""What happens in one call of the model: measure, decide, cache, predict."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..families.streams import BlockArguments, FamilyMismatch, reading_model
from ..report import Reason
from .decision import BranchState, Decision, largest
from .device import OUT_OF_MEMORY
from .predictors import combine, interpolation_weights
from .regions import relative_change
from .rounding import rounding_error
from .transfer import beside, in_float32

if TYPE_CHECKING:
    from .run import Run

RELIABLE_ERROR = 0.4
"""Relative error of a prediction at which half of the correction is applied. Chosen on the tuning
captions of the demo and photos models, at 20 and 50 steps."""


def branch_state(run: Run, decision: Decision, key: Hashable, layout: Hashable) -> BranchState:
    """The state of branch `key`; a branch that is new or has changed must be computed."""
    branches = decision.state.branches
    layout = (layout, run.segment)
    state = branches.get(key)
    decision.called.add(key)
    if state is None or state.layout != layout:
        reason = Reason.NEW_BRANCH if state is None else Reason.MISMATCH
        state = branches[key] = run.new_branch(layout)
        decision.require_compute(reason)
    elif not state.predictor.sigmas:
        decision.require_compute(Reason.NEW_BRANCH)
    return state


def decide_by_error_rate(run: Run, decision: Decision, state: BranchState) -> None:
    """Let the expected error of `state` decide (indicator `rate`)."""
    if not decision.needs_distance:
        return
    level, step_size = run.position.axis, run.position.relative_step_size
    rate, predictor = state.error_rate, state.predictor
    distance = rate.distance(predictor, level, step_size)
    if distance is None:
        decision.require_compute(Reason.ERROR_UNKNOWN)
    elif rate.beyond_horizon(predictor, level):
        decision.require_compute(Reason.BEYOND_HORIZON)
    else:
        decision.consider(run.distance_of_skip(distance, state))


def cache_value(
    run: Run, state: BranchState, value: torch.Tensor, rounding: torch.Tensor | None = None
) -> None:
    """Cache the computed `value`; where no plan decides, the predictor learns from it first.

    Args:
        rounding: relative rounding error of `value`.
    """
    level = run.position.axis
    if run.strategy.indicator != "plan":
        update = state.predictor.deferred_update(level, value, rounding)
        if update is not None:
            run.reader.defer(update)
    state.predictor.observe(level, run.to_cache_device(value))


class PredictionForward:
    """One evaluation as the sampler sees it: the derivative after guidance, computed or not.

    With indicator `rate` its expected error decides over the whole evaluation. A skip runs nothing
    where the prediction is cached; where residuals are, the model runs without its block stack.

    Args:
        key, layout: of the prediction, as for a branch.
    """

    def __init__(self, run: Run, decision: Decision, key: Hashable, layout: Hashable) -> None:
        self._run, self._decision, self._key = run, decision, key
        asked = decision.needs_distance
        self._state = branch_state(run, decision, key, layout)
        if run.strategy.indicator == "rate":
            decide_by_error_rate(run, decision, self._state)
            run.agree(decision, asked)

    @property
    def skipping(self) -> bool:
        return self._decision.skipping

    @property
    def nodes(self) -> list[float]:
        """Where the cached values lie on the axis of extrapolation (`Schedule.axis_of`)."""
        return self._state.predictor.sigmas

    @property
    def weights(self) -> list[float]:
        """Their weights in the prediction for this evaluation."""
        return self._state.predictor.weights(self._run.position.axis)

    def restart(self) -> None:
        """Forget what is cached: the value is no longer made of the same parts."""
        self._state = self._run.new_branch(self._state.layout)
        self._decision.state.branches[self._key] = self._state

    def predict(self, like: torch.Tensor) -> torch.Tensor | None:
        """The predicted value, on the device and in the type of `like`.

        Returns:
            None where there is no memory for it: the model must be evaluated.
        """
        run = self._run
        try:
            value = self._state.predictor.predict(run.position.axis, like).to(like.dtype)
            self.skipped(value)
        except OUT_OF_MEMORY:
            run.release()
            self._decision.require_compute(Reason.UNCACHED)
            return None
        self._decision.mark_call_skipped()
        return value

    def skipped(self, value: torch.Tensor) -> None:
        """The sampler follows `value`, which was not computed."""
        run, state = self._run, self._state
        if not run.sampler.euler:
            return
        size = run.position.step_size
        share = in_float32(value) * size
        if state.followed is not None:
            share.add_(beside(state.followed, share))
        state.followed = run.to_cache_device(share)
        state.skipped.append((run.position.axis, size))

    def observe(
        self,
        value: torch.Tensor,
        origin: torch.Tensor | None = None,
        rounding: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Cache the computed `value`.

        With Euler's method the skipped steps before can be corrected now. The polynomial through
        the values before and after them is taken for the truth, and the difference of the two
        integrals is added to this step, multiplied by a gain. The value itself is cached.

        Args:
            origin: from where the size of the value is measured; None for 0.
            rounding: relative rounding error of the value (`rounding.rounding_error`).

        Returns:
            The value for the sampler to continue with.
        """
        run, state = self._run, self._state
        corrected = value
        if self._decision.mixed:
            state.forget_skipped()
            return value
        try:
            rated = run.strategy.indicator == "rate" and run.cache_is_reusable
            if rated or state.skipped:
                error = state.error_rate.measure(
                    state.predictor, run.position.axis, value, run.latent.regions, origin
                )
                corrected = self._corrected(value, error)
            if run.cache_is_reusable:
                cache_value(run, state, value, rounding)
        except OUT_OF_MEMORY:
            run.release()
        state.forget_skipped()
        return corrected

    def _corrected(self, value: torch.Tensor, error: torch.Tensor | None) -> torch.Tensor:
        """`value` with what the skipped steps have missed; `error`: relative, of its prediction."""
        state, position = self._state, self._run.position
        step_size = position.step_size
        if error is None or state.followed is None or not step_size:
            return value
        after = in_float32(value)
        cached = [beside(held, value).to(after.dtype) for held in state.predictor.values]
        nodes = [*state.predictor.sigmas, position.axis]
        missed = -beside(state.followed, value)
        for level, size in state.skipped:
            missed.add_(combine([*cached, after], interpolation_weights(nodes, level)), alpha=size)
        return (after + missed * (correction_gain(error) / step_size)).to(value.dtype)


def correction_gain(error: torch.Tensor) -> torch.Tensor:
    """How much of a correction is applied, 0 to 1, where predictions miss by `error` (relative L1).

    As a Wiener filter weighs a signal by its noise. Where predictions miss widely the polynomial
    through the computed values is no truth either, and a model whose later steps mend the error by
    themselves would mend it twice: few steps with strong guidance lose by a full correction.
    """
    return torch.nan_to_num(1 / (1 + (error / RELIABLE_ERROR).square()))


class StackForward:
    """One call of the transformer whose block stack is cached; serves `blocks.StackCallbacks`.

    Args:
        branches: keys of the branches in the batch, each with the same number of consecutive rows.
        layout: shapes, types and settings of the call's inputs.
        measure_only: only the indicator is wanted; blocks pass their inputs through and nothing is
            cached.
    """

    def __init__(
        self,
        run: Run,
        decision: Decision,
        branches: Sequence[Hashable],
        layout: Hashable,
        measure_only: bool = False,
    ) -> None:
        self.image_tokens = 0
        self.skipping = False
        self._run = run
        self._decision = decision
        self._keys = branches
        self._layout = layout
        self._measure_only = measure_only
        self._stack_input: torch.Tensor | None = None
        self._prediction: torch.Tensor | None = None
        self._parts: tuple[int, ...] = ()
        """Tokens of the parts that the image stream packs; empty for a single one."""

    def on_stack_input(
        self, block: nn.Module, arguments: BlockArguments, image: torch.Tensor
    ) -> None:
        self.image_tokens = image.shape[1]
        self._parts = arguments.image_parts()
        with self._run.lock:
            asked = self._decision.needs_distance
            try:
                self._measure(block, arguments, image)
            except OUT_OF_MEMORY:
                self._run.release()
                self._decision.require_compute(Reason.UNCACHED)
            except FamilyMismatch:
                self._run.agree(self._decision, asked, failed=True)
                raise
            self._run.agree(self._decision, asked)
            if self._measure_only:
                self.skipping, self._prediction = True, image
                return
            self.skipping = self._decision.skipping
            if self.skipping:
                self._skip(image)
        if not self.skipping and not self._run.gave_up and self._run.cache_is_reusable:
            self._stack_input = self._copy(image)

    def on_stack_output(self, image: torch.Tensor) -> None:
        if self._stack_input is None or self._run.gave_up:
            return
        with reading_model():
            residual = torch.sub(image, self._stack_input, out=self._stack_input)
        self._stack_input = None
        run = self._run
        try:
            with run.lock:
                for key, part in zip(self._keys, self._split(residual), strict=True):
                    if run.observer is not None:
                        run.observer.on_residual(run.position.step, key, part)
                    state = self._decision.state.branches[key]
                    cache_value(run, state, part, rounding_error(part.dtype, part))
        except OUT_OF_MEMORY:
            run.release()

    def predicted_output(self) -> torch.Tensor:
        assert self._prediction is not None
        return self._prediction

    def give_up(self, mismatch: FamilyMismatch) -> None:
        self.image_tokens, self.skipping = 0, False
        self._stack_input = None
        self._run.give_up(mismatch)
        self._decision.require_compute(Reason.UNCACHED)

    def _copy(self, image: torch.Tensor) -> torch.Tensor | None:
        """A copy of `image`; None where there is no memory for it."""
        try:
            return image.clone()
        except OUT_OF_MEMORY:
            self._run.release()
            return None

    def _skip(self, image: torch.Tensor) -> None:
        """Predict the output of the stack; compute where there is no memory for it."""
        try:
            self._prediction = self._predict(image)
        except OUT_OF_MEMORY:
            self._run.release()
        if self._run.any_rank(self._prediction is None):
            self.skipping = False
            self._decision.require_compute(Reason.UNCACHED)
        else:
            self._decision.mark_call_skipped()

    def _split(self, tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tensor.chunk(len(self._keys))

    def _measure(self, block: nn.Module, arguments: BlockArguments, image: torch.Tensor) -> None:
        """Let the change since the last evaluation, or the expected error, decide."""
        layout = (self._layout, image.shape[1:], image.shape[0] // len(self._keys), image.dtype)
        run, decision = self._run, self._decision
        states = [branch_state(run, decision, key, layout) for key in self._keys]
        if self._run.gave_up:
            decision.require_compute(Reason.UNCACHED)
        elif run.strategy.indicator == "profile":
            read = run.read_stack_input(block, arguments, image)
            if read is None:
                self._decide_by_timestep()
            else:
                self._decide_by_input(states, read)
        # the others were decided before the model was called

    def _decide_by_timestep(self) -> None:
        run, decision = self._run, self._decision
        before = decision.state.sigma
        if run.observer is not None and before is not None:
            change = run.timestep_change(before)
            for key in self._keys:
                run.observer.on_indicator_change(run.position.step, key, change)
        if decision.needs_distance:
            decision.consider(run.timestep_distance(before))

    def _decide_by_input(self, states: Sequence[BranchState], read: torch.Tensor) -> None:
        """read: what the profile compares, [rows, tokens, width]."""
        run, decision = self._run, self._decision
        parts = self._split(read)
        wanted = decision.needs_distance or run.observer is not None
        regions = run.latent.token_regions(read, self._parts)
        changes = [
            (key, relative_change(now, beside(state.indicator_input, now), regions))
            for key, state, now in zip(self._keys, states, parts, strict=True)
            if wanted and state.indicator_input is not None
        ]
        if run.observer is not None:
            for key, change in changes:
                run.observer.on_indicator_change(
                    run.position.step, key, largest(run.reader.read(change))
                )
        if decision.needs_distance and len(changes) == len(states):
            values = run.reader.read(torch.cat([change for _, change in changes]))
            decision.consider(largest(run.distance(value) for value in values))
        if self._measure_only or not run.cache_is_reusable:
            return
        for state, part in zip(states, parts, strict=True):
            run.state.defer_indicator_input(state, run.to_cache_device(part))

    def _predict(self, image: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(image)
        branches, level = self._decision.state.branches, self._run.position.axis
        for key, given, rows in zip(self._keys, self._split(image), self._split(out), strict=True):
            residual = branches[key].predictor.predict(level, given)
            torch.add(given, residual.to(given.dtype), out=rows)
        return out
