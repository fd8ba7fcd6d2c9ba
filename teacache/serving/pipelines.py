"""A diffusers pipeline as a model of the server."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..config import TeaCacheConfig
from ..errors import ExecutionError, UserError
from ..hosts.diffusers.generation import (
    ImageMissing,
    Request,
    Step,
    attempt,
    for_image,
    needs_image,
)
from ..hosts.diffusers.loading import recognise
from ..plots.pixels import to_pil
from .errors import ApiError
from .models import Cancelled, IsCancelled, OnProgress, Pictures, SamplingProgress, seed_of
from .requests import ImageRequest


@dataclass(frozen=True)
class PipelineDescription:
    """A `ModelDescription` of a pipeline.

    Args:
        cache: the server's own settings of the cache; None for no cache.
        needs_image: whether it edits pictures, and does nothing else.
    """

    name: str
    about: dict[str, Any]
    takes_images: bool
    lines: tuple[str, ...]
    cache: TeaCacheConfig | None
    needs_image: bool

    def check(self, request: ImageRequest) -> None:
        request.cache_settings(self.cache)
        if self.needs_image and not request.images:
            raise image_needed(self.name)


def image_needed(name: str) -> ApiError:
    return ApiError.field("image", f"{name} edits pictures: use /v1/images/edits")


class PipelineModel:
    """A `ServedModel` of a pipeline that is on its device.

    Args:
        pipe: the pipeline.
        name: by which requests call it.
        cache: the server's own settings of the cache; None for no cache.
        steps: of a request that names none.

    Raises:
        ConfigError: the settings do not suit the model.
    """

    def __init__(self, pipe: Any, name: str, cache: TeaCacheConfig | None, steps: int) -> None:
        self._pipe = pipe
        self._cache = cache
        self._steps = steps
        recognised, problem = recognise(pipe, cache or TeaCacheConfig(rel_l1_thresh=None))
        self._problem = problem
        about = {
            "pipeline": type(pipe).__name__,
            "cache": None if cache is None or problem else asdict(cache),
            "default_steps": steps,
        }
        told = () if cache is None else (recognised or f"{problem} It runs without.",)
        self.description = PipelineDescription(
            name, about, self._edits(), told, cache, needs_image(pipe)
        )

    def _edits(self) -> bool:
        """Whether there is a pipeline of the model that takes pictures."""
        try:
            for_image(self._pipe, wanted=True)
        except UserError:
            return False
        return True

    def sample(
        self, request: ImageRequest, on_progress: OnProgress, is_cancelled: IsCancelled
    ) -> Pictures:
        if is_cancelled():
            raise Cancelled
        cache = request.cache_settings(self._cache)
        notes = [f"{self._problem} It runs without."] if cache is not None and self._problem else []
        seed = seed_of(request)

        def step_ended(step: Step) -> None:
            if is_cancelled():
                raise Cancelled
            shown = step.done in request.preview_steps(step.total)
            picture = step.preview() if shown else None
            on_progress(SamplingProgress("sampling", step.done, step.total, picture))

        images: Any = list(request.images)
        wanted = Request(
            prompt=request.prompt,
            negative=request.negative_prompt or "",
            width=request.width,
            height=request.height,
            steps=request.steps or self._steps,
            guidance=request.guidance,
            seed=seed,
            batch=request.n or 1,
            image=images[0] if len(images) == 1 else images or None,
            strength=request.strength,
        )
        cache = None if self._problem else cache
        try:
            result = attempt(self._pipe, wanted, cache=cache, on_step=step_ended)
        except ImageMissing as error:
            raise image_needed(self.description.name) from error
        if not len(result.pictures):
            raise ExecutionError(f"{type(self._pipe).__name__} returned no picture")
        return Pictures(
            images=[to_pil(picture) for picture in result.pictures],
            seconds=result.seconds,
            seed=seed,
            runs=[] if result.report is None else [result.report.to_json()],
            notes=[*notes, *result.notes],
        )


def name_of(model: str) -> str:
    """How requests call the model of --model: a repository by its name, a folder by its own."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else model
