"""The queue between requests and executors: bounded, in order, with jobs that can be cancelled."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from .errors import ApiError
from .executors import Executor
from .metrics import Metrics
from .models import OnProgress, Pictures
from .requests import ImageRequest

GRACE = 3.0
"""Seconds that steps may take to end once the server was asked to stop."""
FIRST_GUESS = 5.0
"""Seconds that a job is taken to last before one was measured."""
LONGEST_RETRY = 60
"""Seconds of `Retry-After` at most: the estimate is rough, and clients ignore longer ones."""
WEIGHT_OF_NEWEST = 0.3


@dataclass(eq=False)
class Job:
    """A request in the queue or with an executor.

    Attributes:
        result: of the job; cancelled with it.
        started: when its sampling began; None while it waits.
        queue_seconds: how long it waited; known once it runs.
    """

    request: ImageRequest
    on_progress: OnProgress
    result: asyncio.Future[Pictures] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    submitted: float = field(default_factory=time.perf_counter)
    started: float | None = None
    queue_seconds: float = 0.0
    task: asyncio.Task[Pictures] | None = None


class JobQueue:
    """Hands jobs to an executor in the order in which they came; to be used with `async with`.

    Args:
        executor: runs them.
        capacity: how many may wait, beside those that run.
        metrics: counts them.
    """

    def __init__(self, executor: Executor, capacity: int, metrics: Metrics) -> None:
        self._executor = executor
        self._capacity = capacity
        self._metrics = metrics
        self._waiting: deque[Job] = deque()
        self._handed: set[Job] = set()
        self._available = asyncio.Semaphore(0)
        self._workers: list[asyncio.Task[None]] = []
        self._abandoned: asyncio.Future[None]
        self._typical_seconds = FIRST_GUESS
        self._stopping = False
        metrics.capacity.set(capacity)
        metrics.slots.set_function(lambda: executor.slots)
        metrics.waiting.set_function(lambda: self.waiting)
        metrics.running.set_function(lambda: self.running)

    async def __aenter__(self) -> JobQueue:
        self._abandoned = asyncio.get_running_loop().create_future()
        await self._executor.open()
        self._workers = [
            asyncio.create_task(self._work(), name=f"worker {number}")
            for number in range(self._executor.accepts)
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        for worker in self._workers:
            worker.cancel()
        ended = asyncio.gather(*self._workers, return_exceptions=True)
        either: set[asyncio.Future[Any]] = {ended, self._abandoned}
        await asyncio.wait(either, timeout=GRACE, return_when=asyncio.FIRST_COMPLETED)
        await self._executor.close()

    @property
    def waiting(self) -> int:
        return len(self._waiting) + len(self._handed) - self.running

    @property
    def running(self) -> int:
        return sum(job.started is not None for job in self._handed)

    @property
    def healthy(self) -> bool:
        """Whether jobs are accepted and handed to the executor."""
        alive = self._workers and not any(worker.done() for worker in self._workers)
        return bool(alive) and not self._stopping

    def admit(self) -> None:
        """Refuses a job that would find no place.

        Raises:
            ApiError: 429 where as many wait as may; 503 where the server stops.
        """
        if self._stopping:
            raise ApiError.stopping()
        if self._ahead >= self._capacity + self._slots:
            self._refuse()

    @property
    def _ahead(self) -> int:
        return len(self._waiting) + len(self._handed)

    @property
    def _slots(self) -> int:
        """Those of the executor; one where it has none at present."""
        return max(1, self._executor.slots)

    def _refuse(self) -> None:
        self._metrics.jobs.labels("refused").inc()
        seconds = math.ceil(self._ahead * self._typical_seconds / self._slots)
        seconds = min(max(1, seconds), LONGEST_RETRY)
        raise ApiError(
            429,
            f"{self._capacity} requests wait already, which is the bound: try again in {seconds} s",
            kind="rate_limit_error",
            code="queue_full",
            retry_after=seconds,
        )

    def submit(self, request: ImageRequest, on_progress: OnProgress) -> Job:
        """Puts a job at the end of the queue; raises as `admit`."""
        self.admit()
        job = Job(request, on_progress)
        self._waiting.append(job)
        self._available.release()
        return job

    def cancel(self, job: Job) -> None:
        """Ends a job, whether it waits or runs; nothing happens where it has ended."""
        if job.result.done():
            return
        job.result.cancel()
        if job in self._waiting:
            self._waiting.remove(job)
            self._metrics.jobs.labels("cancelled").inc()
        elif job.task is not None:
            job.task.cancel()

    def stop(self) -> None:
        """Cancels every job, and accepts no more."""
        self._stopping = True
        for job in [*self._waiting, *self._handed]:
            self.cancel(job)

    def abandon(self) -> None:
        """Ends the wait for steps that go on; to be called from any thread or signal handler."""

        def end() -> None:
            if not self._abandoned.done():
                self._abandoned.set_result(None)

        self._abandoned.get_loop().call_soon_threadsafe(end)

    async def _work(self) -> None:
        while True:
            await self._available.acquire()
            if self._waiting:  # a job that was cancelled leaves its count behind
                await self._run(self._waiting.popleft())

    async def _run(self, job: Job) -> None:
        self._handed.add(job)
        running = self._executor.run(job.request, lambda: self._start(job), job.on_progress)
        job.task = asyncio.create_task(running)
        try:
            await asyncio.wait({job.task})
        except asyncio.CancelledError:
            self.cancel(job)
            await asyncio.wait({job.task})
            raise
        finally:
            self._handed.discard(job)
        self._end(job, job.task)

    def _start(self, job: Job) -> None:
        job.started = time.perf_counter()
        job.queue_seconds = job.started - job.submitted
        self._metrics.queue_seconds.observe(job.queue_seconds)

    def _end(self, job: Job, task: asyncio.Task[Pictures]) -> None:
        failure = None if task.cancelled() else task.exception()
        if task.cancelled() or job.result.done():
            job.result.cancel()
            outcome = "cancelled"
        elif failure is not None:
            job.result.set_exception(failure)
            outcome = "failed"
        else:
            self._learn(job)
            self._metrics.sampled(task.result())
            job.result.set_result(task.result())
            outcome = "done"
        self._metrics.jobs.labels(outcome).inc()

    def _learn(self, job: Job) -> None:
        """Adjusts what a job is taken to last."""
        if job.started is not None:
            newest = WEIGHT_OF_NEWEST * (time.perf_counter() - job.started)
            self._typical_seconds = newest + (1 - WEIGHT_OF_NEWEST) * self._typical_seconds
