"""A calibration that becomes a profile of the user's own."""

from __future__ import annotations

from collections.abc import Callable

from ..profiles.calibrated import Calibration
from ..profiles.store import PARTIAL, ProfileStore
from .calibrator import Bench, Calibrator, Progress
from .journal import Journal


def calibrate_into(
    store: ProfileStore,
    bench: Bench,
    name: str | None,
    *,
    trials: int,
    overwrite: bool,
    on_progress: Progress,
    on_resume: Callable[[], None] = lambda: None,
) -> Calibration:
    """Runs the calibration, or goes on with an interrupted one, and saves it in `store`.

    name: None for one made of the family and the weights. on_resume: called before it goes on with
    an interrupted one. Raises ConfigError for a name that is taken, before anything runs, and what
    `Calibrator.run` raises.
    """
    chosen = store.free_name(bench.family, bench.digest) if name is None else name
    store.new_path(chosen, overwrite)
    journal = Journal(store.folder / f"{chosen}{PARTIAL}", {**bench.key, "trials": trials})
    if journal.resumed:
        on_resume()
    calibration = Calibrator(bench, chosen, journal, on_progress, trials).run()
    store.save(calibration, overwrite)
    journal.remove()
    return calibration
