"""Families of diffusers' classes on tiny transformers of their own: what a correct skip is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

import tiny_transformers
from pipeline_sampling import SKIP_ALL, SKIP_NONE, assert_nothing_is_left, report_of
from tiny_pipelines import STEPS, stack_blocks
from tiny_transformers import TRANSFORMERS, sample

from teacache.families.diffusers.recent import DIFFUSERS_RECENT_FAMILIES, DIFFUSERS_UNCACHEABLE
from teacache.families.registry import find_family, find_uncacheable
from teacache.families.streams import BlockArguments, Role, image_part, with_image
from teacache.hosts.diffusers.enable import teacache

every_transformer = pytest.mark.parametrize("name", list(TRANSFORMERS))
SKIPPED = [False, *[True] * (STEPS - 2), False]


@pytest.fixture
def transformer(name: str) -> Any:
    return tiny_transformers.build(name)


def test_every_family_is_tested() -> None:
    tested = {tiny.family for tiny in TRANSFORMERS.values()}
    assert {family.id for family in DIFFUSERS_RECENT_FAMILIES} <= tested


@every_transformer
def test_is_recognised(name: str, transformer: Any) -> None:
    family = find_family(transformer)
    assert family is not None
    assert family.id == TRANSFORMERS[name].family


@every_transformer
def test_without_skips_the_latents_are_bit_identical(name: str, transformer: Any) -> None:
    native = sample(transformer, name)
    with teacache(transformer, 0.0, num_steps=STEPS):
        assert torch.equal(sample(transformer, name), native)
    with teacache(transformer, SKIP_NONE, num_steps=STEPS, mode="faithful") as handle:
        assert torch.equal(sample(transformer, name), native)
    report = report_of(handle)
    assert report.family == TRANSFORMERS[name].family
    assert report.steps == len(report.records) == STEPS
    assert report.skipped == 0 and not report.warnings
    assert torch.equal(sample(transformer, name), native)


@every_transformer
def test_a_skip_calls_no_block_and_the_second_run_equals_the_first(
    name: str, transformer: Any
) -> None:
    calls: list[int] = []
    hooks = [
        transformer.register_forward_pre_hook(lambda module, args: calls.append(0)),
        *(
            block.register_forward_pre_hook(lambda module, args: calls.append(calls.pop() + 1))
            for block in stack_blocks(transformer)
        ),
    ]
    blocks = len(stack_blocks(transformer))
    with teacache(transformer, SKIP_ALL, num_steps=STEPS, mode="faithful") as handle:
        first = sample(transformer, name)
        # a call of the first branch also measures the second one, without its blocks
        assert sorted(set(calls)) == [0, blocks]
        assert calls.count(blocks) == 2 * SKIPPED.count(False)
        assert torch.equal(sample(transformer, name), first)
    for hook in hooks:
        hook.remove()
    for report in handle.reports:
        assert [record.skipped for record in report.records] == SKIPPED
        assert not report.warnings
    assert (first - sample(transformer, name)).norm() < 0.1 * first.norm()
    assert_nothing_is_left(SimpleNamespace(components={"transformer": transformer}))


class Watch:
    """Replays calls natively and sees, or sets, what enters and leaves the block stack."""

    def __init__(self, transformer: Any) -> None:
        family = find_family(transformer)
        assert family is not None
        self.first, self.last = family.block_lists[0], family.block_lists[-1]
        blocks = stack_blocks(transformer)
        self.entry, self.exit, self.residual = None, None, None
        self.hooks = [
            blocks[0].register_forward_pre_hook(self._enter, with_kwargs=True),
            blocks[-1].register_forward_hook(self._leave),
        ]

    def _enter(self, module: Any, args: Any, kwargs: Any) -> None:
        stream, arguments = self.first.image_stream(), BlockArguments(args, kwargs)
        packed = stream.pack(arguments.stream(stream))
        before = 0 if stream.tokens_before is None else stream.tokens_before(arguments)
        self.entry = image_part(packed, stream.role, packed.shape[1] - before).clone()

    def _leave(self, module: Any, args: Any, out: Any) -> Any:
        stream, returned = self.last.image_stream(), self.last.outputs
        value = out[returned.index(stream.role)] if len(returned) > 1 else out
        packed = stream.pack(value)
        self.exit = image_part(packed, stream.role, self.entry.shape[1]).clone()
        if self.residual is None:
            return None
        packed = with_image(packed, stream.role, self.entry + self.residual)
        changed = stream.unpack(packed, value)
        if len(returned) == 1:
            return changed
        return tuple(changed if role is stream.role else o for role, o in zip(returned, out, strict=True))


@every_transformer
def test_a_skip_equals_arithmetic_by_hand(name: str, transformer: Any) -> None:
    """On a skip, the last block's image is this call's first input plus what the blocks added in
    the computed call of the same branch."""
    calls: list[tuple[dict[str, Any], Any]] = []
    with teacache(transformer, SKIP_ALL, num_steps=STEPS, mode="faithful"):
        sample(transformer, name, seen=lambda given, out: calls.append((given, out)))
    assert len(calls) == 2 * STEPS
    watch, residuals = Watch(transformer), {}
    for number, (kwargs, out) in enumerate(calls):
        step, branch = divmod(number, 2)
        watch.residual = residuals[branch] if SKIPPED[step] else None
        with torch.no_grad():
            by_hand = tensors(transformer(**kwargs))
        if not SKIPPED[step]:
            residuals[branch] = watch.exit - watch.entry
        for mine, theirs in zip(tensors(out), by_hand, strict=True):
            if TRANSFORMERS[name].family == "qwen_image21":
                mine, theirs = mine[:, -16:], theirs[:, -16:]
            assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def tensors(out: Any) -> list[torch.Tensor]:
    values = out if isinstance(out, (list, tuple)) else out.values()
    flat = [each for value in values for each in (value if isinstance(value, list) else [value])]
    return [value for value in flat if value is not None]


@every_transformer
def test_the_branches_stay_apart(name: str, transformer: Any) -> None:
    with teacache(transformer, SKIP_ALL, num_steps=STEPS, mode="faithful"):
        guided = sample(transformer, name)
        alone = sample(transformer, name, guidance=1.0)
    assert (guided - alone).abs().max() > 1e-4 * guided.abs().max()


@every_transformer
def test_the_modulated_input_is_what_enters_the_first_attention(
    name: str, transformer: Any
) -> None:
    family = find_family(transformer)
    assert family is not None and family.modulated_input is not None
    block = stack_blocks(transformer)[0]
    read: list[torch.Tensor] = []
    entered: list[torch.Tensor] = []

    def see(module: Any, args: Any, kwargs: Any) -> None:
        if name == "cosmos3":
            value = args[1]
        else:
            value = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        entered.append(value.clone())

    block.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(
            family.modulated_input(module, BlockArguments(args, kwargs))
        ),
        with_kwargs=True,
    )
    attention = block.get_submodule(TRANSFORMERS[name].attention)
    attention.register_forward_pre_hook(see, with_kwargs=True)
    sample(transformer, name, steps=2)
    assert len(read) == len(entered) == 4
    for mine, theirs in zip(read, entered, strict=True):
        seen = theirs.reshape(1, -1)
        if family.block_lists[0].image_stream().role is Role.TEXT_IMAGE:
            seen = theirs[:, -16:].reshape(1, -1)  # references are modulated for timestep zero
            mine = mine[:, -16:]
        known = mine.reshape(1, -1)[:, : seen.shape[1]]  # sound comes after the film
        torch.testing.assert_close(known, seen, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("entry", DIFFUSERS_UNCACHEABLE, ids=lambda entry: entry.name)
def test_what_is_left_as_it_is_exists(entry: Any) -> None:
    import diffusers

    for full in entry.classes:
        kind = getattr(diffusers, full.rsplit(".", 1)[-1])
        assert f"{kind.__module__}.{kind.__qualname__}" == full
        made = object.__new__(kind)
        torch.nn.Module.__init__(made)
        assert find_family(made) is None and find_uncacheable(made) is entry
