"""Diffusers: pipelines that run more than one network in a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

import tiny_pipelines
from hostile import MODES
from pipeline_sampling import SKIP_ALL, SKIP_NONE, assert_nothing_is_left, report_of
from tiny_guided_pipelines import GUIDES, STEPS, BlockClock, PlainDenoiser, blocks_of, guided

from teacache.hosts.diffusers.denoisers import denoisers_of, recognisable
from teacache.hosts.diffusers.enable import teacache
from teacache.report import Reason

both_modes = pytest.mark.parametrize("mode", MODES)


@both_modes
@pytest.mark.parametrize("guide_first", [False, True])
@pytest.mark.parametrize("kind", GUIDES)
def test_the_speed_up_claimed_is_that_of_all_networks(
    kind: str, guide_first: bool, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that only the blocks move: the claim is the count of blocks, to the digit."""
    pipe = guided(kind)
    pipe.guide_first = guide_first
    clock = BlockClock(pipe, monkeypatch)
    native = pipe()
    blocks, alone = dict(clock.blocks), sum(clock.blocks.values())
    with teacache(pipe, SKIP_NONE, mode=mode) as handle:
        assert torch.equal(pipe(), native) and not report_of(handle).skipped
    clock.blocks.update(transformer=0, guide=0)
    with teacache(pipe, SKIP_ALL, mode=mode) as handle:
        pipe()
    report = report_of(handle)
    cached = kind.startswith("same family")
    assert len(report.records) == report.steps == STEPS and report.skipped >= STEPS / 2
    assert clock.blocks["transformer"] == report.computed * blocks["transformer"] // STEPS
    assert clock.blocks["guide"] == (report.computed if cached else STEPS) * (
        blocks["guide"] // STEPS
    )
    assert report.estimated_speedup == pytest.approx(alone / sum(clock.blocks.values()))
    assert report.saved_seconds == pytest.approx(alone - sum(clock.blocks.values()))
    assert not report.warnings
    for network in (pipe.transformer, pipe.other_network):
        assert "forward" not in vars(network)


@both_modes
@pytest.mark.parametrize("guide_first", [False, True])
def test_a_guide_of_the_same_family_shares_the_decision(guide_first: bool, mode: str) -> None:
    """No step computes one of the networks and skips the other one."""
    pipe = guided("same family")
    pipe.guide_first = guide_first
    ran: list[list[str]] = []
    hooks = [
        blocks_of(network)[0].register_forward_pre_hook(lambda *_, name=name: ran[-1].append(name))
        for name, network in (("transformer", pipe.transformer), ("guide", pipe.other_network))
    ]
    step = pipe.scheduler.step
    pipe.scheduler.step = lambda *args, **kwargs: (ran.append([]), step(*args, **kwargs))[1]
    patterns = set()
    for threshold in (0.1, 0.3, 1.0, SKIP_ALL):
        ran[:] = [[]]
        with teacache(pipe, threshold, mode=mode) as handle:
            pipe()
        report = report_of(handle)
        computed = [len(names) for names in ran[:STEPS]]
        assert set(computed) <= {0, 2} and not report.warnings
        assert [not number for number in computed] == [r.skipped for r in report.records]
        patterns.add(tuple(computed))
    assert len(patterns) > 1
    for hook in hooks:
        hook.remove()
    del pipe.scheduler.step
    assert_nothing_is_left(pipe)


def test_the_larger_change_of_two_networks_decides() -> None:
    """Alone, each of them would be skipped more often."""
    pipe = guided("same family")
    other = pipe.other_network

    def distances(**networks: Any) -> list[float]:
        pipe.transformer, pipe.other_network = networks["transformer"], networks["guide"]
        pipe.guide = networks["guide"]
        pipe.guide_until = STEPS if networks["guide"] is other else 0
        with teacache(pipe, SKIP_NONE, mode="faithful") as handle:
            pipe()
        return [r.distance for r in report_of(handle).records if r.distance is not None]

    both = distances(transformer=pipe.transformer, guide=other)
    alone = distances(transformer=pipe.transformer, guide=PlainDenoiser())
    assert len(both) == len(alone) == STEPS - 2
    assert any(one > other for one, other in zip(both, alone, strict=True))


@both_modes
def test_a_guide_that_stops_within_the_run(mode: str) -> None:
    """What is predicted is no longer made of the same parts: nothing old is continued."""
    pipe = guided("same family")
    pipe.guide_until = 6
    assert STEPS > 8
    native = pipe()
    with teacache(pipe, SKIP_ALL, mode=mode) as handle:
        got = pipe()
    records = report_of(handle).records
    assert len(records) == STEPS
    if mode == "forecast":  # that it stops is known once the scheduler is given a prediction
        assert records[6].skipped and records[7].reason is Reason.NEW_BRANCH
        assert records[8].reason is Reason.ERROR_UNKNOWN
    assert (got - native).norm() < 0.5 * native.norm()


@both_modes
def test_experts_that_share_the_noise_levels_are_one_run(mode: str) -> None:
    """Wan 2.2: the second expert's first step is computed, and the first one's values are freed."""
    pipe = tiny_pipelines.build("wan22_experts")
    with teacache(pipe, SKIP_ALL, mode=mode) as handle:
        tiny_pipelines.generate(pipe, "wan22_experts", steps=STEPS)
    report = report_of(handle)
    changes = [
        record.step
        for record in report.records[1:]
        if record.reason in (Reason.NEW_BRANCH, Reason.MISMATCH)
    ]
    assert len(changes) == 1 and len(report.records) == STEPS and report.skipped


def test_every_network_is_there_once() -> None:
    """Components and attributes, the transformer first, compiled or not; no encoder."""
    pipe = guided("other class")
    assert list(denoisers_of(pipe)) == ["transformer", "guide"]
    pipe.again, pipe.name_of_nothing = pipe.transformer, torch.nn.Linear(2, 2)
    pipe.guide = torch.compile(pipe.other_network, backend="eager")
    assert list(denoisers_of(pipe)) == ["transformer", "guide"]
    qwen = tiny_pipelines.build("qwen_image_controlnet")
    assert list(denoisers_of(qwen)) == ["transformer", "controlnet"]
    assert list(recognisable(denoisers_of(qwen))) == ["transformer"]
    experts = tiny_pipelines.build("wan22_experts")
    assert list(denoisers_of(experts)) == ["transformer", "transformer_2"]


def test_a_controlnet_is_counted_and_never_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_pipelines.build("qwen_image_controlnet")
    calls = []
    hook = pipe.controlnet.register_forward_pre_hook(lambda *_: calls.append(1))
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        tiny_pipelines.generate(pipe, "qwen_image_controlnet")
    hook.remove()
    assert len(calls) >= tiny_pipelines.STEPS
    assert report_of(handle).skipped == tiny_pipelines.STEPS - 2
    assert not report_of(handle).warnings and "forward" not in vars(pipe.controlnet)
