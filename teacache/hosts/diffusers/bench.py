"""Calibration of a diffusers pipeline: a request made again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

import torch
from PIL import Image

from ...calibration.calibrator import SampledRun
from ...calibration.override import RunOverride
from ...digest import digest, digest_of_weights
from ...errors import ConfigError
from ...families.spec import unwrap_compiled
from .enable import TRANSFORMERS, teacache
from .generation import Request, generate
from .schedulers import sampler_traits


class PipelineBench:
    """A `calibration.session.Bench`. requests: what is drawn, one for each case.

    What is compared in the end is the picture. Raises ConfigError for a pipeline that cannot be
    calibrated.
    """

    def __init__(self, pipe: Any, model: str, requests: Sequence[Request]) -> None:
        self._pipe, self._requests = pipe, list(requests)
        with teacache(pipe, None) as handle:
            self.family, self.profile = handle.family.id, handle.profile
        solver = sampler_traits(pipe.scheduler)
        if not solver.deterministic:
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
        module = next(pipe.components[n] for n in TRANSFORMERS if n in pipe.components)
        self.digest = digest_of_weights(unwrap_compiled(module).named_parameters())
        plain = [asdict(replace(request, image=None)) for request in requests]
        images = [_digests(request.image) for request in requests]
        self.key = {
            "model": self.digest, "requests": plain, "images": images, "about": self.about,
        }  # fmt: skip

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
