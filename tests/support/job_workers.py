"""Workers for the tests of the scheduler: what a job does is in its payload."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teacache.errors import UserError
from teacache.installation import pack_folder
from teacache.jobs import Job, WorkerLost
from teacache.jobs.job import OnProgress
from teacache.progress import Progress


class Worker:
    """Answers with its number of jobs so far, its process, and the environment it runs in."""

    def __init__(self, folder: Path | None) -> None:
        self.about = {"kind": "test"}
        self.folder = folder
        self.jobs = 0
        self.stopped = threading.Event()

    def run(self, job: Job, on_progress: OnProgress) -> Any:
        self.jobs += 1
        told: dict[str, Any] = job.payload
        if told.get("kill", 0) and self._attempt(job) <= told["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if told.get("lose", 0) and self._attempt(job) <= told["lose"]:
            raise WorkerLost("it was told to")
        if "fail" in told:
            raise RuntimeError(told["fail"])
        if "unsendable" in told:
            return threading.Lock()
        if "refuse" in told:
            raise UserError(told["refuse"])
        for step in range(told.get("steps", 0)):
            on_progress(Progress(step + 1, told["steps"], "step"))
        self.stopped.wait(told.get("sleep", 0))
        if self.folder is not None:
            (self.folder / f"done-{job.number}-{time.time_ns()}").touch()
        return {
            "number": job.number,
            "models": job.models,
            "nth": self.jobs,
            "pid": os.getpid(),
            "thread": threading.get_ident(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "pack": str(pack_folder()),
            "folder": str(Path.cwd()),
        }

    def _attempt(self, job: Job) -> int:
        assert self.folder is not None
        (self.folder / f"try-{job.number}-{time.time_ns()}").touch()
        return len(list(self.folder.glob(f"try-{job.number}-*")))

    def stop(self) -> None:
        self.stopped.set()

    def close(self) -> None:
        if self.folder is not None:
            (self.folder / f"closed-{os.getpid()}").touch()


@dataclass(frozen=True)
class Spec:
    """folder: where workers leave traces. refusal: why they do not start."""

    folder: Path | None = None
    refusal: str = ""
    name: str = "worker"
    computes: bool = True

    def start(self) -> Worker:
        if self.refusal:
            raise UserError(self.refusal)
        return Worker(self.folder)
