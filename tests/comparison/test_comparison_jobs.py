"""The points of a comparison as jobs of a pool, without a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from fake_sampling import FakeBackend

from teacache.comparison import Comparison, Sample, grid_points, parse_axis
from teacache.comparison.jobs import BenchWorker, SharedComparison
from teacache.comparison.results import results
from teacache.errors import ExecutionError, UserError
from teacache.jobs import Job, LocalPool, Watcher, WorkerLost, kept_open
from teacache.jobs.job import OnProgress
from teacache.jobs.pool import Ended, Event, Started
from teacache.progress import Progress

pytestmark = pytest.mark.usefixtures("without_lpips")
X = parse_axis("max_skip=1,2,3", "x")


class LosingWorker(BenchWorker):
    """Is lost whenever it is to sample the point `loses`."""

    loses: int | None = None

    def run(self, job: Job, on_progress: OnProgress) -> Any:
        if job.payload is not None and job.payload.point == self.loses is not None:
            raise WorkerLost("out of memory")
        return super().run(job, on_progress)


@dataclass
class Spec:
    """options: of `FakeBackend`. refusal: why no worker starts."""

    options: dict[str, Any] = field(default_factory=dict)
    loses: int | None = None
    refusal: str = ""
    name: str = "worker"
    computes: bool = True
    started: int = 0

    def start(self) -> BenchWorker:
        if self.refusal:
            raise UserError(self.refusal)
        self.started += 1
        backend = FakeBackend(**self.options)
        worker = LosingWorker(backend, grid_points(X), 2, "all", {"model": "m"}, lambda: None)
        worker.loses = self.loses
        return worker


class Notices(Watcher):
    def __init__(self) -> None:
        self.told: list[str] = []

    def notice(self, sentence: str) -> None:
        self.told.append(sentence)


def sampled(spec: Spec) -> tuple[dict[str, Any], list[Progress], list[str]]:
    comparison = Comparison(grid_points(X), 2, fewer_steps=True)
    told: list[Progress] = []
    notices = Notices()
    with kept_open(LocalPool(spec)) as rounds:
        shared = SharedComparison(rounds, 1, notices)
        described = shared.describe()
        assert (described.what, described.about) == ("all", {"model": "m"})
        shared.check(comparison)
        shared.run(comparison, told.append, lambda variant, pictures: None)
    return results(comparison, X, None, "all", {}), told, notices.told


def test_progress_counts_the_points_and_those_that_run_by_their_share() -> None:
    spec = Spec({"greys": {1: 0.6, 2: 0.52, 3: 0.55}})
    report, told, _ = sampled(spec)
    assert [point["status"] for point in report["points"]] == ["done"] * 3
    assert len(report["processes"]) == 1 and spec.started == 1, "loaded once, for all rounds"
    done = [progress.done for progress in told]
    assert done == sorted(done) and (told[1].total, told[-1].total) == (3, 4)
    assert any(0 < progress.done < 1 for progress in told) and told[-1].done == 4
    assert "0 of 3 points: max_skip 1" in [progress.stage for progress in told]


def test_a_point_whose_workers_are_lost_is_a_failure_and_the_others_go_on() -> None:
    spec = Spec(loses=1)
    report, _, notices = sampled(spec)
    assert [point["status"] for point in report["points"]] == ["done", "failed", "done"]
    assert report["points"][1]["error"] == "2 workers were lost: out of memory"
    assert notices[0].endswith("out of memory; the job is tried again") and spec.started == 3


def test_what_ends_a_comparison_in_one_process_ends_it_here() -> None:
    with pytest.raises(ExecutionError, match="reference does not go"):
        sampled(Spec({"failing": ("reference",)}))
    with pytest.raises(ExecutionError, match="1 does not go"):
        sampled(Spec({"failing": (1, 2, 3)}))
    with pytest.raises(UserError, match="1 is refused"):
        sampled(Spec({"refused": (1, 2, 3)}))
    with pytest.raises(UserError, match="no model there"):
        sampled(Spec(refusal="no model there"))


def test_a_refused_point_is_not_sampled() -> None:
    report, _, _ = sampled(Spec({"refused": (2,)}))
    assert [point["error"] for point in report["points"]] == [None, "2 is refused", None]


class LateBackend(FakeBackend):
    def __init__(self, late: LatePool, **options: Any) -> None:
        super().__init__(**options)
        self.late = late

    def sample(self, *args: Any, **options: Any) -> Sample:
        assert self.late.all_started, "timed while another worker loads its model"
        return super().sample(*args, **options)


class LatePool:
    """Two workers in this process; the second one starts after the first one's fourth job."""

    slots = 2

    def __init__(self) -> None:
        self.workers: dict[int, BenchWorker] = {}
        self.jobs: dict[int, Job] = {}
        self.starting: list[int] = []
        self.ran: list[int] = []

    @property
    def all_started(self) -> bool:
        return len(self.workers) == 2

    def start(self, slot: int) -> None:
        self.starting.append(slot)

    def submit(self, slot: int, job: Job) -> None:
        self.jobs[slot] = job

    def wait(self, on_progress: Any) -> list[Event]:
        for slot in self.starting:
            if slot == 0 or len(self.ran) >= 4:
                self.starting.remove(slot)
                backend = LateBackend(self)
                self.workers[slot] = BenchWorker(
                    backend, grid_points(X), 1, "all", {"model": "m"}, lambda: None
                )
                return [Started(slot, f"worker {slot}", self.workers[slot].about)]
        for slot, job in [*self.jobs.items()]:
            del self.jobs[slot]
            self.ran.append(slot)
            result = self.workers[slot].run(job, lambda progress: None)
            return [Ended(slot, 0.0, result, None)]
        return []

    def close(self) -> None:
        pass


def test_nothing_is_timed_while_a_worker_loads_its_model() -> None:
    comparison = Comparison(grid_points(X), 1)
    pool = LatePool()
    with kept_open(pool) as rounds:
        shared = SharedComparison(rounds, 0, Watcher())
        shared.check(comparison)
        shared.run(comparison, lambda progress: None, lambda variant, pictures: None)
    assert all(variant.seconds for variant in comparison.variants)
    assert {0, 1} == set(pool.ran[4:])
