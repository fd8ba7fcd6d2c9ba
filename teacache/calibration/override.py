"""What calibration makes a run do, in place of what its settings would."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import TeaCacheConfig
from ..engine.choice import Choice, plain_choice, planned_choice, recording_choice
from ..engine.presets import Known
from ..engine.run import Observer
from ..profiles.plans import Plan


@dataclass
class Trial:
    """One run. It computes the steps of `plan`; or every step, shown to `observer`; or, without
    both, what the settings say, whatever was calibrated before.

    known: what the host knew when the run began.
    """

    plan: Plan | None = None
    observer: Observer | None = None
    known: Known | None = None

    def choice(self, config: TeaCacheConfig, known: Known) -> Choice:
        self.known = known
        if self.plan is not None:
            return planned_choice(config, known.profile, self.plan)
        if self.observer is not None:
            return recording_choice(config, known.profile)
        return plain_choice(config, known.profile, known.solver, known.packed)
