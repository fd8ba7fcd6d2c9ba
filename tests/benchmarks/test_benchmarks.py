"""What the published figures rest on: fronts, figures at equal time, and the journal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_journals import pair_of

from benchmarks.fronts import (
    curves,
    mean_of_worst,
    pareto_front,
    points,
    quality_at_speedup,
    wall_to_cpu_ratio,
)
from benchmarks.journal import Journal
from benchmarks.testbeds import COMFYUI, UNCACHED
from teacache.errors import UserError

CURVES = st.lists(st.tuples(st.floats(1, 8), st.floats(20, 90)), min_size=1, max_size=8)
REFERENCE = UNCACHED[COMFYUI]


@given(CURVES)
def test_a_front_has_just_the_points_that_none_beats(curve):
    found = pareto_front(curve)
    for speed, value in curve:
        beaten = any((s >= speed and v > value) or (s > speed and v >= value) for s, v in curve)
        assert ((speed, value) in found) == (not beaten)
    assert found == sorted(found)


@given(CURVES, st.floats(1, 8))
def test_quality_at_a_speed_lies_on_the_front(curve, speed):
    found = pareto_front(curve)
    cell = quality_at_speedup(curve, speed)
    if speed > found[-1][0]:
        assert cell is None
        return
    assert cell is not None
    value, faster = cell
    assert faster == (speed < found[0][0])
    slower = [v for s, v in found if s <= speed] or [found[0][1]]
    quicker = [v for s, v in found if s >= speed]
    assert max(quicker) - 1e-9 <= value <= min(slower) + 1e-9


def test_between_two_points_it_is_linear_in_the_logarithm():
    assert quality_at_speedup([(1.0, 60.0), (4.0, 40.0)], 2.0) == (pytest.approx(50.0), False)


def test_the_worst_twentieth():
    assert mean_of_worst([50.0] * 95 + [10.0, 20.0, 30.0, 40.0, 45.0]) == pytest.approx(29.0)
    assert mean_of_worst([3.0, 2.0]) == 2.0


HEADER = {
    "variants": [
        {"name": name, "group": "", "method": name, "setting": "", "host": COMFYUI, "steps": 50}
        for name in (REFERENCE, "fast")
    ]
}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.begin(tmp_path / "a" / "record.jsonl", HEADER)


def test_speed_up_is_the_median_over_pairs_of_each_pairs_own(journal):
    for caption, base, fast in (("a", 4.0, 2.0), ("b", 9.0, 3.0), ("c", 50.0, 5.0)):
        journal.append(pair_of(caption, {REFERENCE: base, "fast": fast}))
    reference, fast = points(journal)
    assert (fast.speedup, fast.seconds, fast.pairs) == (3.0, 3.0, 3)
    assert (reference.speedup, reference.is_uncached) == (1.0, True)
    assert points(journal, "cpu")[1].seconds == 1.5
    assert wall_to_cpu_ratio(journal) == 2.0
    assert curves([reference, fast], "uncached") == {"fast": [(3.0, 50.0)]}


def test_a_run_goes_on_behind_its_last_complete_pair(journal):
    journal.append(pair_of("a", {REFERENCE: 2.0, "fast": 1.0}))
    journal.append(pair_of("b", {REFERENCE: 2.0, "fast": 1.0})[:1])
    with journal.path.open("a") as file:
        file.write('{"kind": "pair", "prompt": "b", "se')  # cut off while writing
    again = Journal.begin(journal.path, HEADER)
    assert again.has("a", 0, with_lpips=False) and not again.has("b", 0, with_lpips=False)
    assert list(again.complete(REFERENCE)) == [("a", 0)]
    again.append(pair_of("b", {REFERENCE: 3.0, "fast": 1.0}))
    assert Journal.read(journal.path).complete(REFERENCE)["b", 0]["seconds"] == 3.0


def test_pairs_without_lpips_are_wanted_again_and_replaced_whole(journal):
    journal.append(pair_of("a", {REFERENCE: 2.0, "fast": 1.0}, psnr=40.0))
    journal.append(pair_of("b", {REFERENCE: 2.0, "fast": 1.0}, psnr=40.0))
    assert journal.has("a", 0, with_lpips=False) and not journal.has("a", 0, with_lpips=True)
    again = pair_of("a", {REFERENCE: 2.0, "fast": 0.5}, psnr=60.0, lpips=0.02)
    journal.append(again[:-1])
    assert journal.complete("fast")["a", 0]["seconds"] == 1.0  # not before the pair is whole
    journal.append(again[-1:])
    assert journal.has("a", 0, with_lpips=True) and not journal.has("b", 0, with_lpips=True)
    fast = points(Journal.read(journal.path))[1]
    assert (fast.against["uncached"].mean, fast.against["uncached"].lpips) == (50.0, 0.02)
    assert curves([fast], "uncached", "lpips") == {"fast": [(3.0, -0.02)]}


def test_other_settings_do_not_go_on_in_one_record(journal):
    with pytest.raises(UserError, match=r"other settings \(steps\).*remove it or choose"):
        Journal.begin(journal.path, HEADER | {"steps": 20})


def test_a_file_that_is_no_record(tmp_path):
    file = tmp_path / "other.jsonl"
    file.write_text(json.dumps({"kind": "sample"}) + "\n")
    with pytest.raises(UserError, match="its first line is no header"):
        Journal.read(file)


@pytest.mark.parametrize(("identical", "is_there"), [(1, True), (2, False), (20, False)])
def test_points_that_mostly_equal_the_reference_have_no_place_on_a_curve(
    journal, identical, is_there
):
    for number in range(20):
        psnr = 100.0 if number < identical else 50.0
        journal.append(pair_of(str(number), {REFERENCE: 2.0, "fast": 1.0}, psnr))
    found = curves(points(journal), "uncached")
    assert found == ({"fast": [(2.0, 52.5)]} if is_there else {})


def test_what_was_not_measured_has_no_curve(journal):
    journal.append(pair_of("a", {REFERENCE: 2.0, "fast": 1.0}))
    assert curves(points(journal), "uncached", "lpips") == {}
