"""Runs of a calibration as jobs of a pool. PyTorch is not loaded here: ComfyUI is to load it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UserError, listing
from ..jobs import Job, Pool, Watcher, outcomes

if TYPE_CHECKING:
    from .shards import CaseRun, ModelDescription, Shard

MODEL = "model"
"""What a worker tells of itself: a `ModelDescription`."""


class SharedSampling:
    """A calibration's runs on the workers of a pool.

    Args:
        rounds: workers that stay between rounds (`jobs.kept_open`).
        retries: how often a run is tried again after its worker was lost.
        watcher: is told what happens.
    """

    def __init__(self, rounds: Pool, retries: int, watcher: Watcher) -> None:
        self._rounds = rounds
        self._retries = retries
        self._watcher = watcher
        self._model: ModelDescription | None = None

    def describe(self) -> ModelDescription:
        """The model, as the first worker has it.

        Raises:
            UserError, ExecutionError: no worker can load it.
        """
        for _ in self._answers([None]):
            pass
        assert self._model is not None
        return self._model

    def __call__(self, runs: Sequence[CaseRun]) -> Iterator[tuple[CaseRun, Shard]]:
        """A `shards.Sampling`.

        Raises:
            UserError, ExecutionError: a run failed, or its workers were lost too often.
        """
        yield from self._answers(runs)

    def _answers(self, payloads: Sequence[CaseRun | None]) -> Iterator[tuple[Any, Any]]:
        jobs = [Job(number, payload) for number, payload in enumerate(payloads, 1)]
        ended = outcomes(
            self._rounds, jobs, retries=self._retries, watcher=self._watcher, admit=self._admit
        )
        with contextlib.closing(ended):
            for outcome in ended:
                if outcome.failure is not None:
                    raise outcome.failure.error()
                yield outcome.job.payload, outcome.result

    def _admit(self, about: dict[str, Any]) -> None:
        """Refuses a worker that has another model than the first one."""
        model: ModelDescription = about[MODEL]
        if self._model is None:
            self._model = model
        names = [name for name in model.key if model.key[name] != self._model.key.get(name)]
        if names:
            raise UserError(
                f"the workers do not have the same model: {listing(names)} differ; every machine "
                "needs the same files and the same packages"
            )
