"""One replica of a model under Ray Serve: it holds the model, and samples one request at a time."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..errors import ConfigError, ExecutionError, UserError
from .errors import ApiError
from .executors import LocalExecutor
from .models import ModelDescription, Pictures, SamplingProgress, ServedModel
from .requests import ImageRequest
from .sources import ModelSource

KNOWN = (ApiError, UserError, ConfigError, ExecutionError)
"""The failures of a request that are told as they are."""
NAMESPACE = "teacache"
"""Of Ray's names, for servers."""


class Started:
    """The replica samples the request from now on."""


Event = Started | SamplingProgress | Pictures | Exception
"""What a request yields: `Started`, the steps, and at the end pictures or a known failure."""


@dataclass(frozen=True)
class Server:
    """The server that a replica belongs to.

    Args:
        name: of its application in Ray Serve, and of its `SignOfLife`.
        version: of the pack that it runs.
    """

    name: str
    version: str = __version__


class SignOfLife:
    """An actor that Ray ends together with the server that made it."""


class Replica:
    """A deployment of Ray Serve. Its model is loaded once, when it starts.

    Args:
        source: what it serves.
        server: what it serves it for.

    Raises:
        UserError, ConfigError: the model cannot be loaded here.
    """

    def __init__(self, source: ModelSource, server: Server) -> None:
        self._opened = ExitStack()
        self._server = server
        check_version(server)

        def load() -> ServedModel:
            folder = self._opened.enter_context(tempfile.TemporaryDirectory(prefix="teacache-"))
            return self._opened.enter_context(source.opened(Path(folder)))

        with ThreadPoolExecutor(1, "loading") as thread:  # this one runs Ray's event loop
            model = thread.submit(load).result()
        self._description = model.description
        self._executor = LocalExecutor(model)

    async def describe(self) -> ModelDescription:
        return self._description

    async def sample(self, request: ImageRequest) -> AsyncIterator[Event]:
        """Samples, and tells each step; cancelled, it stops at the next one."""
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        sampling = asyncio.create_task(
            self._executor.run(request, lambda: events.put_nowait(Started()), events.put_nowait)
        )
        sampling.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            try:
                yield sampling.result()
            except KNOWN as failure:
                yield failure
        finally:
            sampling.cancel()

    async def check_health(self) -> None:
        """Called by Ray Serve; ends the application once its server is gone."""
        await asyncio.to_thread(self._end_if_alone)

    def _end_if_alone(self) -> None:
        import ray
        from ray import serve

        try:
            ray.get_actor(self._server.name, NAMESPACE)
        except ValueError:  # there is none
            serve.delete(self._server.name, _blocking=False)

    def __del__(self) -> None:
        self._opened.close()


def check_version(server: Server) -> None:
    """Raises `UserError` if this process has another version of the pack than the server."""
    if server.version != __version__:
        raise UserError(
            f"--ray: the server has teacache-studio {server.version}, but a node of the cluster "
            f"has {__version__}: install one version everywhere"
        )
