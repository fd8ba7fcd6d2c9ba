"""A request's body, read within bounds, and the pictures in it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from PIL import Image, ImageOps, UnidentifiedImageError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from .errors import ApiError
from .limits import BODY_SECONDS, MAX_JSON, MAX_PICTURES, MAX_UPLOADED_PIXELS, Limits
from .requests import ImageBody

T = TypeVar("T")
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
IMAGE_FIELDS = ("image", "image[]")
MAX_FIELDS = 2 * len(ImageBody.model_fields)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""What is read: Pillow's own decoders of plain pictures."""


def bounded(receive: Receive, most: int) -> Receive:
    """`receive` that raises `ApiError` once more than `most` bytes have come."""
    received = 0

    async def receive_bounded() -> MutableMapping[str, Any]:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > most:
            raise too_large(most)
        return message

    return receive_bounded


def too_large(most: int) -> ApiError:
    return ApiError(413, f"the request is too large: at most {most} bytes", code="too_large")


async def in_time(reading: Awaitable[T]) -> T:
    """What `reading` gives; `ApiError` if the body does not arrive in time."""
    try:
        return await asyncio.wait_for(reading, BODY_SECONDS)
    except asyncio.TimeoutError:
        message = f"the request's body did not arrive within {BODY_SECONDS:g} s"
        raise ApiError(408, message, code="timeout") from None


def check_kind(request: Request, kind: str, most: int) -> None:
    """Refuses a body of another media type, and one that says it is too large."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != kind:
        raise ApiError(415, f"Content-Type must be {kind}, not {given or 'empty'}")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > most:
        raise too_large(most)


async def read_json(request: Request) -> bytes:
    """The body of a request without pictures."""
    check_kind(request, "application/json", MAX_JSON)
    inner = Request(request.scope, bounded(request.receive, MAX_JSON))
    return await in_time(inner.body())


async def read_form(request: Request, limits: Limits) -> tuple[dict[str, str], list[bytes]]:
    """The text fields of a form, and the files of its pictures."""
    check_kind(request, "multipart/form-data", limits.body)
    inner = Request(request.scope, bounded(request.receive, limits.body))
    form = await in_time(
        inner.form(max_files=MAX_PICTURES + 1, max_fields=MAX_FIELDS, max_part_size=MAX_JSON)
    )
    try:
        return await parts_of(form)
    finally:
        await form.close()


async def parts_of(form: FormData) -> tuple[dict[str, str], list[bytes]]:
    fields: dict[str, str] = {}
    files: list[bytes] = []
    for name, value in form.multi_items():
        if name == "mask":
            raise ApiError.field("mask", "is not supported: the whole picture is edited")
        if name in IMAGE_FIELDS:
            if not isinstance(value, UploadFile):
                raise ApiError.field("image", "must be a file, not a text")
            files.append(await value.read())
        elif isinstance(value, UploadFile):
            raise ApiError.field(name, "must be a text, not a file")
        elif name in fields:
            raise ApiError.field(name, "is given twice")
        else:
            fields[name] = value
    if not files:
        raise ApiError(400, "image: is required", param="image", code="missing_required_parameter")
    if len(files) > MAX_PICTURES:
        raise ApiError.field("image", f"at most {MAX_PICTURES} pictures, not {len(files)}")
    return fields, files


def read_picture(data: bytes, limits: Limits) -> tuple[Image.Image, str]:
    """A picture to edit, upright and in RGB, and a sentence where it was reduced.

    Raises:
        ApiError: it is no picture that can be read, or has too many pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_UPLOADED_PIXELS:
                raise ApiError.field(
                    "image",
                    f"at most {MAX_UPLOADED_PIXELS} pixels, not {picture.width}x{picture.height}",
                )
            upright = ImageOps.exif_transpose(picture).convert("RGB")
    except (
        UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:100]
        allowed = ", ".join(FORMATS)
        message = f"no picture that can be read ({allowed}): {reason}"
        raise ApiError.field("image", message) from None
    size = upright.size
    upright.thumbnail((limits.side, limits.side))
    if upright.size == size:
        return upright, ""
    was, now = ("x".join(map(str, each)) for each in (size, upright.size))
    return upright, f"The picture was reduced from {was} to {now}."
