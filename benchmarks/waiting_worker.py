"""A worker that waits: what a job on Ray costs beside its own work."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any

from teacache.jobs import Job
from teacache.jobs.job import OnProgress
from teacache.progress import Progress


@dataclass(frozen=True)
class Wait:
    """The payload of a job: `steps` of `seconds` each, then `content` bytes."""

    steps: int = 1
    seconds: float = 0.0
    content: int = 0


@dataclass(frozen=True)
class Answer:
    """The result of a job: what follows from its number, who gave it, and some content."""

    answer: int
    pid: int
    content: bytes


def answer_of(number: int) -> int:
    return number * number + 1


@dataclass(frozen=True)
class WaitingSpec:
    """A `WorkerSpec`."""

    name: str
    computes: bool = True

    def start(self) -> WaitingWorker:
        return WaitingWorker()


class WaitingWorker:
    """A `Worker`."""

    def __init__(self) -> None:
        self.about: dict[str, Any] = {}
        self._stopped = threading.Event()

    def run(self, job: Job, on_progress: OnProgress) -> Answer:
        wait: Wait = job.payload
        for step in range(wait.steps):
            if wait.seconds:
                self._stopped.wait(wait.seconds)
            on_progress(Progress(step + 1, wait.steps, "waiting"))
        return Answer(answer_of(job.number), os.getpid(), bytes(wait.content))

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        """Nothing is held."""
