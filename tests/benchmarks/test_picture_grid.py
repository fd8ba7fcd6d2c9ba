"""The pictures of the rough grounds side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

from benchmarks import picture_grid, testbeds
from benchmarks.drawing import Drawing, draw
from benchmarks.grounds import BY_SLUG, SMOOTH
from benchmarks.peers import uncached_comfyui
from benchmarks.picture_grid import Column, figures, grid, nearest_threshold, shown_frame
from benchmarks.testbeds import Pair

GROUND = BY_SLUG["digits-20-g5"]


def film(*greys: float, computed: float = 20) -> Drawing:
    """Frames of 4 x 4 pixels."""
    return Drawing(computed, torch.tensor(greys)[:, None, None, None].expand(-1, 4, 4, 3))


def test_the_nearest_threshold_is_found_and_few_are_tried() -> None:
    tried = []

    def computed_at(threshold: float) -> float:
        tried.append(threshold)
        return 20 / (1 + threshold)

    found = nearest_threshold(computed_at, 13)
    assert abs(computed_at(found) - 13) < 0.5 and len(tried) <= picture_grid.HALVINGS + 1
    assert all(picture_grid.LEAST < threshold < picture_grid.MOST for threshold in tried)


def test_where_the_number_jumps_the_nearer_side_is_taken() -> None:
    found = nearest_threshold(lambda threshold: 17.0 if threshold < 0.5 else 9.0, 10)
    assert found >= 0.5
    found = nearest_threshold(lambda threshold: 12.0 if threshold < 0.5 else 3.0, 10)
    assert found < 0.5


def test_figures_below_a_picture() -> None:
    reference = film(0.5, 0.5)
    assert figures(reference, reference) == ("20 steps", "reference")
    assert figures(film(0.5, 0.5, computed=12.5), reference) == ("12.5 steps", "identical")
    assert figures(film(0.6, 0.6, computed=10), reference) == ("10 steps", "20.0 dB")


def test_of_a_film_the_middle_frame_is_shown_enlarged() -> None:
    image = shown_frame(film(0.0, 0.0, 1.0, 0.0, 0.0))
    assert image.size == (128, 128) and image.getextrema() == ((255, 255),) * 3


def test_every_picture_stands_in_the_grid_with_room_for_its_text() -> None:
    pairs = [Pair("one", 0), Pair("two", 0)]
    columns = [
        Column((f"way {number}", "setting"), [film(number / 4), film(number / 4 + 0.1)])
        for number in range(3)
    ]
    image = grid(GROUND, pairs, columns)
    step = picture_grid.SIDE + picture_grid.GAP
    row = picture_grid.CAPTION + picture_grid.SIDE + picture_grid.FIGURES
    assert image.width == 2 * picture_grid.MARGIN + 3 * step - picture_grid.GAP
    for number in range(3):
        for line in range(2):
            x = picture_grid.MARGIN + number * step
            y = picture_grid.HEAD + line * row + picture_grid.CAPTION
            grey = round((number / 4 + 0.1 * line) * 255)
            for corner in ((x, y), (x + 127, y + 127)):
                assert abs(image.getpixel(corner)[0] - grey) <= 1
            below = image.crop((x, y + 128 + 2, x + 128, y + 128 + picture_grid.FIGURES))
            assert min(below.convert("L").getextrema()) < 100, "figures stand below"


def test_the_page_shows_the_pictures_that_are_there(tmp_path: Path) -> None:
    picture_grid.file_of(tmp_path, GROUND).touch()
    page = picture_grid.page_of(tmp_path)
    assert "![digits, 20 steps, guidance 5](pictures_digits-20-g5.png)" in page
    assert page.count("## ") == 1 and "`python -m benchmarks.picture_grid --write`" in page


def test_a_smooth_ground_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    smooth = next(ground for ground in BY_SLUG.values() if ground.kind == SMOOTH)
    monkeypatch.setattr("sys.argv", ["picture_grid", "--ground", smooth.slug])
    with pytest.raises(SystemExit) as refused:
        picture_grid.main()
    assert refused.value.code == 2 and f"invalid choice: '{smooth.slug}'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_ground_is_drawn_in_every_way(comfy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_grid, "TUNING_PAIRS", 1)
    monkeypatch.setattr(picture_grid, "HALVINGS", 3)
    ground = BY_SLUG["demo-12-g4"]
    testbed = testbeds.load("demo").on(ground)
    pairs = testbed.test_pairs(1)
    columns = picture_grid.columns_of(testbed, pairs)
    computed = [column.drawings[0].computed for column in columns]
    assert computed[:2] == [12, 8] and computed[5:] == [8, 6]
    assert computed[2] in (6, 7), "one more where errors are too large"
    assert all(5 <= steps < 12 for steps in computed[3:5])
    reference = columns[0].drawings[0]
    assert all(10 < c.drawings[0].psnr_to(reference.frames) < 100 for c in columns[1:])
    again = draw(testbed, uncached_comfyui, pairs[0])
    assert again.psnr_to(reference.frames) == 100, "the same picture again"
    assert grid(ground, pairs, columns).width > 7 * 128
