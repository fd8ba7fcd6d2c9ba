"""The comparison at equal numbers of computed steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

from benchmarks import equal_steps, testbeds
from benchmarks.command import with_rows_of
from benchmarks.equal_steps import at, rows_of
from benchmarks.grounds import GROUNDS, SPEEDUPS, Ground
from teacache.errors import UserError


def test_figures_lie_between_the_two_nearest_points() -> None:
    points = [(10.0, 40.0, 30.0), (5.0, 20.0, 10.0), (5.0, 20.0, 10.0)]
    assert at(points, 7.5) == (30.0, 20.0) and at(points, 10.0) == (40.0, 30.0)
    assert at(points, 5.0) == (20.0, 10.0)
    assert at(points, 4.9) is None and at(points, 10.1) is None and at([], 5.0) is None


def test_other_models_rows_stay_on_the_page(tmp_path: Path) -> None:
    page = tmp_path / "equal_steps.md"
    names = [ground.heading for ground in GROUNDS[:3]]
    rows = [[name, way, *"1234"] for name in names for way in ("forecast", "preset")]
    written = f"`{equal_steps.command(5)}`: about\n\n{equal_steps.table(rows)}\n"
    page.write_text(written, encoding="utf-8")
    new = [[names[1], "forecast", *"5678"]]
    assert with_rows_of(page, equal_steps.command(5), new) == [*rows[:2], *new, *rows[4:]]
    with pytest.raises(UserError, match=r"equal_steps.md was not made with .*--pairs 6 "):
        with_rows_of(page, equal_steps.command(6), new)


def test_of_a_unet_what_needs_no_blocks_is_measured() -> None:
    for ground in GROUNDS:
        ways = list(equal_steps.ways(ground))
        assert ("faithful TeaCache" in ways) == ground.has_blocks
        assert ("EasyCache" in ways) != ground.has_blocks and "forecast" in ways


@pytest.mark.slow
@pytest.mark.parametrize("model", ["photos", "photos-distilled"])
def test_a_ground_is_measured_and_shown(
    comfy: Any, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setattr(equal_steps, "THRESHOLDS", (1e-9, 30.0))
    monkeypatch.setattr(equal_steps, "FAITHFUL_THRESHOLDS", (1e-9, 30.0))
    ground, testbed = Ground(model, 8, 4.0), testbeds.load(model)
    (pair,) = testbed.test_pairs(1)
    measured = equal_steps.measure(testbed, ground, [pair])
    for name in ("forecast", "forecast, residuals", "faithful TeaCache"):
        least, most = measured[name]
        assert least[0] == 8 and least[1:] == (100.0, 100.0), "nothing skipped, nothing changed"
        assert most[0] < 6 and 10 < most[1] < 60
    assert [point[0] for point in measured[equal_steps.FEWER_STEPS]] == [6, 5, 4, 4]
    rows = rows_of(ground, measured)
    assert [row[1] for row in rows] == list(measured) and all(len(row) == 6 for row in rows)
    assert len(SPEEDUPS) == 4 and "–" not in rows[0][2]
    assert "| 1.25x | 1.5x |" in equal_steps.table(rows)
