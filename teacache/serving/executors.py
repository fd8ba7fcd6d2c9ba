"""Where jobs are sampled: an executor runs one request at a time in each of its slots."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from ..errors import ExecutionError
from .models import Cancelled, OnProgress, Pictures, SamplingProgress, ServedModel
from .requests import ImageRequest


class Executor(Protocol):
    """What the queue hands its jobs to.

    Attributes:
        slots: how many jobs it runs at a time.
    """

    slots: int

    async def run(self, request: ImageRequest, on_progress: OnProgress) -> Pictures:
        """Samples; if it is cancelled, it ends once its slot is free for the next job.

        Raises:
            UserError, ConfigError: a value is unusable.
            ExecutionError: sampling failed.
        """

    async def close(self) -> None:
        """Frees what it holds; nothing runs any more."""


class LocalExecutor:
    """An `Executor` in a thread of this process, with one slot."""

    slots = 1

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._thread = ThreadPoolExecutor(1, "sampling")

    async def run(self, request: ImageRequest, on_progress: OnProgress) -> Pictures:
        loop = asyncio.get_running_loop()
        cancelled = threading.Event()

        def listen(progress: SamplingProgress) -> None:
            loop.call_soon_threadsafe(on_progress, progress)

        def sample() -> Pictures | None:
            try:
                return self._model.sample(request, listen, cancelled.is_set)
            except Cancelled:
                return None
            except KeyboardInterrupt:  # a node's own: it must not end the server
                raise ExecutionError("sampling was interrupted") from None

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
