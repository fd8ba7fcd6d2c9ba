"""A pipeline in a worker's process: loaded once, for the jobs of a calibration or a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...comparison import Point
from ...comparison.jobs import BenchWorker

if TYPE_CHECKING:
    import torch

    from ...calibration.worker import ShardWorker
    from .backend import PipelineSamplingBackend
    from .generation import Request


@dataclass(frozen=True)
class PipelineSource:
    """A pipeline, and how it is loaded and placed.

    Args:
        model, precision, online: as `loading.load_pipeline` takes them.
        source: the option that gave the name, for messages.
        placement: as `loading.placed` takes it.
        with_image: whether it is to take a picture.
        verbose: show the libraries' log.
    """

    model: str
    source: str = "--model"
    precision: str = "auto"
    placement: str = "auto"
    online: bool = False
    with_image: bool = False
    verbose: bool = False

    def load(self) -> tuple[Any, torch.device]:
        """The pipeline, not yet on its device; that device.

        Raises:
            UserError: there is nothing to load, or it cannot be loaded safely.
        """
        from . import loading
        from .generation import for_image

        loading.require_diffusers()
        loading.quiet(self.verbose)
        device = loading.default_device()
        pipe = loading.load_pipeline(
            self.model,
            source=self.source,
            precision=self.precision,
            device=device,
            online=self.online,
        )
        return for_image(pipe, self.with_image), device

    @contextmanager
    def placed(self) -> Iterator[tuple[Any, torch.device]]:
        """The pipeline on its device, for the context; that device."""
        from .loading import placed

        pipe, device = self.load()
        with placed(pipe, self.placement, device, None):
            yield pipe, device


@dataclass(frozen=True)
class PipelineCalibrationSpec:
    """A `jobs.WorkerSpec` for the runs of a calibration.

    Args:
        requests: one for each case.
    """

    name: str
    source: PipelineSource
    requests: tuple[Request, ...]
    computes: bool = True

    def start(self) -> ShardWorker:
        from ...calibration.worker import ShardWorker
        from .backend import PipelineCalibrationBackend

        with ExitStack() as stack:
            pipe, _ = stack.enter_context(self.source.placed())
            backend = PipelineCalibrationBackend(pipe, self.source.model, self.requests)
            return ShardWorker(backend, stack.pop_all().close)


@dataclass(frozen=True)
class PipelineBenchSpec:
    """A `jobs.WorkerSpec` for the parts of a comparison.

    Args:
        request: what is sampled.
        points, repeats: of the comparison.
    """

    name: str
    source: PipelineSource
    request: Request
    points: tuple[Point, ...]
    repeats: int
    computes: bool = True

    def start(self) -> BenchWorker:
        from .backend import TIMED

        with ExitStack() as stack:
            backend, about = stack.enter_context(opened_backend(self.source, self.request))
            close = stack.pop_all().close
            return BenchWorker(backend, self.points, self.repeats, TIMED, about, close)


@contextmanager
def opened_backend(
    source: PipelineSource, request: Request
) -> Iterator[tuple[PipelineSamplingBackend, dict[str, Any]]]:
    """A pipeline that samples a request, for the context, and what a report says of it."""
    from .backend import PipelineSamplingBackend

    with source.placed() as (pipe, device):
        about = {
            "model": source.model,
            "pipeline": type(pipe).__name__,
            "device": str(device),
            "prompt": request.prompt,
            "negative": request.negative,
            "seed": request.seed,
            "steps": request.steps,
        }
        yield PipelineSamplingBackend(pipe, request), about
