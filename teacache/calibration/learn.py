"""Learning a model's usual errors from a run that the user samples anyway (`preset` = `learn`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..engine.presets import RunContext, learned_name
from ..errors import ConfigError, UserError
from ..profiles.profile import Profile
from ..profiles.store import ProfileStore
from .calibrator import Calibrator, SampledRun
from .journal import Journal
from .override import RunOverride
from .recorder import Recorder
from .sketch import Sketcher


@dataclass
class _Recorded:
    """A `CalibrationBackend` whose one case has been recorded already."""

    family: str
    digest: str
    profile: Profile
    steps: int
    about: dict[str, Any] = field(default_factory=dict)
    cases: Sequence[str] = ("one run",)
    key: dict[str, Any] = field(default_factory=dict)

    def sample(self, case: int, override: RunOverride) -> SampledRun:
        raise NotImplementedError("the run is over")


class Learning:
    """Records one uncached run and saves what it showed, under a name that only the user chooses.

    Args:
        context: what was known when the run began.
        store: where the profile is saved; an earlier one of the same name is replaced.
    """

    def __init__(self, context: RunContext, store: ProfileStore) -> None:
        self.recorder = Recorder(Sketcher())
        self._context, self._store = context, store

    def finish(self) -> str:
        """Save the profile.

        Returns:
            One sentence: what was saved, or why nothing was.
        """
        context, conditions = self._context, self._context.conditions
        name = learned_name(conditions)
        backend = _Recorded(
            conditions.family, conditions.weights_digest, context.profile, conditions.steps
        )
        journal = Journal(None, {})
        try:
            recording = self.recorder.finish(conditions.sigmas)
            journal.add_recording(0, recording, conditions, context.sampler.euler)
            calibration = Calibrator(backend, name, journal, quick=True).run()
            self._store.save(calibration, overwrite=True)
        except (ConfigError, UserError, OSError, ValueError) as error:
            return f"Nothing was learned: {error}."
        return f"Profile {name} is saved: choose it in `profile` to use it."
