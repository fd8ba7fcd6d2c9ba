"""Learning a model's usual errors from a run that the user samples anyway (`preset` = `learn`)."""

from __future__ import annotations

from ..engine.presets import RunContext, learned_name
from ..errors import ConfigError, UserError
from ..profiles.store import ProfileStore
from .calibrator import Calibrator
from .journal import Journal
from .recorder import Recorded, Recorder
from .shards import ModelDescription
from .sketch import Sketcher


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
        model = ModelDescription(
            conditions.family,
            conditions.weights_digest,
            context.profile,
            conditions.steps,
            cases=("one run",),
            about={},
            key={},
        )
        journal = Journal(None, {})
        try:
            recording = self.recorder.finish(conditions.sigmas)
            journal.add_recorded(0, Recorded(recording, conditions, context.sampler.euler))
            nothing = lambda runs: iter(())  # noqa: E731 (its one run is over)
            calibration = Calibrator(model, nothing, name, journal, quick=True).run()
            self._store.save(calibration, overwrite=True)
        except (ConfigError, UserError, OSError, ValueError) as error:
            return f"Nothing was learned: {error}."
        return f"Profile {name} is saved: choose it in `profile` to use it."
