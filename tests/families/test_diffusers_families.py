"""Families of diffusers' classes on tiny transformers of their own: what a correct skip is."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

from pipeline_sampling import SKIP_ALL, SKIP_NONE, assert_nothing_is_left, report_of
from tiny_pipelines import STEPS
from tiny_transformers import IMAGE_TOKENS, TRANSFORMERS, build, sample
from watched_blocks import stack_of, watch

from teacache.families.diffusers.dual_stream import DIFFUSERS_DUAL_STREAM_FAMILIES
from teacache.families.diffusers.recent import DIFFUSERS_RECENT_FAMILIES, DIFFUSERS_UNCACHEABLE
from teacache.families.registry import find_family, find_uncacheable
from teacache.families.spec import Family, class_name
from teacache.families.streams import BlockArguments, Role, image_part, with_image
from teacache.hosts.diffusers.enable import teacache

every_transformer = pytest.mark.parametrize("name", list(TRANSFORMERS))


def family_of(transformer: Any) -> Family:
    family = find_family(transformer)
    assert family is not None
    return family


SKIPPED = [False, *[True] * (STEPS - 2), False]


@pytest.fixture
def transformer(name: str) -> Any:
    return build(name)


def test_every_family_is_tested() -> None:
    tested = {tiny.family for tiny in TRANSFORMERS.values()}
    families = DIFFUSERS_RECENT_FAMILIES + DIFFUSERS_DUAL_STREAM_FAMILIES
    assert {family.id for family in families} <= tested
    known = {name for family in families for name in family.classes}
    assert known <= {class_name(build(name)) for name in TRANSFORMERS}


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
    stack = stack_of(transformer, family_of(transformer))
    hooks = ExitStack()
    hooks.enter_context(transformer.register_forward_pre_hook(lambda module, args: calls.append(0)))
    for block, blocks in stack:
        hooks.enter_context(watch(block, blocks, lambda arguments: calls.append(calls.pop() + 1)))
    with teacache(transformer, SKIP_ALL, num_steps=STEPS, mode="faithful") as handle:
        first = sample(transformer, name)
        # a call of the first branch also measures the second one, without its blocks
        assert sorted(set(calls)) == [0, len(stack)]
        assert calls.count(len(stack)) == 2 * SKIPPED.count(False)
        assert torch.equal(sample(transformer, name), first)
    hooks.close()
    for report in handle.reports:
        assert [record.skipped for record in report.records] == SKIPPED
        assert not report.warnings
    assert (first - sample(transformer, name)).norm() < 0.1 * first.norm()
    assert_nothing_is_left(SimpleNamespace(components={"transformer": transformer}))


class Watch:
    """Sees, or sets, what enters and leaves the block stack in native calls."""

    def __init__(self, transformer: Any) -> None:
        stack = stack_of(transformer, family_of(transformer))
        (first, self.first), (last, self.last) = stack[0], stack[-1]
        self.entry = self.exit = torch.empty(0)
        self.residual: torch.Tensor | None = None
        self.hooks = [
            watch(first, self.first, before=self._enter),
            watch(last, self.last, after=self._leave),
        ]

    def _enter(self, arguments: BlockArguments) -> None:
        stream = self.first.image_stream()
        packed = stream.pack(arguments.stream(stream))
        before = 0 if stream.tokens_before is None else stream.tokens_before(arguments)
        self.entry = image_part(packed, stream.role, packed.shape[1] - before).clone()

    def _leave(self, arguments: BlockArguments, out: Any) -> Any:
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
        return tuple(changed if r is stream.role else o for r, o in zip(returned, out, strict=True))


@every_transformer
def test_a_skip_equals_arithmetic_by_hand(name: str, transformer: Any) -> None:
    """On a skip, the last block's image is this call's first input plus what the blocks added in
    the computed call of the same branch."""
    calls: list[tuple[dict[str, Any], Any]] = []
    with teacache(transformer, SKIP_ALL, num_steps=STEPS, mode="faithful"):
        sample(transformer, name, seen=lambda given, out: calls.append((given, out)))
    assert len(calls) == 2 * STEPS
    stack, residuals = Watch(transformer), {}
    for number, (kwargs, out) in enumerate(calls):
        step, branch = divmod(number, 2)
        stack.residual = residuals[branch] if SKIPPED[step] else None
        with torch.no_grad():
            by_hand = tensors(transformer(**kwargs))
        if not SKIPPED[step]:
            residuals[branch] = stack.exit - stack.entry
        for mine, theirs in zip(tensors(out), by_hand, strict=True):
            if stack.last.image_stream().role is Role.TEXT_IMAGE:
                mine, theirs = mine[:, -IMAGE_TOKENS:], theirs[:, -IMAGE_TOKENS:]
            assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def tensors(out: Any) -> list[torch.Tensor]:
    values = out if isinstance(out, (list, tuple)) else out.values()
    flat = [each for value in values for each in (value if isinstance(value, list) else [value])]
    return [value for value in flat if value is not None]


@every_transformer
def test_the_branches_stay_apart(name: str, transformer: Any) -> None:
    def effect_of_guidance() -> torch.Tensor:
        return (sample(transformer, name) - sample(transformer, name, guidance=1.0)).norm()

    native = effect_of_guidance()
    with teacache(transformer, SKIP_ALL, num_steps=STEPS, mode="faithful"):
        cached = effect_of_guidance()
    assert cached > 0.5 * native > 0


@pytest.mark.parametrize("name", [name for name, tiny in TRANSFORMERS.items() if tiny.attention])
def test_the_modulated_input_is_what_enters_the_first_attention(
    name: str, transformer: Any
) -> None:
    family = family_of(transformer)
    assert family.modulated_input is not None
    read: list[torch.Tensor] = []
    entered: list[torch.Tensor] = []
    block, blocks = stack_of(transformer, family)[0]

    def see(module: Any, args: Any, kwargs: Any) -> None:
        if len(entered) < len(read):
            given = [*args, *kwargs.values()]
            entered.append(given[TRANSFORMERS[name].attention_input].clone())

    watch(block, blocks, lambda arguments: read.append(family.modulated_input(block, arguments)))
    attention = block.get_submodule(TRANSFORMERS[name].attention)
    attention.register_forward_pre_hook(see, with_kwargs=True)
    sample(transformer, name, steps=2)
    assert len(read) == len(entered) == 4
    for mine, theirs in zip(read, entered, strict=True):
        if blocks.image_stream().role is Role.TEXT_IMAGE:
            # text and references are modulated for timestep zero
            mine, theirs = mine[:, -IMAGE_TOKENS:], theirs[:, -IMAGE_TOKENS:]
        seen = theirs.reshape(1, -1)
        film = mine.reshape(1, -1)[:, : seen.shape[1]]  # its sound comes after it
        torch.testing.assert_close(film, seen, rtol=1e-5, atol=1e-5)


def test_a_skip_in_the_step_that_fills_the_prefix_cache_leaves_it_filled() -> None:
    """Qwen-Image 2.1 in ComfyUI, whose cache may be taken from it in the middle of a run."""
    name = "qwen_image21_in_comfyui_cached"
    transformer, other = (build(name) for _ in range(2))
    calls = 0

    def take_the_cache(given: dict[str, Any], out: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            transformer.kept.clear()

    with teacache(transformer, SKIP_ALL, num_steps=STEPS, mode="faithful") as handle:
        cleared = sample(transformer, name, seen=take_the_cache)
    assert [record.skipped for record in report_of(handle).records] == SKIPPED
    with teacache(other, SKIP_ALL, num_steps=STEPS, mode="faithful"):
        assert torch.equal(sample(other, name), cleared)
    assert transformer.kept.keys() == other.kept.keys() and len(other.kept) == 2
    for key, kept in transformer.kept.items():
        pairs = zip(kept, other.kept[key], strict=True)
        assert all(torch.equal(*both) for pair in pairs for both in zip(*pair, strict=True))


@pytest.mark.parametrize("entry", DIFFUSERS_UNCACHEABLE, ids=lambda entry: entry.name)
def test_what_is_left_as_it_is_exists(entry: Any) -> None:
    import diffusers

    for full in entry.classes:
        kind = getattr(diffusers, full.rsplit(".", 1)[-1])
        assert f"{kind.__module__}.{kind.__qualname__}" == full
        made = object.__new__(kind)
        torch.nn.Module.__init__(made)
        assert find_family(made) is None and find_uncacheable(made) is entry
