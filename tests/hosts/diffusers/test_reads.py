"""Reads from the device in diffusers' loops, by a spy on what makes the host wait."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

import tiny_pipelines
from pipeline_sampling import report_of
from tiny_pipelines import generate

from benchmarks.gpu.reads import ReadSpy
from teacache.engine.device import SigmaReader
from teacache.engine.run import Run
from teacache.hosts.diffusers.enable import enable_teacache, teacache


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What each finished run has counted; reading a noise level makes the host wait."""
    monkeypatch.setattr(SigmaReader, "is_cheap", staticmethod(lambda timestep: False))
    counts: list[int] = []
    finish = Run.finish

    def finishing(run: Run, outcome: str) -> Any:
        counts.append(run.reader.count)
        return finish(run, outcome)

    monkeypatch.setattr(Run, "finish", finishing)
    return counts


@pytest.mark.parametrize("name", ["sd3", "flux1", "lumina2", "wan22_experts", "chroma"])
@pytest.mark.parametrize("mode", ["forecast", "faithful"])
def test_every_read_of_a_pipeline_is_counted(name: str, mode: str, counted: list[int]) -> None:
    pipe = tiny_pipelines.build(name)
    with teacache(pipe, 60.0, mode=mode) as handle, ReadSpy() as spy:
        generate(pipe, name, steps=8)
    assert report_of(handle).skipped
    before = {place: n for place, n in spy.seen.items() if "schedulers" in place}
    assert set(before.values()) <= {1, 2}, "the schedule is read once"
    assert spy.seen.total() - sum(before.values()) == counted[0]
    compared = sum(n for place, n in spy.seen.items() if "diffusers.reads" in place)
    assert compared <= 3, "the texts of the branches are told apart once"


def test_every_read_of_a_loop_of_ones_own_is_counted(counted: list[int]) -> None:
    pipe = tiny_pipelines.build("flux1")
    with torch.no_grad(), ReadSpy() as spy:
        handle = enable_teacache(pipe.transformer, 60.0, num_steps=8)
        generate(pipe, "flux1", steps=8)
        handle.disable()
    assert report_of(handle).skipped and spy.seen.total() == counted[0]
