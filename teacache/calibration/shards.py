"""The runs that a calibration is made of: each is sampled apart, and leaves a shard.

A shard is the same wherever, beside whatever and in whatever order the runs are sampled, on one
kind of machine. The calibration puts them together by the number of their case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..engine.strategy import Budget
from ..errors import UserError
from ..profiles.plans import Plan
from ..profiles.profile import Profile
from .override import RunOverride
from .recorder import Recorded, Recorder
from .sketch import Sketcher

Attempt = Plan | Budget | None
"""What a run does: a plan, a forecast that keeps a number of computed steps, or the default."""


@dataclass(frozen=True)
class SampledRun:
    """One run.

    Args:
        final: its latent, or its pictures where the host gives no latent.
        computed: steps that were computed.
    """

    final: torch.Tensor
    computed: int


class CalibratedModel(Protocol):
    """A model in its host, and what is sampled with it: cases, each a prompt and a seed.

    Args:
        family, digest: of the model.
        profile: the model's own before calibration.
        steps: of each run.
        cases: for the user.
        about: the model's and scheduler's name and all else that is saved as provenance.
        key: what a resumed calibration must have in common.
    """

    @property
    def family(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def profile(self) -> Profile: ...
    @property
    def steps(self) -> int: ...
    @property
    def cases(self) -> Sequence[str]: ...
    @property
    def about(self) -> dict[str, Any]: ...
    @property
    def key(self) -> dict[str, Any]: ...


class CalibrationBackend(CalibratedModel, Protocol):
    """A model that is at hand."""

    def sample(self, case: int, override: RunOverride) -> SampledRun:
        """Sample a case."""


@dataclass(frozen=True)
class ModelDescription:
    """A `CalibratedModel` that is loaded elsewhere."""

    family: str
    digest: str
    profile: Profile
    steps: int
    cases: tuple[str, ...]
    about: dict[str, Any]
    key: dict[str, Any]

    @classmethod
    def of(cls, model: CalibratedModel) -> ModelDescription:
        return cls(
            model.family,
            model.digest,
            model.profile,
            model.steps,
            tuple(model.cases),
            model.about,
            model.key,
        )


@dataclass(frozen=True)
class CaseRun:
    """A run to sample.

    Args:
        case: its number.
        attempt: what it does, unless it is recorded.
        recorded: it is uncached, and recorded.
    """

    case: int
    attempt: Attempt = None
    recorded: bool = False


@dataclass(frozen=True)
class Shard:
    """What is kept of a run.

    Args:
        final: a sketch of what was sampled.
        computed: steps that were computed.
        recorded: of a run that was recorded.
    """

    final: torch.Tensor
    computed: int
    recorded: Recorded | None = None


Sampling = Callable[[Sequence[CaseRun]], Iterator[tuple[CaseRun, Shard]]]
"""Samples runs, and gives each with its shard, in the order in which they end."""


def in_turn(backend: CalibrationBackend) -> Sampling:
    """Runs sampled in this process, one after the other."""
    sketch = Sketcher()

    def sample(runs: Sequence[CaseRun]) -> Iterator[tuple[CaseRun, Shard]]:
        for run in runs:
            yield run, sample_shard(backend, run, sketch)

    return sample


def sample_shard(backend: CalibrationBackend, run: CaseRun, sketch: Sketcher) -> Shard:
    """Sample a run.

    Raises:
        UserError: it gave values that are not numbers, or its sampler leaves out steps.
    """
    recorder = Recorder(sketch) if run.recorded else None
    override = RunOverride(
        plan=run.attempt if isinstance(run.attempt, tuple) else None,
        budget=run.attempt if isinstance(run.attempt, Budget) else None,
        observer=recorder,
    )
    sampled = backend.sample(run.case, override)
    if not bool(torch.isfinite(sampled.final).all()):
        raise UserError(
            f"case {run.case + 1} ({backend.cases[run.case]}): the run gave values that are not "
            "numbers (NaN or infinite); nothing is saved. Try another precision"
        )
    if recorder is None:
        return Shard(sketch(sampled.final), sampled.computed)
    assert override.context is not None
    context = override.context
    try:
        recording = recorder.finish(context.conditions.sigmas, sampled.final)
    except ValueError as error:
        raise UserError(f"calibration: {error}: choose another sampler") from None
    recorded = Recorded(recording, context.conditions, context.sampler.euler)
    return Shard(recording.final, sampled.computed, recorded)
