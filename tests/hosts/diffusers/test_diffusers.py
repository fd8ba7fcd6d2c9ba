"""TeaCache on diffusers' own pipelines: off is native, skips are right, branches stay apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

import tiny_pipelines
from pipeline_sampling import (
    SKIP_ALL,
    SKIP_NONE,
    assert_nothing_is_left,
    report_of,
    spying,
    state_of,
)
from tiny_pipelines import STEPS, TINY, generate, stack_blocks, transformers

from teacache.hosts.diffusers.enable import disable_teacache, enable_teacache, teacache
from teacache.report import Reason

every_pipeline = pytest.mark.parametrize("name", list(TINY))
guided = pytest.mark.parametrize(
    "name", [name for name, tiny in TINY.items() if tiny.guidance != "none"]
)


@pytest.fixture
def pipe(name: str) -> Any:
    return tiny_pipelines.build(name)


@every_pipeline
def test_off_is_bit_identical_and_disable_restores_everything(name: str, pipe: Any) -> None:
    native = generate(pipe, name)
    before = state_of(pipe)
    for threshold in (0.0, SKIP_NONE):
        handle = enable_teacache(pipe, threshold, mode="faithful")
        assert torch.equal(generate(pipe, name), native)
        report = report_of(handle)
        assert (report.skipped, report.outcome, report.host) == (0, "done", "diffusers")
        assert report.family == TINY[name].family
        disable_teacache(pipe)
        assert state_of(pipe) == before
    assert torch.equal(generate(pipe, name), native)


@every_pipeline
def test_a_skip_calls_no_block_and_the_second_run_equals_the_first(name: str, pipe: Any) -> None:
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        with spying(pipe) as spy:
            first = generate(pipe, name)
        assert torch.equal(generate(pipe, name), first)
        one, two = ([r.skipped for r in report.records] for report in handle.reports)
    assert one == two
    report = report_of(handle)
    assert not report.warnings
    assert len(one) == report.steps == STEPS
    assert not one[0] and not one[-1]
    eligible = range(1, STEPS - 1)
    start = handle.profile.start_percent * STEPS
    expected = {step for step in eligible if step >= start}
    if name == "wan22_experts":
        expected -= {2}
        assert report.records[2].reason is Reason.NEW_BRANCH
    assert {step for step in eligible if one[step]} == expected
    calls = len(spy.per_call) // STEPS
    blocks = len(stack_blocks(transformers(pipe)[0]))
    assert spy.per_call == [0 if skipped else blocks for skipped in one for _ in range(calls)]
    assert calls == (2 if TINY[name].guidance == "two calls" else 1)
    assert_nothing_is_left(pipe)


@guided
def test_branches_do_not_take_each_others_residual(name: str, pipe: Any) -> None:
    """On a skip, the branches' answers differ as they do on the computed step before."""
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle, spying(pipe) as spy:
        generate(pipe, name)
    outputs = spy.outputs
    if TINY[name].guidance == "one batch":
        outputs = [half for out in outputs for half in out.chunk(2)]
    differences = [
        (one - other).abs().mean().item()
        for one, other in zip(outputs[::2], outputs[1::2], strict=True)
    ]
    computed = 0.0
    for record, difference in zip(report_of(handle).records, differences, strict=True):
        if record.skipped:
            assert difference > 0.3 * computed > 0, "the branches share a residual"
        else:
            computed = difference


ENTRY = {"sd3": "pos_embed", "flux1": "x_embedder", "qwen_image": "img_in"}
ENTRY |= {"wan21": "patch_embedding", "flux1_distilled": "x_embedder", "qwen_image_edit": "img_in"}


@pytest.mark.parametrize("name", list(ENTRY))
def test_a_skip_equals_arithmetic_by_hand(name: str, pipe: Any) -> None:
    """What leaves the stack on a skip is its input plus what the blocks added when computed."""
    transformer = transformers(pipe)[0]
    entries: list[torch.Tensor] = []
    exits: list[torch.Tensor] = []

    def entered(module: nn.Module, args: Any, out: torch.Tensor) -> None:
        entries.append(out.flatten(2).transpose(1, 2).clone() if out.ndim == 5 else out.clone())

    def left(module: nn.Module, args: Any) -> None:
        exits.append(args[0].clone())

    hooks = [
        transformer.get_submodule(ENTRY[name]).register_forward_hook(entered),
        transformer.norm_out.register_forward_pre_hook(left),
    ]
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle, spying(pipe) as spy:
        generate(pipe, name)
    for hook in hooks:
        hook.remove()
    skips = [record.skipped for record in report_of(handle).records]
    branches = len(spy.outputs) // len(skips)
    if len(entries) > len(exits) or len(exits) > len(spy.outputs):
        # peeking runs the embedders and the last layers too, just before the step's first call
        keep = [i for i in range(len(exits)) if i not in peeks(len(exits), skips, branches)]
        entries, exits = [entries[i] for i in keep], [exits[i] for i in keep]
    assert len(entries) == len(exits) == len(spy.outputs)
    residuals: dict[int, torch.Tensor] = {}
    for index, (entry, leaving) in enumerate(zip(entries, exits, strict=True)):
        branch, skipped = index % branches, skips[index // branches]
        if skipped:
            expected = entry + residuals[branch]
            torch.testing.assert_close(leaving, expected, rtol=1e-5, atol=1e-5)
        else:
            residuals[branch] = leaving - entry
    assert any(skips)


def peeks(calls: int, skips: list[bool], branches: int) -> set[int]:
    """Indices of the extra passes: one before every step that measures, of the other branch."""
    found, position = set(), 0
    for step in range(len(skips)):
        if 0 < step < len(skips) - 1:
            found.add(position)
            position += 1
        position += branches
    assert position == calls
    return found
