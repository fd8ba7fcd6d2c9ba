"""A diffusers pipeline as a model of the server."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..config import TeaCacheConfig
from ..errors import ExecutionError, UserError
from ..hosts.diffusers.generation import Request, Step, attempt, for_image, parameters
from ..hosts.diffusers.loading import recognise
from ..plots.pixels import to_pil
from .errors import ApiError
from .models import Cancelled, IsCancelled, OnProgress, Pictures, SamplingProgress, seed_of
from .requests import ImageRequest


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
        self.name = name
        self._pipe = pipe
        self._cache = cache
        self._steps = steps
        self.recognised, self.problem = recognise(pipe, cache or TeaCacheConfig(rel_l1_thresh=None))
        self.takes_images = self._edits()
        self.about = {
            "pipeline": type(pipe).__name__,
            "cache": None if cache is None or self.problem else asdict(cache),
            "default_steps": steps,
        }

    def _edits(self) -> bool:
        """Whether there is a pipeline of the model that takes pictures."""
        try:
            for_image(self._pipe, wanted=True)
        except UserError:
            return False
        return True

    def check(self, request: ImageRequest) -> None:
        request.cache_settings(self._cache)
        image = parameters(self._pipe).get("image")
        if not request.images and image is not None and image.default is image.empty:
            raise ApiError.field("image", f"{self.name} edits pictures: use /v1/images/edits")

    def sample(
        self, request: ImageRequest, on_progress: OnProgress, is_cancelled: IsCancelled
    ) -> Pictures:
        if is_cancelled():
            raise Cancelled
        cache = request.cache_settings(self._cache)
        notes = [f"{self.problem} It runs without."] if cache is not None and self.problem else []
        seed = seed_of(request)

        def step_ended(step: Step) -> None:
            if is_cancelled():
                raise Cancelled
            wanted = step.done in request.preview_steps(step.total)
            picture = step.preview() if wanted else None
            on_progress(SamplingProgress("sampling", step.done, step.total, picture))

        images: Any = list(request.images)
        result = attempt(
            self._pipe,
            Request(
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
            ),
            cache=None if self.problem else cache,
            on_step=step_ended,
        )
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
