"""A worker that has a model, and samples runs of its calibration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..jobs import Job
from ..jobs.job import OnProgress
from ..progress import Progress
from .jobs import MODEL
from .shards import CalibrationBackend, CaseRun, ModelDescription, Shard, sample_shard
from .sketch import Sketcher


class ShardWorker:
    """A `jobs.Worker` that samples a `CaseRun` for each job; nothing where the job has none.

    Args:
        close: frees the model.
    """

    def __init__(self, backend: CalibrationBackend, close: Callable[[], None]) -> None:
        self.about: dict[str, Any] = {MODEL: ModelDescription.of(backend)}
        self._backend = backend
        self._sketch = Sketcher()
        self._close = close

    def run(self, job: Job, on_progress: OnProgress) -> Shard | None:
        run: CaseRun | None = job.payload
        if run is None:
            return None
        on_progress(Progress(0.0, 1.0, self._backend.cases[run.case]))
        return sample_shard(self._backend, run, self._sketch)

    def stop(self) -> None:
        """A run is short: it ends with its process."""

    def close(self) -> None:
        self._close()
