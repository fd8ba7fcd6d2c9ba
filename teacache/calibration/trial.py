"""What calibration makes a run do, in place of what its settings would."""

from __future__ import annotations

from dataclasses import dataclass

from ..choice import Choice, planned_choice, recording_choice
from ..config import TeaCacheConfig
from ..profiles import Profile
from ..profiles.plans import Plan
from ..run import Observer


@dataclass(frozen=True)
class Trial:
    """Compute the steps of `plan`; or compute every step, and show it to `observer`."""

    plan: Plan | None = None
    observer: Observer | None = None

    def choice(self, config: TeaCacheConfig, profile: Profile) -> Choice:
        if self.plan is not None:
            return planned_choice(config, profile, self.plan)
        return recording_choice(config, profile)
