"""Jobs handed to the replicas of a Ray Serve deployment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RequestCancelledError

from ..errors import ExecutionError
from .executors import OnStart
from .models import OnProgress, Pictures, SamplingProgress, seed_of
from .replica import Started
from .requests import ImageRequest

TRIES = 4
"""How often a request is handed over at most, where replicas are lost with it."""
POLL_SECONDS = 0.5
log = logging.getLogger("teacache")


class RayServeExecutor:
    """An `Executor` whose slots are the running replicas of a deployment.

    Args:
        handle: of the deployment of `Replica`.
        count_replicas: how many of them run; it blocks.
        accepts: jobs that are handed over at a time. Ray Serve sees those that find no replica
            wait, which is what its autoscaling goes by.
    """

    busy = False

    def __init__(self, handle: Any, count_replicas: Callable[[], int], accepts: int) -> None:
        self._sample = handle.options(stream=True).sample
        self._count_replicas = count_replicas
        self._polling: asyncio.Task[None] | None = None
        self.accepts = accepts
        self.slots = 0

    async def open(self) -> None:
        self.slots = await asyncio.to_thread(self._count_replicas)
        self._polling = asyncio.create_task(self._poll())

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            with contextlib.suppress(RayError):  # the controller restarts
                self.slots = await asyncio.to_thread(self._count_replicas)

    async def run(
        self, request: ImageRequest, on_start: OnStart, on_progress: OnProgress
    ) -> Pictures:
        job = _Job(replace(request, seed=seed_of(request)), on_start, on_progress)
        for _ in range(TRIES):
            try:
                return await job.sample(self._sample)
            except RayTaskError:  # the replica is well: the request failed in a way not foreseen
                raise
            except (RayError, RequestCancelledError) as error:
                reason = " ".join(str(error).split())[:300]
                log.warning("a replica was lost, the request goes to another one: %s", reason)
        raise ExecutionError(
            f"{TRIES} replicas were lost with this request, the last one: {reason}"
        )

    async def close(self) -> None:
        if self._polling is not None:
            self._polling.cancel()


class _Job:
    """A request, the same at each try: it has a seed.

    What a replica told before it was lost is not told again by the next one.
    """

    def __init__(self, request: ImageRequest, on_start: OnStart, on_progress: OnProgress) -> None:
        self._request = request
        self._on_start = on_start
        self._on_progress = on_progress
        self._started = False
        self._told = 0

    async def sample(self, sample: Any) -> Pictures:
        stream = sample.remote(self._request)
        steps = 0
        try:
            async for event in stream:
                if isinstance(event, Pictures):
                    return event
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, Started):
                    self._start()
                elif isinstance(event, SamplingProgress):
                    steps += 1
                    self._tell(event, steps)
        finally:
            stream.cancel()
        raise ExecutionError("a replica ended without an answer")

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._on_start()

    def _tell(self, progress: SamplingProgress, number: int) -> None:
        if number > self._told:
            self._told = number
            self._on_progress(progress)
