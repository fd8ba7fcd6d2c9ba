"""A diffusers pipeline sampled again and again with other settings of the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..config import TeaCacheConfig
from ..errors import UserError
from ..sweep import Point, Sample
from .generation import Request, Step, attempt, shortened
from .pipelines import recognise

TIMED = "the pipeline's whole call, with text encoding and decoding"


class PipelineHost:
    """Samples `request` with a pipeline that is where it can run."""

    def __init__(self, pipe: Any, request: Request) -> None:
        self._pipe = pipe
        self._request = request

    def check(self) -> str:
        """What the cache makes of the pipeline; `UserError` if it leaves it as it is."""
        line, problem = recognise(self._pipe, TeaCacheConfig(rel_l1_thresh=None))
        if problem:
            raise UserError(problem)
        return line

    def sample(
        self, point: Point | None, tell: Callable[[float], None], short: bool = False
    ) -> Sample:
        config = None
        if point is not None:
            config = point.config(TeaCacheConfig(rel_l1_thresh=None))

        def advance(step: Step) -> None:
            tell(step.done / step.total)

        request = shortened(self._request) if short else self._request
        result = attempt(self._pipe, request, cache=config, on_step=advance)
        report = result.report
        return Sample(result.pictures, result.seconds, [] if report is None else [report.to_json()])
