"""The Ray actor around a worker. Ray itself is not imported here."""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import socket
import tempfile
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__
from ..files import write_atomically
from ..profiles.store import FOLDER_VARIABLE
from ..progress import Progress
from .job import Failure, Job, Worker, WorkerLost, WorkerSpec

THREADS = "OMP_NUM_THREADS"
PROGRESS_SECONDS = 0.2
"""Between two messages of a job's progress."""


@dataclass(frozen=True)
class Surroundings:
    """What a worker has in common with the command that it works for.

    Attributes:
        folder: the command's working directory, for relative paths.
        threads: the command's OMP_NUM_THREADS, None where it has none. Ray sets its own for every
            process, with which sums are rounded otherwise.
        profiles: the user's profiles by the names of their files, None where the worker finds them
            where the command does.
    """

    folder: str
    threads: str | None = None
    profiles: dict[str, str] | None = None

    def take_on(self) -> None:
        """Changes the environment of this process, before PyTorch is loaded."""
        with contextlib.suppress(OSError):  # a machine without that folder
            os.chdir(self.folder)
        if self.threads is None:
            os.environ.pop(THREADS, None)
        else:
            os.environ[THREADS] = self.threads
        if self.profiles is not None:
            folder = Path(tempfile.mkdtemp(prefix="teacache-profiles-"))
            for name, text in self.profiles.items():
                write_atomically(folder / name, partial(Path.write_bytes, data=text.encode()))
            os.environ[FOLDER_VARIABLE] = str(folder)


@dataclass(frozen=True)
class Hello:
    """What an actor tells of itself once its worker has started."""

    about: dict[str, Any]
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    python: str = field(default_factory=platform.python_version)
    teacache: str = __version__


@dataclass(frozen=True)
class End:
    """The last message of a job; `lost` says why the worker can go on no longer."""

    seconds: float
    result: Any = None
    failure: Failure | None = None
    lost: str = ""


class JobActor:
    """A worker in a process of its own; all that it does runs in one thread.

    Args:
        surroundings: of the command, taken on before anything else is imported.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        surroundings.take_on()
        self._thread = ThreadPoolExecutor(1, "jobs")
        self._worker: Worker | None = None

    def is_placed(self) -> bool:
        """Answers as soon as the cluster has made this process."""
        return True

    def start(self, spec: WorkerSpec) -> Hello | Failure:
        """Loads what every job needs."""
        return self._thread.submit(self._start, spec).result()

    def _start(self, spec: WorkerSpec) -> Hello | Failure:
        try:
            self._worker = spec.start()
        except Exception as error:
            return Failure.of(error)
        return Hello(self._worker.about)

    def run(self, job: Job) -> Generator[Progress | End, None, None]:
        """The job's progress, at most every `PROGRESS_SECONDS` and the last one, then its end."""
        latest: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
        ending = self._thread.submit(self._run, job, latest.put)
        ending.add_done_callback(lambda future: latest.put(None))
        last, held_back = 0.0, None
        while (progress := latest.get()) is not None:
            now = time.perf_counter()
            held_back = progress
            if now - last >= PROGRESS_SECONDS:
                last, held_back = now, None
                yield progress
        if held_back is not None:
            yield held_back
        yield _end_of(ending)

    def _run(self, job: Job, on_progress: Callable[[Progress], None]) -> End:
        assert self._worker is not None
        started = time.perf_counter()
        try:
            result = self._worker.run(job, on_progress)
        except WorkerLost as error:
            return End(time.perf_counter() - started, lost=str(error))
        except (Exception, KeyboardInterrupt) as error:
            return End(time.perf_counter() - started, failure=Failure.of(error))
        return End(time.perf_counter() - started, result)

    def stop(self) -> None:
        """Makes the running job end soon; called while `run` goes on."""
        worker = self._worker
        if worker is not None:
            with contextlib.suppress(Exception):  # it is about to be killed anyway
                worker.stop()

    def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            self._thread.submit(worker.close).result()


def _end_of(ending: Future[End]) -> End:
    error = ending.exception()
    return ending.result() if error is None else End(0.0, failure=Failure.of(error))
