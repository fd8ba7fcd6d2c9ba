"""What an actor tells of a job. Here it is an object of this process; `test_cluster.py` has Ray."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from teacache.jobs import Job
from teacache.jobs.actor import End, Hello, JobActor, Surroundings
from teacache.progress import Progress


class Counter:
    """A worker whose jobs take no time."""

    about: dict[str, Any]

    def __init__(self) -> None:
        self.about = {}

    def run(self, job: Job, on_progress: Any) -> str:
        for done in range(1, job.payload + 1):
            on_progress(Progress(done, job.payload, "sampling"))
        return "done"

    def stop(self) -> None:
        """Nothing runs for long."""

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class CounterSpec:
    name: str = "counter"
    computes: bool = True

    def start(self) -> Counter:
        return Counter()


def test_the_last_progress_is_told_however_fast_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    actor = JobActor(Surroundings(str(tmp_path), "1"))
    assert isinstance(actor.start(CounterSpec()), Hello)
    for steps in (1, 2, 12):
        *progress, end = actor.run(Job(1, steps))
        assert isinstance(end, End) and end.result == "done"
        assert progress[-1] == Progress(steps, steps, "sampling")
        assert len(progress) <= 2
    actor.close()
