"""What a run says of the change that its picture is expected to show."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import tiny_models
from sampling import cached, report_of, sample

from teacache.report import CHANGES, PSNR_AT_ONE, PSNR_OF_LATENT, RunReport

pytestmark = pytest.mark.usefixtures("comfy")


def expecting(error: float | None) -> RunReport:
    return RunReport(
        host="", family="", family_name="M", profile="", calibrated=False, method="", cached="",
        indicator="", predictor="", sampler="", threshold=0.2, steps=1, sigmas=[],
        expected_error=error,
    )  # fmt: skip


def test_a_larger_error_is_a_larger_change_in_db_and_in_words() -> None:
    reports = [expecting(10.0**power) for power in (-3, -1.9, -1, -0.3, 1)]
    estimates = [report.expected_psnr or 0.0 for report in reports]
    assert estimates == sorted(estimates, reverse=True)
    assert [report.expected_change for report in reports] == [words for _, words in CHANGES]
    assert expecting(1.0).expected_psnr == PSNR_AT_ONE


@pytest.mark.parametrize("error", [None, 0.0, math.nan, math.inf])
def test_nothing_is_said_where_nothing_is_known(error: float | None) -> None:
    report = expecting(error)
    assert report.expected_psnr is None and report.expected_change == ""
    assert json.loads(json.dumps(report.to_json()))["expected_psnr"] is None


def test_a_plan_changes_as_much_as_when_it_was_tried() -> None:
    report = expecting(None)
    report.tried_error = 0.1
    assert report.expected_psnr == PSNR_OF_LATENT + 20
    assert report.expected_change == "visible changes expected"
    report.tried_error = 0.0
    assert report.expected_change == "no change to be seen"


def run_with(threshold: Any, mode: str = "forecast", **config: Any) -> RunReport:
    clone, handle = cached(tiny_models.build("sd3"), threshold, mode=mode, **config)
    sample(clone, "sd3", steps=20)
    return report_of(handle)


def test_a_forecast_adds_up_what_its_skips_are_expected_to_miss() -> None:
    report = run_with(0.4)
    assert report.skipped and report.expected_error is not None
    skipped = [record.distance for record in report.records if record.skipped]
    assert report.expected_error == pytest.approx(math.fsum(d or 0.0 for d in skipped) / 20)
    assert report.expected_change in report.summary
    assert (report.expected_psnr or 0) > (run_with(5.0).expected_psnr or 0)


def test_a_wanted_speedup_tells_it_in_the_same_unit() -> None:
    """Distances are parts of a threshold there, the expected error is not."""
    report = run_with(None, preset="1.5x")
    parts = math.fsum(record.distance or 0.0 for record in report.records if record.skipped)
    assert report.expected_error is not None
    assert 0 < report.expected_error < 1.6 * parts / 20
    assert report.expected_error != pytest.approx(parts / 20)


@pytest.mark.parametrize(("threshold", "mode"), [(5.0, "faithful"), (1e-9, "forecast")])
def test_where_no_errors_are_measured_or_nothing_is_skipped(threshold: float, mode: str) -> None:
    report = run_with(threshold, mode)
    assert report.expected_error is None and report.expected_change == ""
