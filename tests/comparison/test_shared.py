"""A comparison in several processes: the same pictures, and gains by the times of one process."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from fake_sampling import FakeBackend, swept, table_of

from teacache.comparison import Comparison, Sample, grid_points, parse_axis
from teacache.comparison.results import notes, results
from teacache.comparison.shared import Bench, Measured, Part, Parts, sample_in_parts
from teacache.errors import ExecutionError

pytestmark = pytest.mark.usefixtures("without_lpips")
COUNTS = {1: {"computed": 4, "skipped": 6}, 2: {"computed": 7, "skipped": 3}}
GREYS = {1: 0.6, 2: 0.52, 3: 0.51, 4: 0.55, "4 steps": 0.57, "7 steps": 0.53}


class SlowBackend(FakeBackend):
    """A process whose times are all `factor` times as long."""

    def __init__(self, factor: float, **options: Any) -> None:
        super().__init__(**options)
        self.factor = factor

    def sample(self, *args: Any, **options: Any) -> Sample:
        sample = super().sample(*args, **options)
        return replace(sample, seconds=sample.seconds * self.factor)


def processes(benches: Sequence[Bench], backwards: bool = False) -> Parts:
    """Gives parts to processes by turns; they come back as from another process."""

    def parts(wanted: Sequence[Part]) -> Iterator[tuple[Part, Measured]]:
        dealt = list(enumerate(wanted))
        for number, part in reversed(dealt) if backwards else dealt:
            measured = benches[number % len(benches)].sample(part, lambda progress: None)
            yield pickle.loads(pickle.dumps((part, measured)))

    return parts


def shared(
    backends: Sequence[FakeBackend], values: str, repeats: int = 3, backwards: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """The report of a comparison in a process for each backend, and the pictures in their order."""
    x = parse_axis(f"max_skip={values}", "x")
    comparison = Comparison(grid_points(x), repeats, fewer_steps=True)
    benches = [
        Bench(f"machine {number}", backend, grid_points(x), repeats)
        for number, backend in enumerate(backends, 1)
    ]
    comparison.check(backends[0])
    kept: list[str] = []
    parts = processes(benches, backwards)
    sample_in_parts(
        comparison, parts, len(backends), lambda variant, pictures: kept.append(variant.label)
    )
    return results(comparison, x, None, "everything", {}), kept


TIMES = ("process", "processes", "timed", "all_seconds", "seconds", "speedup")


def without_times(report: Any) -> Any:
    if isinstance(report, dict):
        return {k: without_times(each) for k, each in report.items() if k not in TIMES}
    return [without_times(each) for each in report] if isinstance(report, list) else report


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("factors", [(1.0,), (1.0, 7.0), (1.0, 7.0, 0.1, 3.0, 2.0, 5.0)])
def test_all_but_times_is_as_in_one_process(factors: Sequence[float], backwards: bool) -> None:
    options: dict[str, Any] = {"counts": COUNTS, "greys": GREYS}
    alone = FakeBackend(**options)
    _, expected, _, files = swept(alone, "1,2,3,4", repeats=3, fewer_steps=True)
    backends = [SlowBackend(factor, **options) for factor in factors]
    report, kept = shared(backends, "1,2,3,4", backwards=backwards)
    assert without_times(report) == without_times(expected)
    assert sorted(kept) == sorted(files) and kept[0] == "uncached"
    speedups = [row["speedup"] for row in [*report["points"], *report["fewer_steps"]]]
    assert speedups == [2.0] * 6, "each by the times of its own process"
    used = [backend for backend in backends if backend.asked]
    assert len(report["processes"]) == len(used) == min(len(factors), 4)
    for backend in used:
        assert [short for _, short in backend.asked[:3]] == [True, True, False]
        assert [name for name, short in backend.asked if not short].count("reference") <= 3
    for row in report["points"]:
        factor = factors[int(row["process"].removeprefix("machine ")) - 1]
        assert row["all_seconds"] == [factor] * 3
        assert set(report["processes"][row["process"]]["uncached_seconds"]) == {2.0 * factor}
    assert report["spread"] == 1.0, "equal runs are those of one process"


def test_a_process_samples_its_reference_as_often_as_a_point_and_spread_over_its_parts() -> None:
    backend = FakeBackend(greys=GREYS)
    shared([backend], "1,2,3,4")
    first = ["reference", 1, 1, 1, "reference", 2, 2, 2, "reference", 3, 3, 3, 4, 4, 4]
    assert [name for name, short in backend.asked if not short][:15] == first
    backends = [FakeBackend(greys=GREYS) for _ in range(4)]
    shared(backends, "1,2,3,4")
    for number, each in enumerate(backends, 1):
        in_turn = ["reference", number, number, "reference", "reference", number]
        assert [name for name, short in each.asked if not short][:6] == in_turn


def test_the_report_says_whose_times_they_are() -> None:
    report, _ = shared([SlowBackend(1.0), SlowBackend(3.0)], "1,2", repeats=1)
    assert "times of different processes cannot be compared" in report["timed"]
    told = notes(report)
    assert "Without the cache in process machine 1: 2.00 s." in told
    assert "Without the cache in process machine 2: 6.00 s." in told
    header, *rows = table_of(report).splitlines()
    assert "process" in header.split() and "machine 2" in rows[2]


@pytest.mark.parametrize("processes", [1, 2])
def test_failures_are_those_of_one_process(processes: int) -> None:
    def backends(**options: Any) -> list[FakeBackend]:
        return [FakeBackend(**options) for _ in range(processes)]

    for failing in ((1, 3), (2,), (1, 2)):
        _, expected, _, files = swept(
            FakeBackend(failing=failing), "1,2,3", repeats=2, fewer_steps=True
        )
        report, kept = shared(backends(failing=failing), "1,2,3", repeats=2)
        assert [p["status"] for p in report["points"]] == [p["status"] for p in expected["points"]]
        assert [p["error"] for p in report["points"]] == [p["error"] for p in expected["points"]]
        assert sorted(kept) == sorted(files)
    with pytest.raises(ExecutionError, match="1 does not go"):
        shared(backends(failing=(1, 2)), "1,2")
    with pytest.raises(ExecutionError, match="reference does not go"):
        shared(backends(failing=("reference",)), "1,2")

    class Broken(FakeBackend):
        def sample(self, *args: Any, **options: Any) -> Sample:
            sample = super().sample(*args, **options)
            return replace(sample, pictures=sample.pictures * float("inf"))

    with pytest.raises(ExecutionError, match="without the cache: its pictures hold"):
        shared([Broken() for _ in range(processes)], "1,2")


def test_processes_whose_pictures_differ_are_told() -> None:
    class Other(FakeBackend):
        def sample(self, *args: Any, **options: Any) -> Sample:
            sample = super().sample(*args, **options)
            return replace(sample, pictures=sample.pictures + 0.01)

    report, _ = shared([FakeBackend(), Other()], "1,2")
    assert not report["repeatable"]
    assert torch.isclose(
        torch.tensor(report["points"][0]["psnr"]), torch.tensor(report["points"][1]["psnr"])
    ), "each is compared with the reference of its own process"
