"""Jobs on a pool in this process and on Ray actors: order, losses, retries, affinity."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from job_workers import Spec
from paths import ROOT
from ray_session import ray_pool

from teacache.errors import ExecutionError, UserError
from teacache.jobs import (
    Failure,
    Job,
    LocalPool,
    Outcome,
    Pool,
    Watcher,
    kept_open,
    outcomes,
    results,
)
from teacache.jobs.pool import Ended, Event, Lost, OnSlotProgress, Refused, Started
from teacache.jobs.scheduler import AHEAD, MOST_LOSSES
from teacache.progress import Progress


class Notes(Watcher):
    """What the scheduler told."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.progress: list[tuple[int, int, float]] = []
        self.assignments: list[tuple[int, int]] = []

    def assigned(self, slot: int, job: Job) -> None:
        self.assignments.append((slot, job.number))

    def progressed(self, slot: int, job: Job, progress: Progress) -> None:
        self.progress.append((slot, job.number, progress.done))

    def notice(self, sentence: str) -> None:
        self.sentences.append(sentence)


def jobs(*payloads: dict[str, Any]) -> list[Job]:
    return [
        Job(number, payload, payload.get("models", ""))
        for number, payload in enumerate(payloads, 1)
    ]


def by_number(found: Iterator[Outcome]) -> dict[int, Outcome]:
    every = list(found)
    numbered = {outcome.job.number: outcome for outcome in every}
    assert len(numbered) == len(every), "a job has two outcomes"
    return numbered


Pools = Callable[[Path | None], Pool]


@pytest.fixture(params=["here", "actors"])
def pools(request: pytest.FixtureRequest) -> Pools:
    if request.param == "here":
        return lambda folder: LocalPool(Spec(folder))
    request.getfixturevalue("ray_here")
    return lambda folder: ray_pool([Spec(folder, name=f"worker {n}") for n in (1, 2)])


def test_results_come_in_the_order_of_the_jobs(pools: Pools, tmp_path: Path) -> None:
    notes = Notes()
    told = jobs({"sleep": 0.3}, {"steps": 3}, {}, {}, {})
    found = results(pools(tmp_path), told, watcher=notes)
    assert [result["number"] for result in found] == [1, 2, 3, 4, 5]
    assert any(each[1:] == (2, 1.0) for each in notes.progress)
    assert len(list(tmp_path.glob("done-*"))) == 5 and list(tmp_path.glob("closed-*"))


def test_a_worker_keeps_its_process_and_thread(pools: Pools) -> None:
    found = results(pools(None), jobs(*[{} for _ in range(12)]))
    by_process: dict[int, list[dict[str, Any]]] = {}
    for result in found:
        by_process.setdefault(result["pid"], []).append(result)
    for each in by_process.values():
        assert len({result["thread"] for result in each}) == 1
        assert sorted(result["nth"] for result in each) == list(range(1, len(each) + 1))


def test_workers_stay_for_several_rounds(pools: Pools) -> None:
    with kept_open(pools(None)) as rounds:
        first, second = (results(rounds, jobs({}, {}, {}, {})) for _ in range(2))
        assert len({result["pid"] for result in [*first, *second]}) <= 2
        assert max(result["nth"] for result in second) > max(result["nth"] for result in first)
        with pytest.raises(ExecutionError, match="no luck"):
            results(rounds, jobs({"fail": "no luck"}, {"sleep": 0.2}))
        assert [result["number"] for result in results(rounds, jobs({}, {}))] == [1, 2]


def test_a_job_that_fails_is_not_tried_again_and_the_others_go_on(pools: Pools) -> None:
    told = jobs({}, {"fail": "no luck"}, {"refuse": "steps: too many"}, {})
    found = by_number(outcomes(pools(None), told))
    assert found[2].failure is not None and found[2].failure.message == "RuntimeError: no luck"
    assert "job_workers" in found[2].failure.details and found[2].attempts == 1
    assert isinstance(found[2].failure.error(), ExecutionError)
    assert found[3].failure == Failure("steps: too many", unusable=True)
    assert isinstance(found[3].failure.error(), UserError)
    assert found[1].failure is None and found[4].result["number"] == 4
    with pytest.raises(ExecutionError, match="no luck"):
        results(pools(None), jobs({}, {"fail": "no luck"}))


def test_a_lost_workers_job_is_tried_again(pools: Pools, tmp_path: Path) -> None:
    notes = Notes()
    told = jobs({"lose": 1}, {}, {"lose": 3}, {})
    found = by_number(outcomes(pools(tmp_path), told, retries=2, watcher=notes))
    assert found[1].attempts == 2 and found[1].result["number"] == 1
    assert found[3].attempts == 3 and found[3].failure is not None
    assert found[3].failure.message == "3 workers were lost: it was told to"
    assert {number: outcome.attempts for number, outcome in found.items()} == {
        1: 2,
        2: 1,
        3: 3,
        4: 1,
    }
    assert sum("was lost with job 3" in sentence for sentence in notes.sentences) == 3


def test_workers_that_do_not_start(ray_here: None) -> None:
    spec = Spec(refusal="no such model")
    for pool in (LocalPool(spec), ray_pool([spec, spec])):
        with pytest.raises(UserError, match="no such model"):
            list(outcomes(pool, jobs({}, {})))


def test_what_cannot_be_sent_is_the_jobs_own_failure(ray_here: None) -> None:
    found = by_number(outcomes(ray_pool([Spec()]), jobs({}, {"unsendable": True}, {})))
    assert found[2].failure is not None and "cannot pickle" in found[2].failure.message
    assert found[2].attempts == 1
    assert {found[n].result["pid"] for n in (1, 3)} == {found[1].result["pid"]}


def test_killed_processes_lose_no_job(ray_here: None, tmp_path: Path) -> None:
    """One job kills its process once and one always; the pool's other workers go on."""
    told = jobs({}, {"kill": 1}, {}, {"kill": 9}, {}, {})
    notes = Notes()
    specs = [Spec(tmp_path, name=f"worker {n}") for n in (1, 2)]
    found = by_number(outcomes(ray_pool(specs), told, retries=1, watcher=notes))
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    assert found[2].attempts == 2 and found[2].result["number"] == 2
    assert found[4].failure is not None
    assert found[4].failure.message == "2 workers were lost: its process was killed"
    slots = [slot for slot, number in notes.assignments if number == 4]
    assert len(set(slots)) == 2, "tried again elsewhere"
    assert not [n for n, outcome in found.items() if n != 4 and outcome.failure is not None]


def test_a_worker_killed_from_outside(ray_here: None, tmp_path: Path) -> None:
    told = jobs(*[{"sleep": 0.05} for _ in range(30)])
    found: dict[int, Outcome] = {}
    killed = 0
    for outcome in outcomes(ray_pool([Spec(tmp_path), Spec(tmp_path)]), told):
        assert outcome.failure is None and outcome.job.number not in found
        found[outcome.job.number] = outcome
        if len(found) in (5, 15):
            os.kill(outcome.result["pid"], signal.SIGKILL)
            killed += 1
    assert killed == 2 and sorted(found) == list(range(1, 31))
    assert len({outcome.result["pid"] for outcome in found.values()}) > 2


def test_an_actor_has_the_threads_of_the_command(
    ray_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would set one thread for each process; sums would be rounded otherwise."""
    for told in ("3", None):
        if told is None:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        else:
            monkeypatch.setenv("OMP_NUM_THREADS", told)
        (result,) = results(ray_pool([Spec()]), jobs({}))
        assert result["threads"] == told


def test_an_actor_works_where_the_command_does(
    ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (here,) = results(ray_pool([Spec()]), jobs({}))
    assert here["pack"] == str(ROOT) and here["folder"] == str(tmp_path)


def test_closing_stops_what_runs(ray_here: None, tmp_path: Path) -> None:
    started = time.perf_counter()
    ended = outcomes(ray_pool([Spec(tmp_path), Spec(tmp_path)]), jobs({}, {"sleep": 600}))
    with contextlib.closing(ended):
        pid = next(ended).result["pid"]
    assert time.perf_counter() - started < 60
    assert list(tmp_path.glob("closed-*"))
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    raise AssertionError("the actor's process is still there")


# --- what a made-up pool is asked for ------------------------------------------------------------


class Scripted:
    """A pool in which each job ends at once; `lost` slots lose every job."""

    def __init__(self, slots: int, lost: set[int] | None = None, refused: int = 0) -> None:
        self.slots = slots
        self.lost = lost or set()
        self.refused = refused
        self.events: list[Event] = []
        self.submitted: list[tuple[int, Job]] = []
        self.starts: list[int] = []
        self.closed = False

    def start(self, slot: int) -> None:
        self.starts.append(slot)
        refuse = slot < self.refused
        no = Refused(slot, Failure("no", unusable=True))
        self.events.append(no if refuse else Started(slot, f"s{slot}", {}))

    def submit(self, slot: int, job: Job) -> None:
        self.submitted.append((slot, job))
        gone = Lost(slot, "gone")
        self.events.append(gone if slot in self.lost else Ended(slot, 1.0, job.number, None))

    def wait(self, on_progress: OnSlotProgress) -> list[Event]:
        assert self.events, "the scheduler waits for nothing"
        events, self.events = self.events, []
        return events

    def close(self) -> None:
        self.closed = True


def test_jobs_go_where_their_models_are() -> None:
    pool = Scripted(2)
    told = [Job(n, None, "ab"[n % 2]) for n in range(1, 21)]
    assert results(pool, told) == list(range(1, 21))
    for slot in (0, 1):
        models = [job.models for where, job in pool.submitted if where == slot]
        assert sum(one != other for one, other in itertools.pairwise(models)) <= 1, models


def test_an_old_job_is_not_passed_over_for_ever() -> None:
    pool = Scripted(1)
    told = [Job(1, None, "a"), Job(2, None, "b"), *(Job(n, None, "a") for n in range(3, 400))]
    list(outcomes(pool, told))
    order = [job.number for _, job in pool.submitted]
    assert order[:3] == [1, 3, 4] and 3 < order.index(2) < 100


def test_jobs_are_read_as_they_are_needed() -> None:
    read = 0

    def source() -> Iterator[Job]:
        nonlocal read
        for number in range(1, 10_001):
            read = number
            yield Job(number, None)

    for done, _ in enumerate(outcomes(Scripted(3), source()), 1):
        assert read <= done + (AHEAD + 2) * 3
    assert read == 10_000


def test_no_more_workers_than_jobs() -> None:
    pool = Scripted(8)
    assert len(list(outcomes(pool, [Job(1, None), Job(2, None)]))) == 2
    assert pool.starts == [0, 1] and pool.closed
    pool = Scripted(8)
    assert list(outcomes(pool, [])) == [] and pool.starts == [] and pool.closed


def test_a_slot_that_only_loses_is_given_up() -> None:
    pool, notes = Scripted(2, lost={0}), Notes()
    found = by_number(outcomes(pool, [Job(n, None) for n in range(1, 101)], watcher=notes))
    assert len(found) == 100 and not [each for each in found.values() if each.failure]
    assert pool.starts.count(0) == MOST_LOSSES
    assert "a worker is given up, 1 left: gone" in notes.sentences


def test_without_a_worker_every_job_that_is_left_fails() -> None:
    pool = Scripted(1, lost={0})
    found = by_number(outcomes(pool, [Job(n, None) for n in range(1, 8)], retries=1))
    assert len(found) == 7
    assert found[1].failure is not None and found[1].failure.message == "2 workers were lost: gone"
    assert found[7].failure is not None
    assert found[7].failure.message == "no worker is left: gone" and pool.closed


def test_some_workers_do_not_start() -> None:
    notes = Notes()
    pool = Scripted(2, refused=1)
    assert len(list(outcomes(pool, [Job(1, None), Job(2, None)], watcher=notes))) == 2
    assert notes.sentences in (["a worker is given up, 1 left: no"], [])
    pool = Scripted(2, refused=2)
    with pytest.raises(UserError, match=r"^no$"):
        list(outcomes(pool, [Job(1, None), Job(2, None)]))
    assert pool.closed


def test_a_worker_that_is_not_admitted_ends_everything() -> None:
    def admit(about: dict[str, Any]) -> None:
        raise UserError("not that one")

    pool = Scripted(2)
    with pytest.raises(UserError, match="not that one"):
        list(outcomes(pool, [Job(1, None)], admit=admit))
    assert pool.closed and not pool.submitted


def test_an_error_of_the_source_ends_everything() -> None:
    def source() -> Iterator[Job]:
        yield Job(1, None)
        raise UserError("line 2: not JSON")

    pool = Scripted(1)
    with pytest.raises(UserError, match="line 2"):
        list(outcomes(pool, source()))
    assert pool.closed
