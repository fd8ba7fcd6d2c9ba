"""A sweep's rows for what takes as long without the cache."""

from __future__ import annotations

import json

import pytest
from fake_sampling import SIZE, FakeBackend, swept, table_of
from paths import ROOT
from PIL import Image

from teacache.comparison.results import notes
from teacache.errors import UserError
from teacache.plots.sweep import sweep_plot
from teacache.workflows.edits import with_steps
from teacache.workflows.graph import as_graph

pytestmark = pytest.mark.usefixtures("without_lpips")


def test_fewer_steps_in_the_same_time():
    counts = {2: {"computed": 7, "skipped": 3}, 3: {"computed": 10, "skipped": 0}}
    greys = {1: 0.6, 2: 0.52, "4 steps": 0.55, "7 steps": 0.55}
    backend = FakeBackend(counts=counts, greys=greys)
    _, report, told, kept = swept(backend, "1,2,3", repeats=2, fewer_steps=True)
    first = ["reference", 1, 2, 3, "7 steps", "4 steps"]
    assert [name for name, short in backend.asked if not short] == first + first[::-1]
    assert kept[-2:] == ["7 steps, uncached", "4 steps, uncached"]
    assert [point["steps_in_its_time"] for point in report["points"]] == [4, 7, None]
    assert [row["steps"] for row in report["fewer_steps"]] == [7, 4]
    assert report["fewer_steps"][0]["psnr"] == pytest.approx(26.02, abs=0.01)
    assert report["fewer_steps"][0]["speedup"] == 2.0
    lines = table_of(report).splitlines()
    figures = ["1.00", "s", "all", "2.00x", "26.0", "dB"]
    assert lines[-1].split()[:-1] == ["4", "steps,", "uncached", *figures]
    assert (told[-1].done, told[-1].total) == (11.5, 12)
    (sentence,) = [each for each in notes(report) if "without the cache take as long" in each]
    assert sentence == (
        "max_skip 1: 4 steps without the cache take as long and come nearer to the uncached "
        "picture (26.0 dB, not 20.0 dB)."
    )
    image = sweep_plot(report, [Image.new("RGB", (SIZE, SIZE))] * 4)
    assert image.width > 0


def test_fewer_steps_that_cannot_be_sampled_are_one_line():
    backend = FakeBackend(failing=("4 steps",))
    _, report, _, kept = swept(backend, "1", fewer_steps=True)
    assert report["points"][0]["status"] == "done"
    assert "4 steps, uncached: cannot run: 4 steps does not go" in table_of(report)
    assert kept == ["uncached", "max_skip 1"]
    assert not any("take as long" in each for each in notes(report))


def test_steps_of_a_graph():
    path = ROOT / "workflows" / "api" / "quickstart.json"
    graph = as_graph(json.loads(path.read_text()), path.name)
    (steps,) = [
        n["inputs"]["steps"] for n in with_steps(graph, 7).values() if "steps" in n["inputs"]
    ]
    assert steps == 7 and "7" in graph and graph["7"]["inputs"]["steps"] != 7
    graph["7"]["inputs"]["start_at_step"] = 3
    with pytest.raises(UserError, match="the steps are set by 1 nodes, or split between samplers"):
        with_steps(graph, 7)
    with pytest.raises(UserError, match="the steps are set by 0 nodes"):
        with_steps({"1": graph["1"]}, 7)
