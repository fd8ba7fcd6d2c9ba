"""Shards of a calibration: sampled apart and in any order, they merge to what one process gives."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from tiny_calibrations import Counting, Interrupted, backend_of, calibrate, plain

from teacache.calibration.shards import (
    CaseRun,
    ModelDescription,
    Sampling,
    Shard,
    sample_shard,
)
from teacache.calibration.sketch import Sketcher

pytestmark = pytest.mark.usefixtures("comfy")


@pytest.fixture(scope="module")
def finished(comfy: Any) -> tuple[dict[str, Any], int]:
    """A calibration in one process, and its number of runs."""
    backend = Counting(backend_of(tiny_models.build("sd3")))
    return plain(calibrate(backend)), backend.runs


def apart(seed: int, breaks_after: int | None = None) -> tuple[Sampling, list[CaseRun]]:
    """Samples each run on a model of its own, in a random order, and hands shards over as
    processes do; remembers the runs."""
    order, sampled = random.Random(seed), []

    def sampling(runs: Sequence[CaseRun]) -> Iterator[tuple[CaseRun, Shard]]:
        for run in order.sample(runs, len(runs)):
            if len(sampled) == breaks_after:
                raise Interrupted
            sampled.append(run)
            sent: CaseRun = pickle.loads(pickle.dumps(run))
            shard = sample_shard(backend_of(tiny_models.build("sd3")), sent, Sketcher())
            yield pickle.loads(pickle.dumps((sent, shard)))

    return sampling, sampled


def test_shards_in_any_order_merge_to_the_same_profile(finished: Any) -> None:
    expected, runs = finished
    model = ModelDescription.of(backend_of(tiny_models.build("sd3")))
    in_any_order, sampled = apart(1)
    rounds: list[int] = []

    def sampling(asked: Sequence[CaseRun]) -> Iterator[tuple[CaseRun, Shard]]:
        rounds.append(len(asked))
        yield from in_any_order(asked)

    assert plain(calibrate(pickle.loads(pickle.dumps(model)), sampling=sampling)) == expected
    assert len(sampled) == len(set(sampled)) == runs
    cases = [run.case for run in sampled]
    assert cases != sorted(cases), "the order is that of one process: nothing is tested"
    recorded, *later = rounds
    assert recorded == 2 and len(later) == 4, "default and sensitivity, plan, trial, forecast"
    assert min(later) >= 2 * 5, "what does not wait for each other's results goes together"


def test_what_was_interrupted_apart_goes_on_in_one_process_and_the_other_way_round(
    finished: Any, tmp_path: Path
) -> None:
    expected, runs = finished
    backend = backend_of(tiny_models.build("sd3"))
    path = tmp_path / "mine.partial.jsonl"
    sampling, sampled = apart(3, breaks_after=1)
    with pytest.raises(Interrupted):
        calibrate(backend, path, sampling=sampling)
    with pytest.raises(Interrupted):
        calibrate(Counting(backend, breaks_after=5), path)
    sampling, more = apart(4, breaks_after=9)
    with pytest.raises(Interrupted):
        calibrate(backend, path, sampling=sampling)
    again = Counting(backend)
    assert plain(calibrate(again, path)) == expected
    assert len(sampled) + 5 + len(more) + again.runs == runs
