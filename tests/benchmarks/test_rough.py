"""The summary of the rough grounds, from journals that nobody ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up_journals import pair_of

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

from benchmarks import rough
from benchmarks.grounds import BY_SLUG
from benchmarks.journal import Journal
from benchmarks.pareto import journal_path
from benchmarks.testbeds import COMFYUI, DIFFUSERS, UNCACHED
from benchmarks.variants import FAITHFUL, FEWER, OURS, OURS_DEFAULT, OURS_IN_DIFFUSERS
from teacache.errors import UserError

GROUND = BY_SLUG["demo-20-g7"]
BASE, OTHER_BASE = UNCACHED[COMFYUI], UNCACHED[DIFFUSERS]
POINTS: dict[str, tuple[str, str, str, float, float]] = {
    BASE: ("no cache", BASE, COMFYUI, 1.0, 100.0),
    OTHER_BASE: ("no cache", OTHER_BASE, DIFFUSERS, 1.0, 100.0),
    "default slow": (OURS, OURS_DEFAULT, COMFYUI, 1.25, 60.0),
    "default fast": (OURS, OURS_DEFAULT, COMFYUI, 1.8, 40.0),
    "elsewhere": (OURS, OURS_IN_DIFFUSERS, DIFFUSERS, 1.9, 95.0),
    "planned": (OURS, f"{OURS}: planned", COMFYUI, 1.5, 55.0),
    "residuals": (OURS, f"{OURS}: forecast, residuals", COMFYUI, 2.0, 50.0),
    "faithful": (FAITHFUL, FAITHFUL, COMFYUI, 1.6, 45.0),
    "EasyCache 1": ("in ComfyUI", "EasyCache", COMFYUI, 1.5, 44.0),
    "SeaCache 1": ("in diffusers", "SeaCache", DIFFUSERS, 1.3, 52.0),
    "skipping": ("even skipping", "even skipping", COMFYUI, 1.9, 30.0),
    "euler 10": (FEWER, f"{FEWER}, euler", COMFYUI, 2.0, 25.0),
    "lms 10": (FEWER, f"{FEWER}, lms, order 2", COMFYUI, 2.0, 24.0),
}
"""By name: group, method, host, speed-up and PSNR in dB."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of one journal, with two pairs."""
    keys = ("name", "group", "method", "host")
    variants = [dict(zip(keys, (name, *point[:3]), strict=True)) for name, point in POINTS.items()]
    header: dict[str, Any] = {
        "threads": 1,
        "command": "python -m benchmarks.pareto --ground demo-20-g7",
        "variants": [{**variant, "setting": "", "steps": 20} for variant in variants],
    }
    journal = Journal.begin(journal_path(tmp_path, GROUND), header)
    psnr = {name: point[4] for name, point in POINTS.items()}
    for caption, unit in (("a", 2.0), ("b", 3.0)):
        seconds = {name: unit / point[3] for name, point in POINTS.items()}
        journal.append(pair_of(caption, seconds, psnr, lpips=0.002))
    return tmp_path


def table_below(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, by line."""
    lines = page.split(heading, 1)[1].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    table = lines[first : lines.index("", first)]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]


def test_each_role_is_shown_at_the_measured_speed_ups(folder: Path) -> None:
    page = rough.page(folder)
    assert "`python -m benchmarks.pareto --ground demo-20-g7`: 2 pairs, LPIPS on 2." in page
    head, _, *rows = table_below(page, "## demo, 20 steps, guidance 7\n")
    assert head == ["against the uncached picture", "1.25x", "1.5x", "1.8x", "2x"]
    found = {role: [cell.split(" / ")[0] for cell in cells] for role, *cells in rows}
    assert found == {
        "our default": ["**60.0", "50.0", "40.0", "–"],
        "our best other mode": [
            "planned: ≥ 55.0", "planned: **55.0", "forecast, residuals: **≥ 50.0",
            "forecast, residuals: **50.0",
        ],
        "faithful TeaCache": ["≥ 45.0", "≥ 45.0", "–", "–"],
        "best rival": ["SeaCache: ≥ 52.0", "EasyCache: 44.0", "even skipping: ≥ 30.0", "–"],
        "fewer steps": ["euler: ≥ 25.0", "euler: ≥ 25.0", "euler: ≥ 25.0", "euler: 25.0"],
    }  # fmt: skip
    assert rows[0][1] == "**60.0 / 60.0 / ≤ 1000.00 / ≤ 20.00**"
    converged = page.split("against the converged picture", 1)[1]
    assert "| our default | **60.0 / 60.0 /" in converged
    _, _, *overview = table_below(page, "# Beside rivals")
    assert overview[0] == [
        GROUND.name, "1.25x", "**60.0 / 60.0**", "planned: ≥ 55.0 / ≥ 55.0", "≥ 45.0 / ≥ 45.0",
        "SeaCache: ≥ 52.0 / ≥ 52.0", "euler: ≥ 25.0 / ≥ 25.0",
    ]  # fmt: skip
    assert len(overview) == 4
    assert "Not measured: demo-20-g4, demo-12-g4," in page and "demo-50-g3" not in page


def test_without_lpips_it_is_left_out_and_the_page_says_why(folder: Path) -> None:
    journal = Journal.read(journal_path(folder, GROUND))
    psnr = {name: point[4] for name, point in POINTS.items()}
    journal.append([{"kind": "lpips", "why_not": "no weights"}])
    for caption in ("a", "b"):
        journal.append(pair_of(caption, {n: 1 / p[3] for n, p in POINTS.items()}, psnr))
    page = rough.page(folder)
    assert "no LPIPS (no weights)" in page
    rows = table_below(page, "## demo, 20 steps, guidance 7\n")
    assert rows[2][1] == "**60.0 / 60.0 / ≤ 1000.00**"


def test_what_no_summary_can_be_made_of(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="no complete pair of a rough ground yet"):
        rough.page(tmp_path / "empty")
    Journal.begin(journal_path(folder, BY_SLUG["demo-12-g4"]), {"threads": 1, "variants": []})
    assert "demo-12-g4" in rough.page(folder).split("Not measured:")[1].splitlines()[0]
    path = journal_path(folder, BY_SLUG["digits-20-g5"])
    Journal.begin(path, {"threads": 2, "variants": []}).append(pair_of("a", {}))
    with pytest.raises(UserError, match=f"{path.name} was measured on 2 threads"):
        rough.page(folder)
