"""Diffusers in several processes, over gloo: one decision where they share a model, and only there.

What is split is split by diffusers' own context parallelism and by PyTorch's FSDP: a process that
computed what the other one skips would wait for it, and fail after `parallel_pipelines.TIMEOUT`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")
if not torch.distributed.is_available():
    pytest.skip("PyTorch was built without distributed", allow_module_level=True)
pytest.importorskip("diffusers.hooks.context_parallel", reason="a newer diffusers")

import parallel_pipelines
import tiny_pipelines
from parallel_pipelines import run
from tiny_pipelines import STEPS

from teacache.hosts.diffusers.enable import teacache

RUNS_WITHOUT = "runs without the cache"


def test_the_larger_distance_decides_for_both_parts(tmp_path: Path) -> None:
    """Context parallelism: alone, one of the processes would skip what the other one computes."""
    one, two = run(parallel_pipelines.thresholds_between_faithful, tmp_path)
    torch.testing.assert_close(one["native"], one["one_process"])
    smaller, larger = sorted(one["first_read"])
    assert smaller < one["middle"] < larger and one["joint"] == two["joint"]
    assert one["joint"] == pytest.approx(larger)
    for name in ("computed_all", "at_middle", "skip_all"):
        assert one[name]["skipped"] == two[name]["skipped"]
        assert torch.equal(one[name]["latents"], two[name]["latents"])
        assert not one[name]["warnings"] and not two[name]["warnings"]
    assert torch.equal(one["computed_all"]["latents"], one["native"])
    assert any(one["skip_all"]["skipped"])
    accumulated, expected = 0.0, [False]
    reads = iter(zip(one["at_middle"]["read"], two["at_middle"]["read"], strict=True))
    for _ in one["at_middle"]["skipped"][1:-1]:
        (own, joint), (other, _) = next(reads)
        assert joint == pytest.approx(max(own, other))
        accumulated += joint
        expected.append(accumulated < one["middle"])
        accumulated *= expected[-1]
    assert one["at_middle"]["skipped"] == [*expected, False] and any(expected)


def test_predictions_are_continued_together(tmp_path: Path) -> None:
    one, two = run(parallel_pipelines.forecast, tmp_path)
    assert one.keys() == two.keys() and any(any(each["skipped"]) for each in one.values())
    for name in one:
        assert one[name]["skipped"] == two[name]["skipped"]
        assert torch.equal(one[name]["latents"], two[name]["latents"])


@pytest.mark.parametrize("mode", ["faithful", "forecast"])
def test_no_memory_in_one_process(mode: str, tmp_path: Path) -> None:
    """Both go on without the cache; neither waits for the other."""
    scenario = getattr(parallel_pipelines, f"out_of_memory_{mode}")
    one, two = run(scenario, tmp_path)
    native = one.pop("native")
    assert torch.equal(two.pop("native"), native)
    for name in one:
        first, second = one[name], two[name]
        assert first["skipped"] == second["skipped"], name
        assert torch.equal(first["latents"], second["latents"]), name
        assert RUNS_WITHOUT in " ".join(first["warnings"]), name
        assert "no memory left" in " ".join(second["warnings"]), name
        assert not any(first["skipped"][-3:])


def test_processes_with_a_whole_model_each_stay_apart(tmp_path: Path) -> None:
    """Another number of steps and another picture in each: what each is without the other."""
    for rank, got in enumerate(run(parallel_pipelines.data_parallel, tmp_path)):
        assert got["apart"]
        pipe = parallel_pipelines.whole()
        for mode in ("faithful", "forecast"):
            with teacache(pipe, 90.0, mode=mode) as handle:
                alone = parallel_pipelines.generate(pipe, steps=STEPS + 3 * rank, seed=rank)
            report: Any = handle.report_for()
            assert got[mode]["skipped"] == [record.skipped for record in report.records]
            assert torch.equal(got[mode]["latents"], alone) and not got[mode]["read"]
            assert any(got[mode]["skipped"])


def test_weights_that_are_split_are_called_together(tmp_path: Path) -> None:
    """FSDP: another picture in each process, and the same steps are skipped in both."""
    one, two = run(parallel_pipelines.sharded, tmp_path)
    assert one["first_read"][0] != one["first_read"][1]
    for name in ("at_middle", "skip_all", "forecast"):
        assert one[name]["skipped"] == two[name]["skipped"]
        assert not torch.equal(one[name]["latents"], two[name]["latents"])
        assert not one[name]["warnings"]
    assert any(one["skip_all"]["skipped"]) and any(one["forecast"]["skipped"])
    first = one["at_middle"]["decided"].index(True)
    assert one["skip_all"]["skipped"][first]
    assert not one["at_middle"]["skipped"][first], "the larger distance is over the threshold"


def test_without_processes_nothing_is_reduced() -> None:
    from teacache.hosts.diffusers.parallel import ranks_of

    assert ranks_of([tiny_pipelines.build("flux1").transformer], torch.device("cpu")) is None
