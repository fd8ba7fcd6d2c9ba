"""The routes of the server."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from .. import __version__
from ..errors import ConfigError, ExecutionError, UserError
from .answers import PictureFormat, cache_entry, images_response, in_base64
from .counting import RequestCounter
from .errors import ApiError
from .kept import KeptPictures
from .limits import Limits
from .metrics import Metrics
from .models import ModelDescription, Pictures
from .queue import Job, JobQueue
from .requests import ImageBody, api_error, image_request, parse_form, parse_json, unused_fields
from .streaming import EventStream, disconnected, stream_events
from .uploads import read_form, read_json, read_picture

GENERATION, EDIT = "image_generation", "image_edit"
CLIENT_CLOSED = 499
"""The status that is counted where the client has gone."""
KNOWN = (UserError, ConfigError, ExecutionError, ApiError, HTTPException, ClientDisconnect)
"""The failures that are answered without a traceback in the log."""
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass
class Service:
    """One server: what it serves, its queue, and what whoever started it chose.

    Args:
        kept: keeps pictures for answers that name a URL; None where there are none.
        api_key: that requests must carry; empty for none.
    """

    model: ModelDescription
    queue: JobQueue
    metrics: Metrics
    limits: Limits = field(default_factory=Limits)
    kept: KeptPictures | None = None
    api_key: str = ""
    started: int = field(default_factory=lambda: int(time.time()))

    # --- routes -------------------------------------------------------------------------------

    async def generations(self, request: Request) -> Response:
        """Pictures from a prompt."""
        self.queue.admit()
        body = parse_json(await read_json(request), self.limits)
        return await self._answer(request, GENERATION, body, [])

    async def edits(self, request: Request) -> Response:
        """Pictures from a prompt and pictures."""
        self.queue.admit()
        if not self.model.takes_images:
            raise ApiError.field("image", f"{self.model.name} takes no picture")
        fields, files = await read_form(request, self.limits)
        return await self._answer(request, EDIT, parse_form(fields, self.limits), files)

    async def models(self) -> dict[str, Any]:
        """The model, in OpenAI's form of a list."""
        return {"object": "list", "data": [self._model_entry()]}

    async def one_model(self, name: str) -> dict[str, Any]:
        """The model of that name."""
        self._check_name(name)
        return self._model_entry()

    async def health(self) -> Response:
        """Whether jobs are accepted: status 200 or 503."""
        healthy = self.queue.healthy
        state = {
            "status": "ok" if healthy else "unavailable",
            "waiting": self.queue.waiting,
            "running": self.queue.running,
        }
        return JSONResponse(state, 200 if healthy else 503)

    async def prometheus(self) -> Response:
        """The counters in Prometheus' text format."""
        return Response(self.metrics.text(), media_type=PROMETHEUS)

    async def file(self, name: str) -> Response:
        """A picture that an answer named by its URL."""
        kept = None if self.kept is None else self.kept.find(name)
        if kept is None:
            raise ApiError(404, "no such file: pictures are kept for an hour", code="not_found")
        return Response(kept.data, media_type=kept.media_type)

    async def check_key(self, request: Request) -> None:
        """Refuses a request without the key, and one that a page of another site makes."""
        if request.headers.get("sec-fetch-site") == "cross-site":
            raise ApiError(403, "pages of other sites may not use this server")
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        correct = secrets.compare_digest(given.strip().encode(), self.api_key.encode())
        if self.api_key and not (kind.lower() == "bearer" and correct):
            raise ApiError(
                401,
                "wrong or missing API key: send the header 'Authorization: Bearer KEY'",
                code="invalid_api_key",
            )

    # --- a request ----------------------------------------------------------------------------

    def _model_entry(self) -> dict[str, Any]:
        return {
            "id": self.model.name,
            "object": "model",
            "created": self.started,
            "owned_by": "teacache",
            "teacache": self.model.about,
        }

    def _check_name(self, name: str) -> None:
        if name != self.model.name:
            message = f"model: {name[:80]!r} is not served here; {self.model.name!r} is"
            raise ApiError(404, message, param="model", code="model_not_found")

    async def _answer(
        self, request: Request, kind: str, body: ImageBody, files: list[bytes]
    ) -> Response:
        if body.model is not None:
            self._check_name(body.model)
        if body.response_format == "url" and self.kept is None:
            raise ApiError.field(
                "response_format",
                "must be b64_json: this server keeps no pictures (teacache serve --serve-files)",
            )
        notes = unused_fields(body)
        images = []
        for file in files:
            picture, note = await asyncio.to_thread(read_picture, file, self.limits)
            images.append(picture)
            notes += [note] if note else []
        wanted = image_request(body, tuple(images))
        self.model.check(wanted)
        to_file = partial(self._file, body, PictureFormat.of(body), str(request.base_url))
        if body.stream:
            events: asyncio.Queue[Any] = asyncio.Queue()
            job = self.queue.submit(wanted, events.put_nowait)
            stream = stream_events(job, events, kind, PictureFormat.of(body), to_file, notes)
            return EventStream(stream, partial(self.queue.cancel, job))
        job = self.queue.submit(wanted, lambda progress: None)
        pictures = await self._result(request, job)
        if pictures is None:
            return Response(status_code=CLIENT_CLOSED)
        data = await asyncio.to_thread(lambda: [to_file(picture) for picture in pictures.images])
        cache = cache_entry(pictures, job.queue_seconds, notes)
        return JSONResponse(images_response(data, pictures, PictureFormat.of(body), cache))

    async def _result(self, request: Request, job: Job) -> Pictures | None:
        """The result of a job; None where the client went away, and the job was cancelled."""
        gone = asyncio.create_task(disconnected(request.receive))
        try:
            either: set[asyncio.Future[Any]] = {job.result, gone}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not job.result.done():
                return None
            if job.result.cancelled():
                raise ApiError.stopping()
            return job.result.result()
        finally:
            gone.cancel()
            self.queue.cancel(job)

    def _file(
        self, body: ImageBody, format: PictureFormat, base_url: str, picture: Any
    ) -> dict[str, str]:
        data = format.encode(picture)
        if body.response_format == "url" and self.kept is not None:
            return {"url": f"{base_url}files/{self.kept.keep(data, format.media_type)}"}
        return {"b64_json": in_base64(data)}


async def on_error(request: Request, error: Exception) -> Response:
    """Any failure in OpenAI's form."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_CLOSED)
    if isinstance(error, HTTPException):
        answer = ApiError(error.status_code, str(error.detail))
    else:
        answer = api_error(error)
    return JSONResponse(answer.body, answer.status, answer.headers)


def create_app(service: Service) -> FastAPI:
    """The routes of `service`, whose queue runs while the application does."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.queue:
            yield

    app = FastAPI(
        title="TeaCache Studio",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    routes = APIRouter(prefix="/v1", dependencies=[Depends(service.check_key)])
    shown = {
        "requestBody": {"content": {"application/json": {"schema": ImageBody.model_json_schema()}}}
    }
    routes.add_api_route(
        "/images/generations", service.generations, methods=["POST"], openapi_extra=shown
    )
    routes.add_api_route("/images/edits", service.edits, methods=["POST"])
    routes.add_api_route("/models", service.models)
    routes.add_api_route("/models/{name:path}", service.one_model)
    app.include_router(routes)
    app.add_api_route("/health", service.health)
    app.add_api_route("/metrics", service.prometheus)
    app.add_api_route("/files/{name}", service.file)
    for kind in (Exception, *KNOWN):
        app.add_exception_handler(kind, on_error)
    app.add_middleware(RequestCounter, metrics=service.metrics)
    return app
