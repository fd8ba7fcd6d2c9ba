"""Answers in OpenAI's form: the pictures, and what the cache did."""

from __future__ import annotations

import base64
import io
import json
import time
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..files import without_non_finite
from .models import Pictures, SamplingProgress
from .requests import ImageBody

COMPRESSION = 90
"""Quality of JPEG and WebP where the request names none, 0 to 100."""


@dataclass(frozen=True)
class PictureFormat:
    """How pictures are encoded: `png`, `jpeg` or `webp`, the lossy ones with a quality."""

    name: str
    quality: int

    @classmethod
    def of(cls, body: ImageBody) -> PictureFormat:
        quality = COMPRESSION if body.output_compression is None else body.output_compression
        return cls(body.output_format or "png", quality)

    @property
    def media_type(self) -> str:
        return f"image/{self.name}"

    def encode(self, picture: Image.Image) -> bytes:
        file = io.BytesIO()
        options = {} if self.name == "png" else {"quality": self.quality}
        picture.save(file, self.name.upper(), **options)
        return file.getvalue()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def cache_entry(pictures: Pictures, queue_seconds: float, notes: list[str]) -> dict[str, Any]:
    """What is told beside the pictures: times, seed, the cache's reports, notes."""
    entry = {
        "seed": pictures.seed,
        "seconds": pictures.seconds,
        "queue_seconds": queue_seconds,
        "steps": sum(run["evaluations"] for run in pictures.runs),
        "skipped": sum(run["skipped"] for run in pictures.runs),
        "summary": [run["summary"] for run in pictures.runs],
        "runs": pictures.runs,
        "notes": [*notes, *pictures.notes],
    }
    finite: dict[str, Any] = without_non_finite(entry)
    return finite


def sized(picture: Image.Image) -> str:
    return f"{picture.width}x{picture.height}"


def images_response(
    data: list[dict[str, str]], pictures: Pictures, format: PictureFormat, cache: dict[str, Any]
) -> dict[str, Any]:
    """The answer to a request that is not streamed."""
    return {
        "created": int(time.time()),
        "data": data,
        "output_format": format.name,
        "size": sized(pictures.images[0]),
        "teacache": cache,
    }


def progress_event(kind: str, progress: SamplingProgress) -> dict[str, Any]:
    """An event for a finished step."""
    return {
        "type": f"{kind}.progress",
        "stage": progress.stage,
        "step": progress.step,
        "steps": progress.steps,
    }


def partial_event(
    kind: str, picture: Image.Image, index: int, format: PictureFormat
) -> dict[str, Any]:
    """OpenAI's event for a picture that is still noisy."""
    return {
        "type": f"{kind}.partial_image",
        "b64_json": in_base64(format.encode(picture)),
        "partial_image_index": index,
        **about_picture(picture, format),
    }


def completed_event(
    kind: str,
    file: dict[str, str],
    picture: Image.Image,
    index: int,
    format: PictureFormat,
    cache: dict[str, Any],
) -> dict[str, Any]:
    """OpenAI's event for a finished picture, the `index`-th of the request."""
    return {
        "type": f"{kind}.completed",
        **file,
        "index": index,
        **about_picture(picture, format),
        "teacache": cache,
    }


def about_picture(picture: Image.Image, format: PictureFormat) -> dict[str, Any]:
    return {
        "created_at": int(time.time()),
        "size": sized(picture),
        "output_format": format.name,
        "quality": "auto",
        "background": "opaque",
    }


def server_sent(event: dict[str, Any]) -> bytes:
    """An event in the format of server-sent events, under its type."""
    name = "error" if "error" in event else event["type"]
    return f"event: {name}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()
