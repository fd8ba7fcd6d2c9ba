"""Plots, by the colours of their pixels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from calibrations import calibration
from PIL import Image

from teacache.plots.calibration import (
    DEFAULT_COLOR,
    FORECAST_COLOR,
    PLANS_COLOR,
    calibration_plot,
)
from teacache.plots.canvas import Canvas, ticks, wrap
from teacache.plots.comparison import comparison
from teacache.plots.timeline import (
    CELLS_HEIGHT,
    CELLS_TOP,
    CHANGED,
    COMPUTED,
    FORCED,
    SKIPPED,
    Columns,
    color_of,
    timeline,
)
from teacache.report import SKIPPING, Reason, RunReport, StepRecord

CENTRE = CELLS_TOP + CELLS_HEIGHT // 2


def report(decisions, threshold=0.2, steps=None, distance=0.1):
    """A report whose evaluations have these reasons."""
    made = RunReport(
        host="comfyui",
        family="sd3",
        family_name="Some model",
        profile="p",
        calibrated=True,
        method="faithful",
        cached="residual",
        indicator="modulated_input",
        predictor="reuse",
        sampler="euler",
        threshold=threshold,
        steps=len(decisions) if steps is None else steps,
        sigmas=[],
        outcome="done",
    )
    for index, reason in enumerate(decisions):
        skipped = reason is Reason.UNDER_THRESHOLD
        seconds = 0.01 if skipped else 0.1
        record = StepRecord(index, 1.0, skipped, reason, distance, distance or 0.0, seconds)
        made.records.append(record)
    return made.to_json()


def hexed(image, x, y):
    return "#{:02x}{:02x}{:02x}".format(*image.getpixel((round(x), round(y))))


def test_every_cell_has_the_colour_of_its_decision():
    decisions = [Reason.FIRST, *[Reason.UNDER_THRESHOLD, Reason.OVER_THRESHOLD] * 10]
    decisions += [Reason.MISMATCH, Reason.LAST]
    expected = [FORCED, *[SKIPPED, COMPUTED] * 10, CHANGED, FORCED]
    image = timeline(report(decisions), width=900)
    columns = Columns(900, len(decisions))
    assert [hexed(image, columns.middle(i), CENTRE) for i in range(len(decisions))] == expected
    between = {hexed(image, columns.span(i)[1] + 0.6, CENTRE) for i in range(len(decisions) - 1)}
    assert not between & set(expected), "cells run into one another"


def test_every_reason_has_its_colour():
    computed = [reason for reason in Reason if reason not in SKIPPING]
    red = {r for r in computed if color_of({"kind": r.kind.value}) == CHANGED}
    assert red == {Reason.NEW_BRANCH, Reason.MISMATCH, Reason.UNCACHED}


def test_a_plan_has_no_threshold_and_tells_its_evidence():
    data = report([Reason.FIRST, *[Reason.PLANNED] * 7], threshold=1.0, distance=None)
    planned = timeline({**data, "method": "planned"})
    orange = np.abs(np.asarray(planned).astype(int) - (0xC7, 0x7D, 0x0A)).sum(axis=-1) < 60
    assert not orange.any()
    with_evidence = timeline({**data, "evidence": "preset 2.0x: 10 of 20 steps planned."})
    assert with_evidence.height == timeline(data).height + 20


def test_number_of_cells_along_the_strip():
    image = timeline(report([Reason.UNDER_THRESHOLD] * 17))
    row = np.asarray(image)[CENTRE].astype(int)
    target = np.array([int(SKIPPED[i : i + 2], 16) for i in (1, 3, 5)])
    green = np.abs(row - target).sum(axis=1) == 0
    assert np.count_nonzero(np.diff(green.astype(int)) == 1) == 17


def test_threshold_line_lies_at_its_value():
    heights = []
    for threshold in (0.5, 0.3):
        data = report([Reason.OVER_THRESHOLD] * 8, threshold, distance=0.9)
        column = np.asarray(timeline(data))[101:250, 77].astype(int)
        orange = np.abs(column - (0xC7, 0x7D, 0x0A)).sum(axis=-1) < 60
        assert orange.sum() in (1, 2)
        heights.append(149 - np.argmax(orange))
    assert heights[0] / heights[1] == pytest.approx(0.5 / 0.3, rel=0.15)


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
@pytest.mark.parametrize("threshold", [0.0, 0.2])
@pytest.mark.parametrize("distance", [None, 0.0, 0.1, math.inf, math.nan])
def test_extremes(count, threshold, distance):
    image = timeline(report([Reason.OVER_THRESHOLD] * count, threshold, None, distance))
    assert image.mode == "RGB" and image.width == 960


def test_times_of_zero_and_more_evaluations_than_steps():
    data = report([Reason.FIRST, Reason.UNDER_THRESHOLD, Reason.LAST], steps=2)
    for record in data["records"]:
        record["seconds"] = 0.0
    assert timeline(data).width == 960


def test_advice_and_warnings_make_room():
    data = report([Reason.OVER_THRESHOLD] * 20)
    plain = timeline({**data, "advice": "", "warnings": []})
    long = timeline({**data, "warnings": ["A long sentence of many words. " * 12]}, width=500)
    assert long.height > plain.height + 60
    assert timeline(data, width=10).width == 480


def test_comparison_places_pictures_and_amplifies():
    a = Image.new("RGB", (300, 300), (100, 50, 20))
    b = Image.new("RGB", (300, 300), (110, 50, 20))
    image = comparison(a, b, amplify=8)
    assert image.getpixel((170, 200)) == (100, 50, 20)
    assert image.getpixel((170 + 316, 200)) == (110, 50, 20)
    assert image.getpixel((170 + 632, 200)) == (80, 0, 0)


def test_comparison_saturates_and_enlarges_small_pictures():
    a, b = Image.new("RGB", (64, 64), "black"), Image.new("RGB", (64, 64), "white")
    image = comparison(a, b, psnr=0.0, ssim=0.0)
    assert image.width > 3 * 256
    assert image.getpixel((image.width - 30, 200)) == (255, 255, 255)


def test_comparison_refuses():
    a = Image.new("RGB", (8, 8))
    with pytest.raises(ValueError, match="one size"):
        comparison(a, Image.new("RGB", (8, 9)))
    with pytest.raises(ValueError, match="two texts"):
        comparison(a, a, labels=("one",))


@pytest.mark.parametrize("high", [1e-6, 0.07, 0.2, 1, 3.3, 49, 999, 1e7])
def test_ticks_are_round_and_within(high):
    values = ticks(high)
    assert values[0] == 0 and 2 <= len(values) <= 6 and values[-1] <= high * 1.001


def test_wrap_keeps_every_word():
    text = "one two three four five six seven eight nine ten"
    lines = wrap(text, 13, 80)
    assert len(lines) > 2 and " ".join(lines) == text


def test_a_calibration_tells_plans_from_forecasts():
    def drawn(own, *colors):
        image = np.asarray(calibration_plot(own.to_json()))[:, 580:].astype(int)
        targets = [[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in colors]
        return [bool((np.abs(image - target).sum(axis=-1) == 0).any()) for target in targets]

    tried = calibration()
    assert drawn(tried, PLANS_COLOR, FORECAST_COLOR, DEFAULT_COLOR) == [True, False, True]
    first, *others = tried.plan_results
    mixed = replace(tried, plan_results=(replace(first, forecast=True), *others))
    assert drawn(mixed, PLANS_COLOR, FORECAST_COLOR, DEFAULT_COLOR) == [True, True, True]


def test_a_calibration_in_one_run_says_that_nothing_was_tried(monkeypatch):
    texts = []
    write = Canvas.text

    def noted(canvas, x, y, text, *rest):
        texts.append((text, x))
        write(canvas, x, y, text, *rest)

    monkeypatch.setattr(Canvas, "text", noted)
    learned = calibration(plans={}, plan_results=(), default_result=None, error_rates=(1.0,) * 50)
    image = calibration_plot(learned.to_json())
    ((told, x),) = [each for each in texts if "nothing was tried" in each[0]]
    assert told == "one uncached run: nothing was tried" and x > image.width / 2
    assert not any(text.endswith("x") and text[0].isdigit() for text, _ in texts)
