"""The worker of `teacache generate`: it loads a pipeline once, and keeps it for its next jobs."""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import TeaCacheConfig
from ..errors import UserError
from ..jobs import Job
from ..jobs.job import OnProgress
from ..progress import Progress
from .pipeline_options import decode_image, load_model, request_of

if TYPE_CHECKING:
    from ..comparison import RunProgress, StepListener
    from ..hosts.diffusers.generation import Request
    from .generate_results import Generation


@dataclass(frozen=True)
class GenerateTask:
    """The payload of a job.

    Attributes:
        options: the command's, with those of the job.
        image: the content of the picture to start from.
        cache: settings of the cache, None for no cache.
    """

    options: dict[str, Any]
    image: bytes | None
    cache: TeaCacheConfig | None


@dataclass(frozen=True)
class GenerateMade:
    """The result of a job.

    Attributes:
        report: as it stands in report.json.
        files: content by name, report.json too.
        text: the table and sentences for the terminal.
        cache_line: what the cache does in this pipeline, or why it does nothing.
    """

    report: dict[str, Any]
    files: dict[str, bytes]
    text: str
    cache_line: str


@dataclass(frozen=True)
class PipelineSpec:
    """A `WorkerSpec`: a pipeline of diffusers.

    Attributes:
        options: the command's.
        cache: its settings.
    """

    name: str
    options: dict[str, Any]
    cache: TeaCacheConfig | None
    computes: bool = True

    def start(self) -> PipelineWorker:
        worker = PipelineWorker()
        args = argparse.Namespace(**self.options)
        pipe = worker.load(args)
        if self.cache is not None:
            _, line = recognised(pipe, self.cache, args.compare)
            worker.about["cache_line"] = line
        return worker


class PipelineWorker:
    """A `Worker` with one pipeline, on its device."""

    def __init__(self) -> None:
        self.about: dict[str, Any] = {"cache_line": ""}
        self._pipe: Any = None
        self._device: Any = None
        self._loaded: tuple[str, str] | None = None
        self._placed_as: tuple[str, bool] | None = None
        self._placed_pipe: Any = None
        self._place = ExitStack()

    def load(self, args: argparse.Namespace) -> Any:
        """The pipeline of --model; that of the last job if it is the same."""
        wanted = str(args.model), args.precision or "auto"
        if wanted != self._loaded:
            self._place.close()
            self._pipe = self._placed_pipe = self._loaded = self._placed_as = None
            self._pipe, self._device = load_model(args)
            self._loaded = wanted
        return self._pipe

    def _ready(self, args: argparse.Namespace, with_image: bool) -> Any:
        """The pipeline on its device, in the form that takes a picture where there is one."""
        from ..hosts.diffusers import loading as pipelines
        from ..hosts.diffusers.generation import for_image

        pipe, wanted = self.load(args), (args.placement or "auto", with_image)
        if wanted != self._placed_as:
            self._place.close()
            self._placed_as = None
            self._placed_pipe = for_image(pipe, with_image)
            placed = pipelines.placed(self._placed_pipe, wanted[0], self._device, None)
            self._place.enter_context(placed)
            self._placed_as = wanted
        return self._placed_pipe

    def run(self, job: Job, on_progress: OnProgress) -> GenerateMade:
        from .generate_results import describe_run, result_text, write_results

        task: GenerateTask = job.payload
        args = argparse.Namespace(**task.options)
        image = None if task.image is None else decode_image(task.image, args.image)
        pipe = self._ready(args, image is not None)
        cache, line = task.cache, ""
        if cache is not None:
            works, line = recognised(pipe, cache, args.compare)
            cache = cache if works else None
        request = request_of(args, image)
        started = time.time()
        generation = sample(pipe, request, cache, args.compare, on_progress)
        about = describe_run(str(args.model), pipe, request, args.image, self._device, started)
        with tempfile.TemporaryDirectory(prefix="teacache-generate-") as folder:
            report = write_results(Path(folder), about, generation)
            names = [*report["files"], "report.json"]
            files = {name: (Path(folder) / name).read_bytes() for name in names}
        return GenerateMade(report, files, result_text(report, generation), line)

    def stop(self) -> None:
        """The process is about to be ended; a pipeline has no way to stop."""

    def close(self) -> None:
        self._place.close()


def recognised(pipe: Any, cache: TeaCacheConfig, compare: bool) -> tuple[bool, str]:
    """Whether the cache works in a pipeline, and a line on it.

    Raises:
        UserError: it does not, and the pictures are to be compared.
    """
    from ..hosts.diffusers import loading as pipelines

    line, problem = pipelines.recognise(pipe, cache)
    if problem and compare:
        raise UserError(f"--compare: {problem}")
    return bool(line), line or f"{problem} It runs without."


def sample(
    pipe: Any,
    request: Request,
    cache: TeaCacheConfig | None,
    compare: bool,
    on_progress: OnProgress,
) -> Generation:
    """The pictures of one run, and those without the cache if they are to be compared."""
    from ..comparison import Point, compare_with_uncached
    from ..hosts.diffusers.backend import PipelineSamplingBackend
    from .generate_results import Generation

    def steps_of(label: str) -> StepListener:
        return lambda step, steps: on_progress(Progress(step, steps, label))

    def run_progressed(progress: RunProgress) -> None:
        if progress.steps:
            on_progress(Progress(progress.step, progress.steps, progress.variant))

    if cache is None:
        backend = PipelineSamplingBackend(pipe, request)
        return Generation.of(backend.sample(None, steps_of("sampling")))
    backend = PipelineSamplingBackend(pipe, request, cache)
    if not compare:
        return Generation.of(backend.sample(Point(()), steps_of("cached")))
    comparison, pictures = compare_with_uncached(backend, 1, run_progressed)
    return Generation.compared(comparison, pictures)
