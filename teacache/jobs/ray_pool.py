"""A pool of Ray actors, each with one worker."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)

from .. import __version__
from ..errors import UserError
from ..progress import Progress
from .actor import End, Hello, JobActor
from .cluster import Cluster, Share
from .job import Failure, Job, WorkerSpec
from .pool import Ended, Event, Lost, OnSlotProgress, Refused, Started
from .shipping import runtime_env, surroundings

CONTROL = "control"
"""The group of calls that an actor answers while a job runs."""
WAIT_SECONDS = 0.5
CLOSE_SECONDS = 5.0
WAITING_SECONDS = 30.0
"""After so long without a single worker the user is told."""


class RayPool:
    """A `Pool` of actors of the cluster that this process has joined.

    Args:
        specs: one for each slot.
        cluster: where they run.
        share: what each worker that computes holds of it.
        notice: told that the cluster has no room yet.
    """

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        cluster: Cluster,
        share: Share,
        notice: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.slots = len(specs)
        self._specs = specs
        self._cluster = cluster
        self._share = share
        self._notice = notice
        self._environment = runtime_env(cluster.local)
        self._surroundings = surroundings(cluster.local)
        self._actor_class: Any = ray.remote(
            max_restarts=0, max_task_retries=0, concurrency_groups={CONTROL: 1}
        )(JobActor)
        self._actors: dict[int, Any] = {}
        self._starting: dict[Any, int] = {}
        self._running: dict[Any, int] = {}
        self._placed: list[Any] = []
        self._since: float | None = time.perf_counter()

    def start(self, slot: int) -> None:
        self._kill(slot)
        spec = self._specs[slot]
        cpus, gpus = (self._share.cpus, self._share.gpus) if spec.computes else (0.0, 0.0)
        actor_class = self._actor_class.options(
            num_cpus=cpus,
            num_gpus=gpus,
            scheduling_strategy="SPREAD",
            runtime_env=self._environment,
        )
        actor = actor_class.remote(self._surroundings)
        self._actors[slot] = actor
        self._starting[actor.start.remote(spec)] = slot
        if self._since is not None:
            self._placed.append(actor.is_placed.options(concurrency_group=CONTROL).remote())

    def submit(self, slot: int, job: Job) -> None:
        running = self._actors[slot].run.options(num_returns="streaming").remote(job)
        self._running[running] = slot

    def wait(self, on_progress: OnSlotProgress) -> list[Event]:
        awaited = [*self._starting, *self._running]
        ready, _ = ray.wait(awaited, num_returns=1, timeout=WAIT_SECONDS, fetch_local=False)
        if not ready:
            self._tell_of_waiting()
            return []
        ready, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0, fetch_local=False)
        events = [self._event(reference, on_progress) for reference in ready]
        return [event for event in events if event is not None]

    def close(self) -> None:
        closing = []
        for slot in [*self._starting.values()]:
            self._kill(slot)  # it has nothing to free yet
        for actor in self._actors.values():
            actor.stop.options(concurrency_group=CONTROL).remote()
            closing.append(actor.close.remote())
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS, fetch_local=False)
        for slot in [*self._actors]:
            self._kill(slot)
        self._starting.clear()
        self._running.clear()

    # ---------------------------------------------------------------------------------------------

    def _event(self, reference: Any, on_progress: OnSlotProgress) -> Event | None:
        if reference in self._starting:
            return self._start_event(self._starting.pop(reference), reference)
        slot = self._running[reference]
        try:
            message = ray.get(next(reference))
            if isinstance(message, Progress):
                on_progress(slot, message)
                return None
        except RayTaskError as error:  # the job or its result cannot be sent
            message = End(0.0, failure=Failure(_reason(error), str(error)))
        except RayError as error:
            message = End(0.0, lost=_reason(error))
        del self._running[reference]
        if message.lost:
            return Lost(slot, message.lost)
        return Ended(slot, message.seconds, message.result, message.failure)

    def _start_event(self, slot: int, reference: Any) -> Event:
        try:
            return self._started(slot, ray.get(reference))
        except RayTaskError as error:  # what describes the worker cannot be read there
            return Refused(slot, Failure(_reason(error), str(error)))
        except RayActorError as error:
            if error.actor_init_failed:
                return Refused(slot, Failure(_reason(error), str(error)))
            return Lost(slot, _reason(error))
        except RayError as error:
            return Lost(slot, _reason(error))

    def _started(self, slot: int, answer: Hello | Failure) -> Event:
        self._since = None
        self._placed.clear()
        if isinstance(answer, Failure):
            return Refused(slot, answer)
        check_versions(answer)
        spec = self._specs[slot]
        where = "" if self._cluster.local or not spec.computes else f" on {answer.host}"
        place = {"host": answer.host, "pid": answer.pid}
        return Started(slot, f"{spec.name}{where}", {**answer.about, **place})

    def _kill(self, slot: int) -> None:
        actor = self._actors.pop(slot, None)
        if actor is not None:
            ray.kill(actor)

    def _tell_of_waiting(self) -> None:
        """Once, where the cluster has found no place for any worker for a while."""
        if self._since is None or time.perf_counter() - self._since < WAITING_SECONDS:
            return
        self._since = None
        placed, _ = ray.wait(self._placed, num_returns=1, timeout=0, fetch_local=False)
        if not placed:
            gpus = f" and {self._share.gpus:g} GPU" if self._share.gpus else ""
            self._notice(
                f"the cluster has no room yet: a worker needs {self._share.cpus:g} CPU{gpus}"
            )


def check_versions(hello: Hello) -> None:
    """`UserError` where a worker's Python or package is not that of this process."""
    own = platform.python_version(), __version__
    for name, theirs, ours in zip(
        ("Python", "teacache"), (hello.python, hello.teacache), own, strict=True
    ):
        if theirs != ours:
            raise UserError(
                f"a worker on {hello.host} has {name} {theirs}, and this command {ours}: they must "
                "be the same"
            )


def _reason(error: RayError) -> str:
    """Why an actor is gone, in a few words."""
    text = " ".join(str(error).split())
    if isinstance(error, OutOfMemoryError) or "low on memory" in text:
        return "its node ran out of memory"
    if "node has died" in text or "node died" in text or "node was terminated" in text:
        return "its node is gone"
    if isinstance(error, ActorUnavailableError):
        return "its node does not answer"
    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {' '.join(str(error.cause).split())[:200]}"
    if isinstance(error, RayActorError):
        return (
            "its process was killed"
            if "SYSTEM_ERROR" in text
            else f"its process ended: {text[:200]}"
        )
    return text[:300]
