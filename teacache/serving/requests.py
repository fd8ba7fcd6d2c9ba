"""The fields of a request, checked: from JSON or from a form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from ..comparison import Point
from ..config import LEARN, TeaCacheConfig, check_setting
from ..environment import NONE, TEACACHE, parse_config
from ..errors import ConfigError, ExecutionError, UserError, nearest
from .errors import ApiError
from .limits import MAX_PARTIAL_IMAGES, MAX_PROMPT, MAX_SEED, SMALLEST_SIDE, Limits

UNUSED = ("user", "quality", "style", "background", "moderation", "input_fidelity")
"""Fields of OpenAI's own models: accepted, and named in the answer as not used."""
SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")
SHOWN = 80
"""Characters of a refused value that a message repeats."""


class ImageBody(BaseModel):
    """The fields of `/v1/images/generations` and, beside the pictures, of `/v1/images/edits`.

    Validated with the server's `Limits` as context.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT)
    model: str | None = None
    n: int | None = Field(None, ge=1)
    size: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: int | None = Field(None, ge=0, le=100)
    stream: bool | None = None
    partial_images: int | None = Field(None, ge=0, le=MAX_PARTIAL_IMAGES)
    negative_prompt: str | None = Field(None, max_length=MAX_PROMPT)
    num_inference_steps: int | None = Field(None, ge=1)
    guidance_scale: float | None = Field(None, ge=0, le=1000)
    true_cfg_scale: float | None = Field(None, ge=0, le=1000)
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    strength: float | None = Field(None, ge=0, le=1)
    cache_backend: Literal["tea_cache", "none"] | None = None
    cache_config: dict[str, Any] | None = None
    user: str | None = None
    quality: str | None = None
    style: str | None = None
    background: str | None = None
    moderation: str | None = None
    input_fidelity: str | None = None

    @field_validator("n", "num_inference_steps")
    @classmethod
    def _bounded(cls, value: int | None, info: ValidationInfo[Limits]) -> int | None:
        limits = info.context
        most = limits.pictures if info.field_name == "n" else limits.steps
        if value is not None and value > most:
            raise ValueError(f"must be a whole number from 1 to {most}")
        return value

    @field_validator("size")
    @classmethod
    def _sized(cls, value: str | None, info: ValidationInfo[Limits]) -> str | None:
        if value is None or value == "auto":
            return None
        limits = info.context
        found = SIZE.fullmatch(value)
        sides = [int(side) for side in found.groups()] if found else []
        if not sides or not all(SMALLEST_SIDE <= side <= limits.side for side in sides):
            raise ValueError(
                "must be WIDTHxHEIGHT such as 512x512, or auto; each side is from "
                f"{SMALLEST_SIDE} to {limits.side} pixels"
            )
        return value


@dataclass(frozen=True)
class ImageRequest:
    """What a model is to sample. None leaves a value to the model or to the server.

    Args:
        cache: settings of the cache in place of the server's own ones; empty for no others.
        uncached: whether the cache is off for this request.
        previews: how many pictures are wanted while they are still noisy.
        images: pictures to edit or start from.
    """

    prompt: str
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    n: int | None = None
    strength: float | None = None
    cache: Mapping[str, Any] | None = None
    uncached: bool = False
    previews: int = 0
    images: tuple[Image.Image, ...] = ()

    def preview_steps(self, total: int) -> list[int]:
        """After which of `total` steps a noisy picture is wanted: evenly spread."""
        return [
            round(total * number / (self.previews + 1)) for number in range(1, self.previews + 1)
        ]

    def cache_settings(self, base: TeaCacheConfig | None) -> TeaCacheConfig | None:
        """The settings of the cache for this request.

        Args:
            base: those of the server; None where it runs without a cache.

        Raises:
            ConfigError: the request's settings do not go together with them.
        """
        if self.uncached:
            return None
        if self.cache is None:
            return base
        point = Point(tuple(self.cache.items()))
        return point.config(base or TeaCacheConfig(rel_l1_thresh=None))


def parse_json(body: bytes, limits: Limits) -> ImageBody:
    """The fields of a JSON object; `ApiError` for the first that is wrong."""
    try:
        return ImageBody.model_validate_json(body, strict=True, context=limits)
    except ValidationError as error:
        raise refused(error) from None


def parse_form(fields: Mapping[str, str], limits: Limits) -> ImageBody:
    """The fields of a form, where numbers and settings are written as text."""
    values: dict[str, Any] = dict(fields)
    if "cache_config" in values:
        try:
            values["cache_config"] = parse_config(values["cache_config"], "cache_config")
        except UserError as error:
            raise ApiError(400, str(error), param="cache_config", code="invalid_value") from None
    try:
        return ImageBody.model_validate(values, context=limits)
    except ValidationError as error:
        raise refused(error) from None


def refused(error: ValidationError) -> ApiError:
    """The first error of a validation, with the field's name and what is allowed."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = first["loc"]
    if not where:
        return ApiError(400, f"the body is no JSON object of fields: {first['msg']}")
    name = str(where[0])
    if first["type"] == "extra_forbidden":
        known = ImageBody.model_fields
        hint = nearest(name, known) or "."
        message = f"unknown field {name[:SHOWN]!r}{hint} Known: {', '.join(known)}"
        return ApiError(400, message, param=name[:SHOWN], code="unknown_parameter")
    if first["type"] == "missing":
        return ApiError(400, f"{name}: is required", param=name, code="missing_required_parameter")
    problem = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    problem = problem.replace("String should", "must")
    shown = repr(first["input"])
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"
    return ApiError.field(name, f"{problem}, not {shown}")


def image_request(body: ImageBody, images: tuple[Image.Image, ...] = ()) -> ImageRequest:
    """What `body` asks a model for; `ApiError` where its fields do not go together."""
    width, height = (None, None) if body.size is None else map(int, body.size.split("x"))
    scales = {body.guidance_scale, body.true_cfg_scale} - {None}
    if len(scales) > 1:
        raise ApiError.field("true_cfg_scale", "means the same as guidance_scale: give one of them")
    if body.partial_images and not body.stream:
        raise ApiError.field("partial_images", "must be 0, or stream must be true")
    if body.strength is not None and not images:
        raise ApiError.field("strength", "is for /v1/images/edits only")
    uncached = body.cache_backend == NONE
    if uncached and body.cache_config is not None:
        raise ApiError.field("cache_config", f"cache_backend must be {TEACACHE} for it")
    cache: dict[str, Any] | None = {} if body.cache_backend == TEACACHE else None
    if body.cache_config is not None:
        cache = checked_cache(body.cache_config)
    return ImageRequest(
        prompt=body.prompt,
        negative_prompt=body.negative_prompt,
        width=width,
        height=height,
        steps=body.num_inference_steps,
        guidance=scales.pop() if scales else None,
        seed=body.seed,
        n=body.n,
        strength=body.strength,
        cache=cache,
        uncached=uncached,
        previews=body.partial_images or 0,
        images=images,
    )


def checked_cache(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of the cache that a request may set; `ApiError` for others.

    A request writes no files: it cannot ask for the preset that saves a profile.
    """
    try:
        for name in settings:
            check_setting(name)
        TeaCacheConfig.from_mapping(settings)
    except ConfigError as error:
        raise ApiError.field("cache_config", str(error)) from None
    if settings.get("preset") == LEARN:
        raise ApiError.field("cache_config", f"preset {LEARN} saves a profile: not in a request")
    return settings


def api_error(failure: BaseException) -> ApiError:
    """What a failed request is answered: 400 for its own mistakes, else 500."""
    if isinstance(failure, ApiError):
        return failure
    if isinstance(failure, ConfigError):
        return ApiError.field("cache_config", str(failure))
    if isinstance(failure, UserError):
        name = str(failure).partition(":")[0]
        return ApiError(400, str(failure), param=name if name in ImageBody.model_fields else None)
    reason = str(failure) if isinstance(failure, ExecutionError) else "the server failed"
    return ApiError(500, reason, kind="server_error", code="server_error")


def unused_fields(body: ImageBody) -> list[str]:
    """A sentence for each field that this server does not use."""
    given = body.model_dump(exclude_none=True)
    return [f"{name} is not used by this server." for name in UNUSED if name in given]
