"""State of a run: branches take one joint decision, and nothing outlives the run."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import tiny_models
import torch
from sampling import SKIP_ALL, SKIP_NONE, cached, report_of, sample, spying, stack_blocks

from teacache.config import MAX_THRESHOLD
from teacache.engine.decision import BranchState, Decision, PassState
from teacache.engine.run import Run

pytestmark = pytest.mark.usefixtures("comfy")


@pytest.fixture(scope="module")
def sd3(comfy: Any) -> Any:
    return tiny_models.build("sd3")


def alive() -> list[object]:
    gc.collect()
    return [item for item in gc.get_objects() if isinstance(item, (Run, PassState, BranchState))]


def test_split_branches_reconsider_to_the_batched_decision(
    sd3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a threshold between two branches' distances the one called first is skipped, until the
    other demands computing: both are then computed, as they are in one batch."""
    enough = sd3.model.memory_required

    def sampled(model: Any, seed: int, one_by_one: bool) -> torch.Tensor:
        needs = (lambda *args, **kwargs: 1e30) if one_by_one else enough
        monkeypatch.setattr(sd3.model, "memory_required", needs)
        return sample(model, "sd3", steps=12, seed=seed)

    distances: list[float] = []
    consider = Decision.consider

    def recorded(decision: Decision, distance: float) -> None:
        distances.append(distance)
        consider(decision, distance)

    for seed in range(8):
        distances.clear()
        with monkeypatch.context() as patched:
            patched.setattr(Decision, "consider", recorded)
            sampled(cached(sd3, MAX_THRESHOLD)[0], seed, one_by_one=True)
        first, second = distances[:2]
        if first < 0.999 * second:
            break
    else:
        pytest.fail("in no run is the branch called first the one that changes less")
    clone, handle = cached(sd3, (first + second) / 2)
    batched = sampled(clone, seed, one_by_one=False)
    expected = [(r.skipped, r.reason) for r in report_of(handle).records]
    with spying(sd3) as spy:
        one_by_one = sampled(clone, seed, one_by_one=True)
    assert [(r.skipped, r.reason) for r in report_of(handle).records] == expected
    torch.testing.assert_close(one_by_one, batched, rtol=1e-4, atol=1e-4)
    assert len(spy.per_call) > 24, "no evaluation was reconsidered"


def test_the_largest_change_in_a_batch_decides(sd3: Any) -> None:
    """A row that changes much makes the whole batch compute."""
    calm, wild = torch.zeros(1, 16, 8, 8), torch.zeros(1, 16, 8, 8)
    wild[:] = 40.0
    distances = {}
    for name, rows in {"calm": [calm], "wild": [wild], "both": [calm, wild]}.items():
        clone, handle = cached(sd3, SKIP_NONE)
        sample(clone, "sd3", latent=torch.cat(rows), denoise=0.6, cfg=1.0)
        distances[name] = report_of(handle).records[1].distance
    assert distances["calm"] != pytest.approx(distances["wild"], rel=0.05)
    assert distances["both"] >= 0.9 * max(distances["calm"], distances["wild"])


@pytest.mark.parametrize("threshold", [SKIP_NONE, 0.4, SKIP_ALL])
def test_nothing_outlives_the_run(sd3: Any, threshold: float) -> None:
    before = [id(block) for block in stack_blocks(sd3)]
    options = repr(sd3.model_options)
    clone, handle = cached(sd3, threshold)
    clone_options = repr(clone.model_options)
    sample(clone, "sd3")
    assert report_of(handle).bytes_held > 0
    assert alive() == []
    assert [id(block) for block in stack_blocks(sd3)] == before
    assert repr(sd3.model_options) == options
    assert repr(clone.model_options) == clone_options
    assert all(not block._forward_pre_hooks for block in stack_blocks(sd3))


@pytest.mark.parametrize("at", [0, 1, 3, 5])
def test_an_interrupted_run_leaves_the_model_clean(
    sd3: Any, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management as management

    expected = sample(cached(sd3, SKIP_ALL)[0], "sd3")
    clone, handle = cached(sd3, SKIP_ALL)
    before = [id(block) for block in stack_blocks(sd3)]
    calls = 0

    def throw(module: Any, args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at + 1:
            raise management.InterruptProcessingException

    hook = sd3.model.diffusion_model.final_layer.register_forward_pre_hook(throw)
    try:
        with pytest.raises(management.InterruptProcessingException):
            sample(clone, "sd3")
    finally:
        hook.remove()
    assert report_of(handle).outcome == "interrupted"
    assert [id(block) for block in stack_blocks(sd3)] == before
    assert alive() == []
    assert torch.equal(sample(clone, "sd3"), expected)


def test_a_new_resolution_computes_and_never_raises(sd3: Any) -> None:
    clone, handle = cached(sd3, SKIP_ALL)
    sample(clone, "sd3")
    wide = torch.zeros(1, 16, 8, 12)
    got = sample(clone, "sd3", latent=wide)
    assert got.shape == wide.shape
    assert report_of(handle).records[0].skipped is False


def test_events_tell_the_report(sd3: Any) -> None:
    from teacache.config import TeaCacheConfig
    from teacache.hosts.comfyui.patch import apply_teacache

    events: list[tuple[str, dict[str, Any]]] = []
    clone, handle = apply_teacache(
        sd3,
        TeaCacheConfig(rel_l1_thresh=0.1, mode="faithful"),
        lambda event, data: events.append((event, data)),
    )
    sample(clone, "sd3")
    assert [event for event, _ in events] == ["start", *["step"] * 6, "end"]
    report = events[-1][1]["report"]
    assert report == report_of(handle).to_json()
    assert [e["record"]["skipped"] for _, e in events[1:-1]] == [
        record["skipped"] for record in report["records"]
    ]
    assert report["computed"] + report["skipped"] == report["steps"] == 6


def test_a_report_is_found_by_the_latent_it_made(sd3: Any) -> None:
    clone, handle = cached(sd3, SKIP_ALL)
    short, long = sample(clone, "sd3", steps=4), sample(clone, "sd3", steps=9)
    assert handle.report_for(short).steps == 4
    assert handle.report_for(long).steps == 9
    assert handle.report_for(torch.ones(1)).steps == 9


def test_cache_device_cpu_gives_the_same(sd3: Any) -> None:
    there = sample(cached(sd3, SKIP_ALL, cache_device="cpu")[0], "sd3")
    assert torch.equal(there, sample(cached(sd3, SKIP_ALL, cache_device="device")[0], "sd3"))


def test_max_skip_and_range_are_kept(sd3: Any) -> None:
    clone, handle = cached(sd3, SKIP_ALL, max_skip=2)
    sample(clone, "sd3", steps=10)
    assert "".join("s" if r.skipped else "c" for r in report_of(handle).records) == "csscsscssc"
    clone, handle = cached(sd3, SKIP_ALL, start_percent=0.4, end_percent=0.8)
    sample(clone, "sd3", steps=10)
    assert "".join("s" if r.skipped else "c" for r in report_of(handle).records) == "ccccsssscc"


@pytest.mark.parametrize("predictor", ["reuse", "linear"])
def test_a_residual_is_continued(sd3: Any, predictor: str) -> None:
    """What the blocks add to the embedded latent is, on a skip, what the computed steps tell."""
    clone, handle = cached(sd3, SKIP_ALL, predictor=predictor, start_percent=0.4)
    transformer = sd3.model.diffusion_model
    entries: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []
    hooks = [
        transformer.x_embedder.register_forward_hook(
            lambda m, given, out: entries.append(out.clone())
        ),
        transformer.final_layer.register_forward_pre_hook(
            lambda m, given: seen.append(given[0] - entries.pop())
        ),
    ]
    sample(clone, "sd3", steps=6)
    for hook in hooks:
        hook.remove()
    records = report_of(handle).records
    assert [record.skipped for record in records] == [False, False, False, True, True, False]
    s = [record.sigma for record in records]
    for step in (3, 4):
        expected = seen[2]
        if predictor == "linear":
            expected = seen[2] + (seen[2] - seen[1]) * ((s[step] - s[2]) / (s[2] - s[1]))
        torch.testing.assert_close(seen[step], expected, rtol=1e-4, atol=1e-5)
