"""What notes the waits on a CUDA device, with PyTorch's warnings played by the test."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.reads import EvaluationReads, Forbidden, SyncWarnings, waits_of
from teacache.engine import device
from teacache.engine.run import Run

CUDA = torch.device("cuda", 0)


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> list[int | str]:
    """The modes that PyTorch's watch over synchronisations has been set to."""
    seen: list[int | str] = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: seen[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", seen.append)
    return seen


def synchronise(file: str, line: int) -> None:
    text = "called a synchronizing CUDA operation (Triggered internally at somewhere)"
    warnings.warn_explicit(text, UserWarning, file, line)


def test_waits_are_counted_by_file_and_line(modes: list[int | str]) -> None:
    ours = str(Path(device.__file__))
    with waits_of(CUDA) as waits:
        assert isinstance(waits, SyncWarnings) and modes[-1] == "warn"
        for _ in range(2):
            synchronise(ours, 49)
        synchronise("/somewhere/comfy/samplers.py", 7)
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)
    assert modes == [0, "warn", 0]
    assert waits.seen == {
        "teacache.engine.device line 49": 2,
        "/somewhere/comfy/samplers.py line 7": 1,
    }


def test_waits_are_errors_where_none_may_be(modes: list[int | str]) -> None:
    with pytest.raises(RuntimeError, match="synchronizing"), Forbidden(CUDA):
        assert modes[-1] == "error"
        raise RuntimeError("called a synchronizing CUDA operation")
    assert modes == [0, "error", 0]


def test_those_of_an_evaluation_that_fails_are_put_back(
    modes: list[int | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "begin_evaluation", lambda run: None)
    run = Run.__new__(Run)
    reads = EvaluationReads(lambda number: Forbidden(CUDA))
    with pytest.raises(RuntimeError, match="a step failed"), reads.watching():
        run.begin_evaluation()  # type: ignore[call-arg]
        assert modes[-1] == "error"
        raise RuntimeError("a step failed")
    assert modes[-1] == 0 and reads.evaluations == []


def test_our_own_waits_are_told_from_others() -> None:
    reads = EvaluationReads(lambda number: waits_of(torch.device("cpu")))
    reads.evaluations = [
        Counter({"teacache.engine.device line 49": 1, "/x/comfy/a.py line 2": 4}),
        Counter({"teacache.engine.device line 49": 2}),
    ]
    assert reads.ours == {"teacache.engine.device line 49": 3}
    assert reads.modules == {"teacache.engine.device", "/x/comfy/a.py"}
