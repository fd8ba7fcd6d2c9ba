"""Where jobs are sampled: an executor runs one request at a time in each of its slots."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from ..errors import ExecutionError
from .models import Cancelled, OnProgress, Pictures, SamplingProgress, ServedModel
from .requests import ImageRequest

OnStart = Callable[[], None]


class Executor(Protocol):
    """What the queue hands its jobs to. It is used in one event loop, between `open` and `close`.

    Attributes:
        slots: how many jobs it samples at a time; this may change.
        accepts: how many jobs it takes at a time; those that find no slot wait with it.
        busy: whether a cancelled job is still in a step that cannot be left.
    """

    @property
    def slots(self) -> int: ...
    @property
    def accepts(self) -> int: ...
    @property
    def busy(self) -> bool: ...

    async def open(self) -> None:
        """Called once, before the first job."""

    async def run(
        self, request: ImageRequest, on_start: OnStart, on_progress: OnProgress
    ) -> Pictures:
        """Samples; if it is cancelled, it ends once its slot is free for the next job.

        Cancelled again, it ends at once.

        Args:
            on_start: called when a slot has the job.
            on_progress: called for each step.

        Raises:
            ApiError, UserError, ConfigError: a value is unusable.
            ExecutionError: sampling failed.
        """

    async def close(self) -> None:
        """Frees what it holds; called once no job runs any more."""


class LocalExecutor:
    """An `Executor` in a thread of this process, with one slot."""

    slots = 1
    accepts = 1

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._thread = ThreadPoolExecutor(1, "sampling")
        self._sampling = threading.Event()

    @property
    def busy(self) -> bool:
        return self._sampling.is_set()

    async def open(self) -> None:
        pass

    async def run(
        self, request: ImageRequest, on_start: OnStart, on_progress: OnProgress
    ) -> Pictures:
        loop = asyncio.get_running_loop()
        cancelled = threading.Event()

        def listen(progress: SamplingProgress) -> None:
            loop.call_soon_threadsafe(on_progress, progress)

        def sample() -> Pictures | None:
            self._sampling.set()
            try:
                return self._model.sample(request, listen, cancelled.is_set)
            except Cancelled:
                return None
            except KeyboardInterrupt:  # a node's own: it must not end the server
                raise ExecutionError("sampling was interrupted") from None
            finally:
                self._sampling.clear()

        on_start()
        sampling = loop.run_in_executor(self._thread, sample)
        try:
            pictures = await asyncio.shield(sampling)
        except asyncio.CancelledError:
            cancelled.set()
            await asyncio.wait({sampling})
            if not sampling.cancelled():
                sampling.exception()  # seen: nobody waits for it
            raise
        assert pictures is not None  # it was not cancelled
        return pictures

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
