"""A calibration from the first run to the finished profile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Protocol

import numpy as np
import torch

from ..engine.strategy import Budget
from ..errors import UserError
from ..profiles.calibrated import MAX_SCATTER_POINTS, Calibration, PlanResult
from ..profiles.conditions import Conditions
from ..profiles.plans import Plan, steps_for
from ..profiles.profile import Profile, Threshold
from ..profiles.store import PARTIAL_SUFFIX, ProfileStore
from ..progress import Progress, TimeLeft
from .fit import Fit, fit_polynomial, thresholds_for
from .journal import Journal, Tried
from .override import RunOverride
from .recorder import Recorder, Recording
from .schedule_search import (
    PEAKS,
    Errors,
    best_plans,
    gap_errors,
    neighbours,
    probe_plans,
    weighted,
)
from .sketch import Sketcher
from .trajectory import mean_rates

SPEEDUPS = (1.5, 2.0, 2.5, 3.0, 4.0)
LEAST_STEPS = 8
TRIALS = 3


@dataclass(frozen=True)
class SampledRun:
    """One run.

    Args:
        final: its latent, or its pictures where the host gives no latent.
        computed: steps that were computed.
    """

    final: torch.Tensor
    computed: int


class CalibrationBackend(Protocol):
    """A model in its host, sampled with a few cases, each a prompt and a seed.

    Args:
        family, digest: of the model.
        profile: the model's own before calibration.
        steps: of each run.
        cases: for the user.
        about: the model's and scheduler's name and all else that is saved as provenance.
        key: what a resumed calibration must have in common.
    """

    family: str
    digest: str
    profile: Profile
    steps: int
    cases: Sequence[str]
    about: dict[str, Any]
    key: dict[str, Any]

    def sample(self, case: int, override: RunOverride) -> SampledRun:
        """Sample a case."""


@dataclass
class _Found:
    """What the search found: plans and the best results by number of computed steps."""

    plans: dict[int, Plan] = field(default_factory=dict)
    results: dict[int, PlanResult] = field(default_factory=dict)
    default: PlanResult | None = None


@dataclass
class Calibrator:
    """One calibration.

    Args:
        name: of the profile.
        journal: receives every finished run, which then is not run again.
        on_progress: called after each run; progress is counted in evaluations.
        trials: plans that are run for each speed-up beside the planned one.
        quick: only the first case is run, once and uncached: the usual errors of this model are
            learned, and no plan is tried.
    """

    backend: CalibrationBackend
    name: str
    journal: Journal
    on_progress: Callable[[Progress], None] = lambda progress: None
    trials: int = TRIALS
    quick: bool = False
    _sketch: Sketcher = field(default_factory=Sketcher)
    _done: int = 0
    _time_left: TimeLeft = field(default_factory=TimeLeft)

    def run(self) -> Calibration:
        """Run the calibration.

        Raises:
            UserError: too few steps or no cases, or a run gave values that are not numbers.
        """
        backend = self.backend
        if backend.steps < LEAST_STEPS:
            raise UserError(
                f"steps: {backend.steps} are too few to calibrate on; {LEAST_STEPS} are needed, "
                "and as many as you sample with are best"
            )
        if not backend.cases:
            raise UserError("prompts: none is given; one is needed, and three or more are best")
        recordings, euler, conditions = self._record()
        rates = mean_rates([recording.trajectory for recording in recordings])
        found = _Found() if self.quick else self._search(recordings, euler, rates)
        points = [point for recording in recordings for point in recording.points]
        fit = fit_polynomial(points)
        shown = points[:: max(1, -(-len(points) // MAX_SCATTER_POINTS))]
        return Calibration(
            profile=self._profile(fit, recordings),
            fit_rejection=fit.refused,
            fit_points=fit.points,
            conditions=conditions,
            plans=found.plans,
            plan_results=tuple(found.results[count] for count in sorted(found.results)),
            default_result=found.default,
            error_rates=rates,
            provenance={
                **backend.about,
                "cases": list(self._cases),
                "learned": self.quick,
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            },
            residual_ratios=_mean_ratios(recordings, backend.steps),
            scatter=tuple((point.indicator, point.residual) for point in shown),
        )

    def _search(
        self, recordings: Sequence[Recording], euler: bool, rates: tuple[float, ...]
    ) -> _Found:
        """For several numbers of computed steps the best of some plans and of the forecast."""
        steps = self.backend.steps
        default = self._outcome(None, recordings)
        trajectories = [recording.trajectory for recording in recordings]
        errors = self._weighted(gap_errors(trajectories, euler), recordings)
        planned = {peak: best_plans(errors, steps, peak) for peak in PEAKS}
        found = _Found(dict(planned[PEAKS[0]]), default=default)
        counts = sorted({*(steps_for(steps, s) for s in SPEEDUPS), default.computed_steps})
        for count in counts:
            if count in found.plans and count < steps:
                starts = [planned[peak][count] for peak in PEAKS]
                found.plans[count], tried = self._refined(starts, errors, recordings)
                forecast = self._outcome(Budget(count, rates), recordings)
                kept = forecast.computed_steps <= tried.computed_steps  # with more, it is no match
                beaten = kept and not tried.better_than(forecast)
                found.results[count] = forecast if beaten else tried
        return found

    # --- runs ------------------------------------------------------------------------------------

    @property
    def _cases(self) -> Sequence[str]:
        return self.backend.cases[:1] if self.quick else self.backend.cases

    @property
    def _total(self) -> int:
        """Evaluations in all, about."""
        steps = self.backend.steps
        if self.quick:
            return steps
        plans = sum(steps_for(steps, speedup) for speedup in SPEEDUPS) + steps // 3
        probes = sum(map(len, probe_plans(steps)))
        return len(self._cases) * (steps + steps // 3 + probes + (2 + self.trials) * plans)

    def _report_progress(self, case: int, what: str, evaluations: int) -> None:
        self._done += evaluations
        stage = f"{what}, case {case + 1} of {len(self._cases)}"
        done, total = min(self._done, self._total), self._total
        self.on_progress(Progress(done, total, stage, self._time_left(done, total)))

    def _record(self) -> tuple[list[Recording], bool, Conditions]:
        recordings, euler = [], False
        conditions: Conditions | None = None
        for case in range(len(self._cases)):
            recording, known = self.journal.recording(case), self.journal.conditions()
            if recording is None or known is None:
                recorder = Recorder(self._sketch)
                override = RunOverride(observer=recorder)
                final = self.backend.sample(case, override).final
                self._check(case, final)
                assert override.context is not None
                known = override.context.conditions, override.context.sampler.euler
                try:
                    recording = recorder.finish(known[0].sigmas, final)
                except ValueError as error:
                    raise UserError(f"calibration: {error}: choose another sampler") from None
                self.journal.add_recording(case, recording, *known)
            recordings.append(recording)
            conditions, euler = known
            self._report_progress(case, "uncached", self.backend.steps)
        assert conditions is not None
        return recordings, euler, conditions

    def _check(self, case: int, final: torch.Tensor) -> None:
        if not bool(torch.isfinite(final).all()):
            raise UserError(
                f"case {case + 1} ({self.backend.cases[case]}): the run gave values that are not "
                "numbers (NaN or infinite); nothing is saved. Try another precision"
            )

    def _weighted(self, errors: Errors, recordings: Sequence[Recording]) -> Errors:
        probes = probe_plans(self.backend.steps)
        measured = [self._errors(plan, recordings, "sensitivity")[0] for plan in probes]
        return weighted(errors, probes, measured)

    def _outcome(self, tried: Plan | Budget | None, recordings: Sequence[Recording]) -> PlanResult:
        """Run a plan, a forecast with a budget, or the default, on every case."""
        budgeted = isinstance(tried, Budget)
        if tried is None:
            what = "default"
        else:
            count = tried.count if isinstance(tried, Budget) else len(tried)
            what = f"{count} of {self.backend.steps} steps"
        errors, computed = self._errors(tried, recordings, what)
        mean = float(np.mean(errors))
        return PlanResult(round(float(np.mean(computed))), mean, max(errors), forecast=budgeted)

    def _errors(
        self, tried: Plan | Budget | None, recordings: Sequence[Recording], what: str
    ) -> tuple[list[float], list[int]]:
        """Relative error of the sampled latent and computed steps, in each case."""
        errors, computed = [], []
        plan: Tried = tried.count if isinstance(tried, Budget) else tried
        override = RunOverride(budget=tried) if isinstance(tried, Budget) else RunOverride(tried)
        for case, recording in enumerate(recordings):
            known = self.journal.outcome(case, plan)
            if known is None:
                sampled = self.backend.sample(case, replace(override))
                self._check(case, sampled.final)
                missed = self._sketch(sampled.final) - recording.final
                error = float(missed.double().norm() / recording.final.double().norm())
                known = error, sampled.computed
                self.journal.add_outcome(case, plan, *known)
            errors.append(known[0])
            computed.append(known[1])
            self._report_progress(case, what, known[1])
        return errors, computed

    def _refined(
        self, starts: Sequence[Plan], errors: Errors, recordings: Sequence[Recording]
    ) -> tuple[Plan, PlanResult]:
        """The best of some plans and of their neighbours by their measured errors, in few runs."""
        best, best_result = starts[0], self._outcome(starts[0], recordings)
        known = {best}
        waiting = [plan for plan in dict.fromkeys(starts) if plan != best]
        for _ in range(self.trials):
            near = (p for p in neighbours(errors, best, PEAKS[0]) if p not in known)
            plan = waiting.pop(0) if waiting else next(near, None)
            if plan is None:
                break
            known.add(plan)
            result = self._outcome(plan, recordings)
            if _errors_of(result) < _errors_of(best_result):
                best, best_result = plan, result
        return best, best_result

    # --- the profile -----------------------------------------------------------------------------

    def _profile(self, fit: Fit, recordings: Sequence[Recording]) -> Profile:
        usable = not fit.refused
        fitted = replace(
            self.backend.profile,
            name=self.name,
            coefficients=fit.coefficients if usable else (),
            thresholds=(),
            calibrated=usable,
            source="calibrated on this machine",
            calibrated_on=str(self.backend.about.get("model", "")),
            r2=fit.r2 if fit.coefficients else None,
            x_range=fit.x_range if usable else None,
            start_percent=0.0,
            end_percent=1.0,
            warmup_steps=0,
        )
        if not usable:
            return fitted
        thresholds = thresholds_for([_distances(r, fitted) for r in recordings], self.backend.steps)
        levels = tuple(
            Threshold(value, f"{speedup:g}x on the calibration's own runs")
            for speedup, value in thresholds.items()
        )
        return replace(
            fitted,
            thresholds=levels,
            default_threshold=thresholds.get(2.0, fitted.default_threshold),
        )


def _distances(recording: Recording, profile: Profile) -> list[float]:
    """Of each step from the second one on, the largest over branches."""
    by_step: dict[int, float] = defaultdict(float)
    for point in recording.points:
        by_step[point.step] = max(by_step[point.step], profile.distance(point.indicator))
    return [by_step[step] for step in sorted(by_step)]


def _errors_of(result: PlanResult) -> tuple[float, float]:
    return result.worst_error, result.mean_error


def _mean_ratios(recordings: Sequence[Recording], steps: int) -> tuple[float, ...]:
    """Mean over branches and runs of |residual| over the one before; 1 where there is none."""
    by_step: dict[int, list[float]] = defaultdict(list)
    for recording in recordings:
        for point in recording.points:
            by_step[point.step].append(point.ratio)
    return tuple(float(np.mean(by_step.get(step, [1.0]))) for step in range(1, steps))


def calibrate_and_save(
    store: ProfileStore,
    backend: CalibrationBackend,
    name: str | None,
    *,
    trials: int,
    quick: bool = False,
    overwrite: bool,
    on_progress: Callable[[Progress], None],
    on_resume: Callable[[], None] = lambda: None,
) -> Calibration:
    """Run a calibration, or resume an interrupted one, and save it as a profile in `store`.

    Args:
        name: of the profile; None for one made of the family and the weights.
        quick: one uncached run and nothing else.
        on_resume: called before an interrupted calibration is resumed.

    Raises:
        ConfigError: the name is taken or unusable; nothing has run.
        UserError: as `Calibrator.run`.
    """
    chosen = store.free_name(backend.family, backend.digest) if name is None else name
    store.new_path(chosen, overwrite)
    journal = Journal(
        store.folder / f"{chosen}{PARTIAL_SUFFIX}",
        {**backend.key, "trials": trials, "quick": quick},
    )
    if journal.resumed:
        on_resume()
    calibration = Calibrator(backend, chosen, journal, on_progress, trials, quick).run()
    store.save(calibration, overwrite)
    journal.remove()
    return calibration
