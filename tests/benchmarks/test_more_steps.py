"""N steps with the cache against M without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

from benchmarks import more_steps, testbeds
from benchmarks.grounds import Ground
from benchmarks.more_steps import COMPUTED, FACTORS, MODELS, Entry, cached_steps
from benchmarks.quality import ConvergedReferences
from teacache.profiles.plans import steps_for

ENTRY = Entry(8, [30.0, 20.0], [[31.0, 25.0], [29.0, 21.0]], [8.0, 8.5])


def test_the_presets_compute_exactly_the_wanted_steps() -> None:
    for steps in COMPUTED:
        for factor in FACTORS:
            assert steps_for(cached_steps(steps, factor), factor) == steps
    assert [cached_steps(10, factor) for factor in FACTORS] == [15, 20]


def test_a_row_tells_figures_gains_and_pairs() -> None:
    assert more_steps.row(ENTRY) == [
        "8", "25.0 / 20.0", "28.0 / 25.0 (12 steps)", "25.0 / 21.0 (16 steps, 8.5 computed)",
        "+3.0 / +5.0 (2 of 2)", "+0.0 / +1.0 (1 of 2)",
    ]  # fmt: skip
    lines = more_steps.table([ENTRY, ENTRY]).splitlines()
    assert len(lines) == 4 and {line.count("|") for line in lines} == {7}


def test_the_page_says_which_way_is_nearer_and_what_is_equal() -> None:
    page = more_steps.page_of({"a": [ENTRY], "b": [ENTRY]}, 2)
    assert (
        "1.5 times as many steps with the cache are nearer than the uncached ones in 2 of 2" in page
    )
    assert (
        "2 times as many steps with the cache are nearer than the uncached ones in 0 of 2" in page
    )
    assert "differs by +3.0 to +3.0 dB, +3.0 dB on average" in page
    assert "number of computed steps, except where" in page and "## a\n" in page
    exact = Entry(8, [30.0], [[31.0], [29.0]], [8.0, 8.0])
    assert "number of computed steps, in all rows" in more_steps.page_of({"a": [exact]}, 1)


def test_no_pairs_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["more_steps", "--pairs", "0"])
    with pytest.raises(SystemExit) as refused:
        more_steps.main()
    assert refused.value.code == 2
    assert "--pairs must be at least 1, not 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_is_measured(comfy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(more_steps, "COMPUTED", (6, 12))
    monkeypatch.setattr("benchmarks.quality.CONVERGED_STEPS", 60)
    assert ("photos", 4.0) in MODELS
    testbed = testbeds.load("photos").on(Ground("photos", 6, 4.0))
    pairs = testbed.test_pairs(1)
    few, many = more_steps.measure(testbed, pairs, ConvergedReferences(testbed, tmp_path, pairs))
    assert (few.steps, many.steps) == (6, 12) and many.computed == [12.0, 12.0]
    assert 10 < few.without[0] < many.without[0] < 60, "more steps are nearer"
    assert all(10 < values[0] < 60 for entry in (few, many) for values in entry.cached)
