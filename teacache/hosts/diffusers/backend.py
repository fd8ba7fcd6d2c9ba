"""A diffusers pipeline sampled with one request, for comparisons and for calibrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

import torch
from PIL import Image

from ...calibration.override import RunOverride
from ...calibration.shards import SampledRun
from ...comparison import Point, Sample, StepListener
from ...config import TeaCacheConfig
from ...digest import digest
from ...errors import ConfigError, UserError
from .denoisers import denoisers_of, recognisable
from .enable import teacache
from .generation import Request, Step, attempt, generate, shortened
from .loading import recognise
from .schedulers import sampler_traits
from .weights import weights_digest

TIMED = "the pipeline's whole call, with text encoding and decoding"
RECOMMENDED = TeaCacheConfig(rel_l1_thresh=None)


class PipelineSamplingBackend:
    """A `comparison.SamplingBackend` of a pipeline that is on its device.

    Args:
        base: the settings that no point sets.
    """

    def __init__(self, pipe: Any, request: Request, base: TeaCacheConfig = RECOMMENDED) -> None:
        self._pipe = pipe
        self._request = request
        self._base = base

    def check(self, point: Point) -> None:
        _, problem = recognise(self._pipe, point.config(self._base))
        if problem:
            raise UserError(problem)

    def sample(
        self,
        point: Point | None,
        on_step: StepListener,
        short: bool = False,
        steps: int | None = None,
    ) -> Sample:
        config = None if point is None else point.config(self._base)

        def step_ended(step: Step) -> None:
            on_step(step.done, step.total)

        request = self._request if steps is None else replace(self._request, steps=steps)
        request = shortened(request) if short else request
        result = attempt(self._pipe, request, cache=config, on_step=step_ended)
        runs = [] if result.report is None else [result.report.to_json()]
        return Sample(result.pictures, result.seconds, runs, result.notes)


class PipelineCalibrationBackend:
    """A `calibration.shards.CalibrationBackend`. Pictures are compared, not latents.

    Args:
        model: its name, for the user.
        requests: one for each run.

    Raises:
        ConfigError: the pipeline cannot be calibrated.
    """

    def __init__(self, pipe: Any, model: str, requests: Sequence[Request]) -> None:
        self._pipe, self._requests = pipe, list(requests)
        with teacache(pipe, None) as handle:
            self.family, self.profile = handle.family.id, handle.profile
        solver = sampler_traits(pipe.scheduler)
        if not solver.plannable:
            raise ConfigError(
                f"the scheduler {solver.name} cannot be planned (it adds noise, or is not known); "
                "calibrate with FlowMatchEulerDiscreteScheduler or another smooth one"
            )
        self.steps = requests[0].steps if requests else 0
        self.cases: Sequence[str] = [
            f"{request.prompt}, seed {request.seed}" for request in requests
        ]
        self.about = {
            "host": "diffusers",
            "model": model,
            "scheduler": type(pipe.scheduler).__name__,
            "versions": {"diffusers": version("diffusers"), "torch": torch.__version__},
        }
        module = next(iter(recognisable(denoisers_of(pipe)).values()))
        self.digest = weights_digest(module)
        self.key = {
            "model": self.digest,
            "requests": [asdict(replace(request, image=None)) for request in requests],
            "images": [_digests(request.image) for request in requests],
            "about": self.about,
        }

    def sample(self, case: int, override: RunOverride) -> SampledRun:
        name = self.profile.name
        with teacache(self._pipe, None, profile=name, override=override) as handle:
            result = generate(self._pipe, self._requests[case])
            report = handle.report_for()
        assert report is not None
        return SampledRun(result.pictures, report.computed_steps)


def _digests(image: Image.Image | list[Image.Image] | None) -> list[str]:
    """Of every picture to start from."""
    pictures = image if isinstance(image, list) else [] if image is None else [image]
    return [digest(picture) for picture in pictures]
