"""A job, what came of it, and the worker that runs it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import ConfigError, ExecutionError, UserError
from ..progress import Progress

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        number: from 1, in the order of the input.
        payload: what its worker needs to know; it can be pickled.
        models: jobs with the same value need the same models loaded, and go to a worker that has
            them where there is one.
    """

    number: int
    payload: Any
    models: str = ""


@dataclass(frozen=True)
class Failure:
    """Why a job failed, or a worker did not start.

    Attributes:
        message: for the user.
        details: a traceback, or nothing.
        unusable: the input is to blame, not what ran.
    """

    message: str
    details: str = ""
    unusable: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        if isinstance(error, (UserError, ConfigError)):
            return cls(str(error), unusable=True)
        if isinstance(error, ExecutionError):
            return cls(str(error), error.details)
        details = "".join(traceback.format_exception(error))
        if isinstance(error, KeyboardInterrupt):
            return cls("interrupted", details)
        reason = " ".join(str(error).split())[:300]
        return cls(f"{type(error).__name__}: {reason}".rstrip(": "), details)

    def error(self) -> UserError | ExecutionError:
        """What a command raises for it."""
        if self.unusable:
            return UserError(self.message)
        return ExecutionError(self.message, self.details)


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a result, or a failure.

    Attributes:
        worker: the name of the one that ran it last; empty if none did.
        seconds: of the last attempt.
        attempts: how many workers had it; more than one where workers were lost.
    """

    job: Job
    worker: str
    seconds: float
    attempts: int
    result: Any = None
    failure: Failure | None = None


class WorkerLost(Exception):
    """Raised by a worker that can run nothing any more: another one gets its job."""


class Worker(Protocol):
    """Runs one job at a time, always in the same thread.

    Attributes:
        about: what the command is told of the worker once it has started; it can be pickled.
    """

    about: dict[str, Any]

    def run(self, job: Job, on_progress: OnProgress) -> Any:
        """The result, which can be pickled.

        Raises:
            UserError, ConfigError: the job is unusable.
            WorkerLost: the worker is.
            Exception: the job failed, and is not tried again.
        """

    def stop(self) -> None:
        """Makes the running job end soon; called from another thread, before `close`."""

    def close(self) -> None:
        """Frees what the worker holds."""


class WorkerSpec(Protocol):
    """How a worker is made, where it runs; it can be pickled, and is light to import.

    Attributes:
        name: of the worker, for the user.
        computes: whether the worker itself computes; one that only speaks to a server does not.
    """

    @property
    def name(self) -> str: ...
    @property
    def computes(self) -> bool: ...

    def start(self) -> Worker:
        """Loads what every job needs.

        Raises:
            UserError, ConfigError: it cannot be loaded.
        """
