"""A diffusers pipeline sampled again and again with other settings of the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...comparison import Point, Sample
from ...config import TeaCacheConfig
from ...errors import UserError
from .generation import Request, Step, attempt, shortened
from .loading import recognise

TIMED = "the pipeline's whole call, with text encoding and decoding"
BASE = TeaCacheConfig(rel_l1_thresh=None)


class PipelineHost:
    """Samples `request` with a pipeline that is where it can run."""

    def __init__(self, pipe: Any, request: Request) -> None:
        self._pipe = pipe
        self._request = request

    def check(self, point: Point) -> None:
        _, problem = recognise(self._pipe, point.config(BASE))
        if problem:
            raise UserError(problem)

    def sample(
        self, point: Point | None, tell: Callable[[float], None], short: bool = False
    ) -> Sample:
        config = None if point is None else point.config(BASE)

        def advance(step: Step) -> None:
            tell(step.done / step.total)

        request = shortened(self._request) if short else self._request
        result = attempt(self._pipe, request, cache=config, on_step=advance)
        report = result.report
        return Sample(result.pictures, result.seconds, [] if report is None else [report.to_json()])
