"""What happened in one sampling run: data, and the sentences drawn from it."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

REPORT_VERSION = 1
FEW_STEPS = 8


def format_bytes(count: int) -> str:
    """A number of bytes in kB or MB."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"


class ReasonKind(str, Enum):
    """How a reason is shown: the colour of a cell in the editor's strip and in the timeline.

    SKIPPED: nothing was computed. COMPUTED: computed by the policy. FORCED: computed whatever the
    distance was. CAPPED: computed because of a limit of skips or of the extrapolation. CHANGED:
    computed because an input, a branch or the model did not allow a skip.
    """

    SKIPPED = "skipped"
    COMPUTED = "computed"
    FORCED = "forced"
    CAPPED = "capped"
    CHANGED = "changed"


class Reason(str, Enum):
    """Why a model evaluation was computed or skipped: its text in reports, and its kind."""

    kind: ReasonKind

    def __new__(cls, text: str, kind: ReasonKind) -> Reason:
        reason = str.__new__(cls, text)
        reason._value_ = text
        reason.kind = kind
        return reason

    UNDER_THRESHOLD = "under threshold", ReasonKind.SKIPPED
    OVER_THRESHOLD = "over threshold", ReasonKind.COMPUTED
    FIRST = "first step", ReasonKind.FORCED
    LAST = "last step", ReasonKind.FORCED
    WARMUP = "profile's warm-up", ReasonKind.FORCED
    BEFORE_RANGE = "before start_percent", ReasonKind.FORCED
    AFTER_RANGE = "after end_percent", ReasonKind.FORCED
    CAPPED = "max_skip reached", ReasonKind.CAPPED
    NEW_BRANCH = "new branch", ReasonKind.CHANGED
    MISMATCH = "input changed shape or control", ReasonKind.CHANGED
    ERROR_UNKNOWN = "error not known yet", ReasonKind.FORCED
    BEYOND_HORIZON = "too far to predict", ReasonKind.CAPPED
    UNCACHED = "not cacheable", ReasonKind.CHANGED
    PLANNED = "planned", ReasonKind.COMPUTED
    PLANNED_SKIP = "planned skip", ReasonKind.SKIPPED

    @property
    def translation_key(self) -> str:
        """Key of the reason's text in `locales/*/main.json`."""
        return f"reason {self.value}"


SKIPPING = tuple(reason for reason in Reason if reason.kind is ReasonKind.SKIPPED)
"""The reasons why an evaluation is skipped."""


PSNR_AT_ONE, PSNR_PER_DECADE = 23.4, 18.8
"""Line through PSNR in dB over the logarithm of `RunReport.expected_error`, fitted on the tuning
pairs of six grounds (`python -m benchmarks.expected_change`)."""
PSNR_OF_LATENT = 11.6
"""PSNR in dB of a picture whose latent has a relative error of 1, on a line of 20 dB a decade: the
mean over 45 runs on tuning pairs of the demo, digits, photos and distilled photos models (5.5 to
15.4; 3 pairs each, thresholds 0.3, 1 and 3)."""
CHANGES = (
    (60.0, "no change to be seen"),
    (45.0, "hardly any change to be seen"),
    (35.0, "small changes expected"),
    (25.0, "visible changes expected"),
    (-math.inf, "another picture expected"),
)
"""Least PSNR in dB, and what it means to the eye."""


@dataclass(frozen=True)
class StepRecord:
    """One evaluation of the model by the sampler (one per step for Euler, two for Heun).

    step: index of the sampler step, from 0. sigma: noise level. distance: what this evaluation
    added to the accumulator (None where nothing was measured). accumulated: the accumulator
    that was compared with the threshold. seconds: time of the evaluation, all branches; None where
    the device's times are not known, or not yet.
    """

    step: int
    sigma: float
    skipped: bool
    reason: Reason
    distance: float | None
    accumulated: float
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """The record as plain data; None for what is no number, which JSON does not know."""
        kind = ReasonKind.SKIPPED if self.skipped else self.reason.kind
        numbers = {
            name: number if number is not None and math.isfinite(number) else None
            for name, number in (("distance", self.distance), ("accumulated", self.accumulated))
        }
        return {**vars(self), **numbers, "reason": self.reason.value, "kind": kind.value}


@dataclass
class RunReport:
    """A sampling run as it is recorded, and what follows from the records.

    method: the mode's name, or its parts; cached, indicator (what was read), predictor: those
    parts. profile is empty where none decided. preset: as set. evidence: what a preset was resolved
    to, and why. wanted_steps: computed steps that a wanted speed-up or a plan aims at, None where
    the threshold decides; without a plan, distances are then parts of the threshold, which is 1.
    expected_error: sum over skipped steps of the error that each was expected to add, in steps,
    over the steps of the run; None where errors are not measured or nothing was skipped.
    tried_error: of a plan, the mean relative error of the sampled latent when it was tried; None
    where it was not.

    Threshold 0 means that the cache was off, and nothing was recorded. `seconds` is the wall time
    from the first evaluation's start to the last one's end, None on a device whose times cannot be
    known; then there is no time and no speed-up anywhere in the report. outcome: running, done,
    interrupted or failed.
    """

    host: str
    family: str
    family_name: str
    profile: str
    calibrated: bool
    method: str
    cached: str
    indicator: str
    predictor: str
    sampler: str
    threshold: float
    steps: int
    sigmas: list[float]
    evidence: str = ""
    preset: str = "auto"
    wanted_steps: int | None = None
    expected_error: float | None = None
    tried_error: float | None = None
    records: list[StepRecord] = field(default_factory=list)
    seconds: float | None = 0.0
    bytes_held: int = 0
    warnings: list[str] = field(default_factory=list)
    outcome: str = "running"

    def warn(self, sentence: str) -> None:
        """Add `sentence` once."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def set_times(self, seconds: Sequence[float] | None) -> None:
        """Set the final time of each record; None where the device's times are not known."""
        times = [None] * len(self.records) if seconds is None else seconds
        self.records = [
            dataclasses.replace(record, seconds=time)
            for record, time in zip(self.records, times, strict=True)
        ]

    @property
    def skipped(self) -> int:
        return sum(record.skipped for record in self.records)

    @property
    def computed(self) -> int:
        return len(self.records) - self.skipped

    @property
    def computed_steps(self) -> int:
        """Steps in which something was computed, however often the sampler evaluates in one."""
        return len({record.step for record in self.records if not record.skipped})

    def _median_seconds(self, skipped: bool) -> float | None:
        times = self._times(skipped)
        return statistics.median(times) if times else None

    def _times(self, skipped: bool) -> list[float] | None:
        """Seconds of the skipped or the computed evaluations, None if one is not known."""
        times = [record.seconds for record in self.records if record.skipped == skipped]
        known = [seconds for seconds in times if seconds is not None]
        return known if len(known) == len(times) else None

    @property
    def estimated_speedup(self) -> float | None:
        """Time of these evaluations had all been computed, over the time they took."""
        saved = self.saved_seconds
        if saved is None:
            return None
        taken = sum((self._times(skipped=True) or []) + (self._times(skipped=False) or []))
        if not self.computed or taken <= 0 or self.skipped == 0:
            return 1.0
        return 1.0 + saved / taken

    @property
    def saved_seconds(self) -> float | None:
        """Sum over skipped evaluations of (median computed time - own time), in seconds."""
        computed, skipped = self._times(skipped=False), self._times(skipped=True)
        if computed is None or skipped is None:
            return None
        if not computed:
            return 0.0
        median = statistics.median(computed)
        return sum(median - seconds for seconds in skipped)

    @property
    def expected_psnr(self) -> float | None:
        """Expected PSNR to the uncached picture, in dB, from `expected_error`.

        A fit over pairs and grounds, good for the order of a model's runs and to about 10 dB for
        its height (benchmarks/results/expected_change.md). Of a plan it is that of its calibration,
        the same for every run: the errors that a run measures at the computed steps of a plan do
        not tell how far its own picture changes (docs/quality.md). None where nothing is known.
        """
        if self.tried_error is not None:
            return PSNR_OF_LATENT - 20 * math.log10(max(self.tried_error, 1e-9))
        if not self.expected_error or not math.isfinite(self.expected_error):
            return None
        return PSNR_AT_ONE - PSNR_PER_DECADE * math.log10(self.expected_error)

    @property
    def expected_change(self) -> str:
        """`expected_psnr` in words; empty where it is not known."""
        psnr = self.expected_psnr
        if psnr is None:
            return ""
        return next((words for least, words in CHANGES if psnr >= least), CHANGES[-1][1])

    @property
    def summary(self) -> str:
        """One line for the log and the node."""
        if self.threshold == 0:
            return f"{self.family_name}: off (threshold 0)"
        if not self.records:
            known = "ran without the cache" if self.warnings else "the model was not called"
            return f"{self.family_name}: {known}"
        unit = "steps" if len(self.records) == self.steps else "evaluations"
        gain, saved = "", self.saved_seconds
        if saved is not None:
            gain = f" · {self.estimated_speedup:.2f}x · saved {saved:.1f} s"
        change = f" · {self.expected_change}" if self.expected_change else ""
        return (
            f"{self.family_name}: {self.computed} of {len(self.records)} {unit} computed, "
            f"{self.skipped} skipped{gain} · {format_bytes(self.bytes_held)} held{change}"
        )

    @property
    def advice(self) -> str:
        """One plain sentence on what to change, empty when there is nothing to say."""
        if not self.records or self.skipped:
            return ""
        if all(record.reason is Reason.UNCACHED for record in self.records):
            return ""  # a warning says why
        eligible = [
            record
            for record in self.records
            if record.reason in (Reason.OVER_THRESHOLD, Reason.CAPPED)
        ]
        if self.steps < FEW_STEPS or not eligible:
            return (
                f"{len(eligible)} of {self.steps} steps were eligible: this is a {self.steps}-step "
                "schedule, where there is little to skip; use more steps or widen the range."
            )
        lowest = min(record.accumulated for record in eligible)
        return (
            f"No step came under the threshold {self.threshold:g}: the smallest distance was "
            f"{lowest:.3f}; raise rel_l1_thresh above it to skip."
        )

    def to_json(self) -> dict[str, Any]:
        """The report as plain data, as the nodes, the command and the editor read it.

        `seconds`, `seconds_per_computed`, `seconds_per_skipped`, `estimated_speedup`,
        `saved_seconds` and each record's `seconds` are None on a device whose times are not known.
        """
        return {
            "version": REPORT_VERSION,
            "host": self.host,
            "family": self.family,
            "family_name": self.family_name,
            "profile": self.profile,
            "calibrated": self.calibrated,
            "method": self.method,
            "cached": self.cached,
            "indicator": self.indicator,
            "predictor": self.predictor,
            "sampler": self.sampler,
            "threshold": self.threshold,
            "evidence": self.evidence,
            "preset": self.preset,
            "wanted_steps": self.wanted_steps,
            "expected_psnr": self.expected_psnr,
            "expected_change": self.expected_change,
            "outcome": self.outcome,
            "steps": self.steps,
            "evaluations": len(self.records),
            "computed": self.computed,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "seconds_per_computed": self._median_seconds(skipped=False),
            "seconds_per_skipped": self._median_seconds(skipped=True),
            "estimated_speedup": self.estimated_speedup,
            "saved_seconds": self.saved_seconds,
            "bytes_held": self.bytes_held,
            "sigmas": self.sigmas,
            "summary": self.summary,
            "advice": self.advice,
            "warnings": list(self.warnings),
            "records": [record.to_json() for record in self.records],
        }
