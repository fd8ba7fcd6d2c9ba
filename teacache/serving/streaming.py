"""Progress, noisy pictures and results as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from PIL import Image
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .answers import (
    PictureFormat,
    cache_entry,
    completed_event,
    partial_event,
    progress_event,
    server_sent,
)
from .errors import ApiError
from .models import SamplingProgress
from .queue import Job
from .requests import api_error

HEARTBEAT = 10.0
"""Seconds of silence after which a comment is sent, which keeps proxies from closing."""
ToFile = Callable[[Image.Image], dict[str, str]]


async def disconnected(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """A stream of events.

    Args:
        events: as bytes.
        on_close: called when the stream ends, however it ends, and when the client has gone.
    """

    def __init__(self, events: AsyncIterator[bytes], on_close: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(disconnected(receive))
        gone.add_done_callback(lambda _: self._on_close())
        try:
            await super().__call__(scope, receive, send)
        finally:
            gone.cancel()


async def stream_events(
    job: Job,
    events: asyncio.Queue[SamplingProgress],
    kind: str,
    format: PictureFormat,
    to_file: ToFile,
    notes: list[str],
) -> AsyncIterator[bytes]:
    """The events of a job as its client receives them.

    Args:
        events: what the job's progress is put into.
        kind: OpenAI's prefix of the events' types.
        to_file: the entry with a picture's file.
        notes: sentences for the user.
    """
    noisy = 0
    while not (job.result.done() and events.empty()):
        getting = asyncio.ensure_future(events.get())
        either: set[asyncio.Future[Any]] = {getting, job.result}
        await asyncio.wait(either, timeout=HEARTBEAT, return_when=asyncio.FIRST_COMPLETED)
        if not getting.done():
            getting.cancel()
            if not job.result.done():
                yield b": waiting\n\n"
            continue
        progress = getting.result()
        yield server_sent(progress_event(kind, progress))
        if progress.picture is not None:
            yield server_sent(partial_event(kind, progress.picture, noisy, format))
            noisy += 1
    if job.result.cancelled():
        yield server_sent(ApiError.stopping().body)
        return
    failure = job.result.exception()
    if failure is not None:
        yield server_sent(api_error(failure).body)
        return
    pictures = job.result.result()
    cache = cache_entry(pictures, job.queue_seconds, notes)
    for index, picture in enumerate(pictures.images):
        file = await asyncio.to_thread(to_file, picture)
        yield server_sent(completed_event(kind, file, picture, index, format, cache))
