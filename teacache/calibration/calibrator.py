"""A calibration from the first run to the finished profile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

import numpy as np

from ..engine.strategy import Budget
from ..errors import UserError
from ..profiles.calibrated import MAX_SCATTER_POINTS, Calibration, PlanResult
from ..profiles.plans import Plan, steps_for
from ..profiles.profile import Profile, Threshold
from ..profiles.store import PARTIAL_SUFFIX, ProfileStore
from ..progress import Progress, TimeLeft
from .fit import Fit, fit_polynomial, thresholds_for
from .journal import Journal
from .recorder import Recorded, Recording
from .schedule_search import PEAKS, best_plans, gap_errors, probe_plans, weighted
from .shards import Attempt, CalibratedModel, CaseRun, Sampling
from .trajectory import mean_rates
from .trials import Trials, trials_of

SPEEDUPS = (1.5, 2.0, 2.5, 3.0, 4.0)
LEAST_STEPS = 8
TRIALS = 3


@dataclass
class _Found:
    """What the search found: plans and the best results by number of computed steps."""

    plans: dict[int, Plan] = field(default_factory=dict)
    results: dict[int, PlanResult] = field(default_factory=dict)
    default: PlanResult | None = None


@dataclass(frozen=True)
class _Outcome:
    """What an attempt gave in each case: the relative error, and the computed steps."""

    attempt: Attempt
    by_case: Sequence[tuple[float, int]]

    @property
    def errors(self) -> list[float]:
        return [error for error, _ in self.by_case]

    @property
    def result(self) -> PlanResult:
        computed = round(float(np.mean([count for _, count in self.by_case])))
        forecast = isinstance(self.attempt, Budget)
        return PlanResult(computed, float(np.mean(self.errors)), max(self.errors), forecast)


@dataclass
class Calibrator:
    """One calibration.

    Args:
        sampling: samples the runs.
        name: of the profile.
        journal: receives every finished run, which then is not run again.
        on_progress: called after each run; progress is counted in evaluations.
        trials: plans that are run for each speed-up beside the planned one.
        quick: only the first case is run, once and uncached: the usual errors of this model are
            learned, and no plan is tried.
    """

    model: CalibratedModel
    sampling: Sampling
    name: str
    journal: Journal
    on_progress: Callable[[Progress], None] = lambda progress: None
    trials: int = TRIALS
    quick: bool = False
    _done: int = 0
    _time_left: TimeLeft = field(default_factory=TimeLeft)

    def run(self) -> Calibration:
        """Run the calibration.

        Raises:
            UserError: too few steps or no cases, or a run gave values that are not numbers.
        """
        model = self.model
        if model.steps < LEAST_STEPS:
            raise UserError(
                f"steps: {model.steps} are too few to calibrate on; {LEAST_STEPS} are needed, "
                "and as many as you sample with are best"
            )
        if not model.cases:
            raise UserError("prompts: none is given; one is needed, and three or more are best")
        recorded = self._record()
        recordings = [each.recording for each in recorded]
        rates = mean_rates([recording.trajectory for recording in recordings])
        found = _Found() if self.quick else self._search(recordings, recorded[0].euler, rates)
        points = [point for recording in recordings for point in recording.points]
        fit = fit_polynomial(points)
        shown = points[:: max(1, -(-len(points) // MAX_SCATTER_POINTS))]
        return Calibration(
            profile=self._profile(fit, recordings),
            fit_rejection=fit.refused,
            fit_points=fit.points,
            conditions=recorded[0].conditions,
            plans=found.plans,
            plan_results=tuple(found.results[count] for count in sorted(found.results)),
            default_result=found.default,
            error_rates=rates,
            provenance={
                **model.about,
                "cases": list(self._cases),
                "learned": self.quick,
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            },
            residual_ratios=_mean_ratios(recordings, model.steps),
            scatter=tuple((point.indicator, point.residual) for point in shown),
        )

    def _search(
        self, recordings: Sequence[Recording], euler: bool, rates: tuple[float, ...]
    ) -> _Found:
        """For several numbers of computed steps the best of some plans and of the forecast."""
        steps = self.model.steps
        probes = probe_plans(steps)
        default, *sensitivity = self._try([None, *probes], recordings)
        trajectories = [recording.trajectory for recording in recordings]
        errors = weighted(
            gap_errors(trajectories, euler), probes, [outcome.errors for outcome in sensitivity]
        )
        planned = {peak: best_plans(errors, steps, peak) for peak in PEAKS}
        found = _Found(dict(planned[PEAKS[0]]), default=default.result)
        counts = sorted({*(steps_for(steps, s) for s in SPEEDUPS), default.result.computed_steps})
        searches = {
            count: trials_of([planned[p][count] for p in PEAKS], errors, rates, self.trials)
            for count in counts
            if count in found.plans and count < steps
        }
        for count, (plan, result) in self._together(searches, recordings).items():
            found.plans[count], found.results[count] = plan, result
        return found

    def _together(
        self, searches: Mapping[int, Trials], recordings: Sequence[Recording]
    ) -> dict[int, tuple[Plan, PlanResult]]:
        """What each search returns; what they ask for meanwhile is sampled together."""
        returned: dict[int, tuple[Plan, PlanResult]] = {}
        asked = {key: next(search) for key, search in searches.items()}
        while asked:
            outcomes = self._try(list(asked.values()), recordings)
            for key, outcome in zip(list(asked), outcomes, strict=True):
                try:
                    asked[key] = searches[key].send(outcome.result)
                except StopIteration as end:
                    returned[key] = end.value
                    del asked[key]
        return returned

    # --- runs ------------------------------------------------------------------------------------

    @property
    def _cases(self) -> Sequence[str]:
        return self.model.cases[:1] if self.quick else self.model.cases

    @property
    def _total(self) -> int:
        """Evaluations in all, about."""
        steps = self.model.steps
        if self.quick:
            return steps
        plans = sum(steps_for(steps, speedup) for speedup in SPEEDUPS) + steps // 3
        probes = sum(map(len, probe_plans(steps)))
        return len(self._cases) * (steps + steps // 3 + probes + (2 + self.trials) * plans)

    def _report_progress(self, run: CaseRun, evaluations: int) -> None:
        self._done += evaluations
        stage = f"{self._described(run)}, case {run.case + 1} of {len(self._cases)}"
        done, total = min(self._done, self._total), self._total
        self.on_progress(Progress(done, total, stage, self._time_left(done, total)))

    def _described(self, run: CaseRun) -> str:
        if run.recorded:
            return "uncached"
        if run.attempt is None:
            return "default"
        if run.attempt in probe_plans(self.model.steps):
            return "sensitivity"
        if isinstance(run.attempt, Budget):
            return f"forecast, {run.attempt.count} of {self.model.steps} steps"
        return f"plan, {len(run.attempt)} of {self.model.steps} steps"

    def _record(self) -> list[Recorded]:
        """The recording of every case, in their order."""
        known: dict[int, Recorded] = {}
        waiting = []
        for case in range(len(self._cases)):
            run, recorded = CaseRun(case, recorded=True), self.journal.recorded(case)
            if recorded is None:
                waiting.append(run)
            else:
                known[case] = recorded
                self._report_progress(run, self.model.steps)
        for run, shard in self.sampling(waiting):
            assert shard.recorded is not None
            self.journal.add_recorded(run.case, shard.recorded)
            known[run.case] = shard.recorded
            self._report_progress(run, self.model.steps)
        return [known[case] for case in range(len(self._cases))]

    def _try(self, attempts: Sequence[Attempt], recordings: Sequence[Recording]) -> list[_Outcome]:
        """Run each attempt on every case."""
        cases = range(len(recordings))
        known: dict[CaseRun, tuple[float, int]] = {}
        waiting = []
        for run in dict.fromkeys(CaseRun(case, each) for each in attempts for case in cases):
            outcome = self.journal.outcome(run.case, run.attempt)
            if outcome is None:
                waiting.append(run)
            else:
                known[run] = outcome
                self._report_progress(run, outcome[1])
        for run, shard in self.sampling(waiting):
            reference = recordings[run.case].final
            error = float((shard.final - reference).double().norm() / reference.double().norm())
            self.journal.add_outcome(run.case, run.attempt, error, shard.computed)
            known[run] = error, shard.computed
            self._report_progress(run, shard.computed)
        return [_Outcome(each, [known[CaseRun(case, each)] for case in cases]) for each in attempts]

    # --- the profile -----------------------------------------------------------------------------

    def _profile(self, fit: Fit, recordings: Sequence[Recording]) -> Profile:
        usable = not fit.refused
        fitted = replace(
            self.model.profile,
            name=self.name,
            coefficients=fit.coefficients if usable else (),
            thresholds=(),
            calibrated=usable,
            source="calibrated on this machine",
            calibrated_on=str(self.model.about.get("model", "")),
            r2=fit.r2 if fit.coefficients else None,
            x_range=fit.x_range if usable else None,
            start_percent=0.0,
            end_percent=1.0,
            warmup_steps=0,
        )
        if not usable:
            return fitted
        thresholds = thresholds_for([_distances(r, fitted) for r in recordings], self.model.steps)
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


def _mean_ratios(recordings: Sequence[Recording], steps: int) -> tuple[float, ...]:
    """Mean over branches and runs of |residual| over the one before; 1 where there is none."""
    by_step: dict[int, list[float]] = defaultdict(list)
    for recording in recordings:
        for point in recording.points:
            by_step[point.step].append(point.ratio)
    return tuple(float(np.mean(by_step.get(step, [1.0]))) for step in range(1, steps))


def calibrate_and_save(
    store: ProfileStore,
    model: CalibratedModel,
    sampling: Sampling,
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
        sampling: samples the runs.
        name: of the profile; None for one made of the family and the weights.
        quick: one uncached run and nothing else.
        on_resume: called before an interrupted calibration is resumed.

    Raises:
        ConfigError: the name is taken or unusable; nothing has run.
        UserError: as `Calibrator.run`.
    """
    chosen = store.free_name(model.family, model.digest) if name is None else name
    store.new_path(chosen, overwrite)
    journal = Journal(
        store.folder / f"{chosen}{PARTIAL_SUFFIX}",
        {**model.key, "trials": trials, "quick": quick},
    )
    if journal.resumed:
        on_resume()
    calibration = Calibrator(model, sampling, chosen, journal, on_progress, trials, quick).run()
    store.save(calibration, overwrite)
    journal.remove()
    return calibration
