"""Records an uncached run for a calibration: numbers, and small sketches instead of tensors."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch

from ..engine.regions import relative_change
from ..profiles.conditions import Conditions
from .sketch import Sketcher, gram
from .trajectory import Trajectory


@dataclass(frozen=True)
class Point:
    """One branch between two consecutive steps.

    Args:
        step: the later one.
        branch: number of the branch, such as conditional and unconditional.
        indicator, residual: relative L1 change of the indicator's tensor and of the block stack's
            residual.
        ratio: mean |residual| at the step over that before (MagCache, arXiv 2506.09045, eq. 4).
    """

    step: int
    branch: int
    indicator: float
    residual: float
    ratio: float


@dataclass(frozen=True)
class Recording:
    """One uncached run, with a sketch of the sampled latent in `final`."""

    trajectory: Trajectory
    points: tuple[Point, ...]
    final: torch.Tensor


@dataclass(frozen=True)
class Recorded:
    """A recording, the conditions of its run, and whether its sampler takes Euler steps."""

    recording: Recording
    conditions: Conditions
    euler: bool


@dataclass
class _Branch:
    """The state of a branch while it is recorded: one residual, and the changes by step."""

    number: int
    step: int = -1
    residual: torch.Tensor | None = None
    indicator: dict[int, float] = field(default_factory=dict)


class Recorder:
    """A `engine.run.RunObserver`: reduces every tensor as it comes. Holds one residual per branch.

    Of a step with several evaluations the first one counts. Branches differ by the host's
    keys, and a change is always between two values of one branch.
    """

    def __init__(self, sketch: Sketcher) -> None:
        self._sketch = sketch
        self._derivatives: dict[int, torch.Tensor] = {}
        self._branches: dict[Hashable, _Branch] = {}
        self._points: list[Point] = []

    def on_prediction(self, step: int, derivative: torch.Tensor) -> None:
        if step not in self._derivatives:
            self._derivatives[step] = self._sketch(derivative)

    def on_indicator_change(self, step: int, branch: Hashable, change: float) -> None:
        self._branch(branch).indicator.setdefault(step, change)

    def on_residual(self, step: int, branch: Hashable, residual: torch.Tensor) -> None:
        state = self._branch(branch)
        if state.step == step:
            return
        before, state.residual = state.residual, residual.clone()
        consecutive, state.step = state.step == step - 1, step
        change = state.indicator.get(step)
        if not consecutive or before is None or change is None or before.shape != residual.shape:
            return
        self._points.append(
            Point(
                step,
                state.number,
                change,
                float(relative_change(residual, before).max()),
                float(residual.float().abs().mean() / before.float().abs().mean()),
            )
        )

    def _branch(self, branch: Hashable) -> _Branch:
        return self._branches.setdefault(branch, _Branch(len(self._branches)))

    def finish(self, sigmas: Sequence[float], final: torch.Tensor | None = None) -> Recording:
        """The recording of the run over `sigmas` that gave the latent `final`, if that is wanted.

        ValueError where the run did not step through every noise level.
        """
        steps = range(len(sigmas) - 1)
        missing = [step for step in steps if step not in self._derivatives]
        if missing:
            raise ValueError(f"the sampler evaluated nothing in steps {missing} of {len(steps)}")
        table = gram([self._derivatives[step] for step in steps]).numpy()
        points = sorted(self._points, key=lambda p: (p.step, p.indicator, p.residual))
        sketched = torch.empty(0) if final is None else self._sketch(final)
        return Recording(Trajectory(tuple(sigmas), table), tuple(points), sketched)
