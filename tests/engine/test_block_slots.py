"""Proxies look like the blocks whose slots they take, and leave the slots as they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from made_up_blocks import (
    PAIR,
    SINGLE,
    Block,
    Callbacks,
    Transformer,
    WithSide,
    called,
    inputs,
    side_list,
)
from torch import nn

from teacache.engine.blocks import BlockStack, never_compiled, outside_compiled_regions
from teacache.families.streams import (
    BlockList,
)

# --- proxies are seen as blocks ------------------------------------------------------------------


def test_during_a_call_the_proxies_show_the_blocks() -> None:
    transformer = Transformer()
    block = transformer.blocks[0]
    stack = BlockStack(transformer, (PAIR, SINGLE))
    with stack.installed(Callbacks()):
        proxy = transformer.blocks[0]
        assert proxy is not block and isinstance(proxy, Block)
        assert proxy.add == 1.0
        proxy.add = 5.0
        assert block.add == 5.0
        assert [name for name, _ in proxy.named_children()] == ["inner"]
        assert dict(proxy.named_modules(prefix="p")) == {"p": block, "p.inner": block.inner}
        assert list(proxy.named_modules()) == list(block.named_modules())
        memo: set[nn.Module] = {block}
        assert list(proxy.named_modules(memo)) == []
        with pytest.raises(AttributeError):
            proxy.missing  # noqa: B018


def test_modules_that_are_shared_are_shown_as_often_as_asked_for() -> None:
    transformer = Transformer()
    transformer.blocks[0].again = transformer.blocks[0].inner
    with BlockStack(transformer, (PAIR,)).installed(Callbacks()):
        proxy = transformer.blocks[0]
        assert len(list(proxy.named_modules())) == 2
        assert len(list(proxy.named_modules(remove_duplicate=False))) == 3


def test_weights_are_found_in_the_blocks_that_run() -> None:
    """Who walks the modules of a block prefetches their weights."""
    for skip in (False, True):
        transformer = WithSide()
        lists = {"block_lists": (PAIR,), "side_block_lists": (side_list(),)}
        with BlockStack(transformer, **lists).installed(Callbacks(skip)):
            transformer(*inputs())
            found = [
                len(list(proxy.modules())) for proxy in (*transformer.blocks, *transformer.side)
            ]
        assert found == ([0, 0, 0, 0] if skip else [2, 2, 1, 1])
    shared = Transformer()
    shared.blocks[0].again = shared.blocks[0].inner
    with BlockStack(shared, (PAIR,)).installed(Callbacks()):
        assert len(list(shared.blocks[0].modules())) == 2
        assert len(list(shared.blocks[0].modules(remove_duplicate=False))) == 3


def test_what_moves_a_proxy_moves_the_block() -> None:
    transformer = Transformer()
    block = transformer.blocks[0]
    with BlockStack(transformer, (PAIR,)).installed(Callbacks(skip=True)):
        proxy = transformer.blocks[0]
        assert proxy.to(torch.float64) is proxy
        assert block.inner.weight.dtype is torch.float64
        transformer.blocks.to(torch.bfloat16)
    assert block.inner.weight.dtype is torch.bfloat16
    assert transformer.blocks[1].inner.weight.dtype is torch.bfloat16


def test_memory_within_blocks_is_allocated_in_the_hosts_context() -> None:
    inside: list[str] = []

    @contextmanager
    def allocating() -> Iterator[None]:
        inside.append("in")
        yield
        inside.append("out")

    class Watching(Callbacks):
        def on_stack_input(self, *args: Any) -> None:
            assert inside[-1] == "in"
            super().on_stack_input(*args)

        def on_stack_output(self, image: torch.Tensor) -> None:
            assert inside[-1] == "in"
            super().on_stack_output(image)

    callbacks = Watching()
    called(callbacks, allocating=allocating)
    assert len(callbacks.events) == 2 and inside[-1] == "out"


def test_a_proxy_before_its_first_call_is_an_empty_module() -> None:
    transformer = Transformer()
    stack = BlockStack(transformer, (PAIR,))
    assert stack.callbacks is None and stack.callbacks_here is None
    assert stack.side_blocks_run is False
    proxies = [proxy for _, _, proxy in stack._slots]
    for proxy in proxies:
        assert not isinstance(proxy, Block) and proxy.__class__ is type(proxy)
        assert list(proxy.named_children()) == [] and len(list(proxy.named_modules())) == 1
        proxy.note = 3  # kept by the proxy itself
        assert proxy.__dict__["note"] == 3


# --- slots and their restoration -----------------------------------------------------------------


def test_after_a_call_all_is_as_it_was_also_when_it_fails() -> None:
    transformer = Transformer()
    before = list(transformer.modules())
    names = list(transformer.state_dict())
    stack = BlockStack(transformer, (PAIR, SINGLE))
    with pytest.raises(KeyboardInterrupt), stack.installed(Callbacks()):
        assert list(transformer.modules()) != before or transformer.blocks[0] is not before[2]
        raise KeyboardInterrupt
    assert [id(module) for module in transformer.modules()] == [id(module) for module in before]
    assert list(transformer.state_dict()) == names
    assert stack.callbacks is None and stack.callbacks_here is None


def test_a_proxy_that_is_kept_beyond_its_call_runs_its_block() -> None:
    transformer = Transformer()
    stack = BlockStack(transformer, (PAIR,))
    callbacks = Callbacks(skip=True)
    with stack.installed(callbacks):
        kept = transformer.blocks[0]
    _, image = kept(*inputs())
    assert torch.equal(image, torch.full((1, 3, 2), 2.0)) and callbacks.events == []


def test_only_the_thread_that_made_the_call_is_served() -> None:
    transformer, callbacks = WithSide(), Callbacks(skip=True)
    stack = BlockStack(transformer, (PAIR,), (side_list(),))
    seen: list[Any] = []

    def elsewhere() -> None:
        seen.append(stack.callbacks_here)
        seen.append(transformer(*inputs()))

    with stack.installed(callbacks):
        assert stack.callbacks_here is callbacks
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert seen[0] is None and torch.equal(seen[1], torch.full((1, 3, 2), 4.0))
    assert callbacks.events == [] and [side.calls for side in transformer.side] == [1, 1]


def test_another_threads_call_of_the_same_transformer_waits() -> None:
    transformer = Transformer()
    first, second = (BlockStack(transformer, (PAIR,)) for _ in range(2))
    began, order = threading.Event(), []

    def other() -> None:
        began.set()
        with second.installed(Callbacks()):
            order.append("other")

    with first.installed(Callbacks()):
        thread = threading.Thread(target=other)
        thread.start()
        began.wait()
        thread.join(timeout=0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


# --- torch.compile -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decorator", "expected"),
    [(lambda function: function, 11.0), (outside_compiled_regions, 1.0), (never_compiled, 0.0)],
)
def test_of_what_runs_in_a_compiled_model_some_is_left_out(decorator: Any, expected: float) -> None:
    """A proxy's forward is not compiled, though its block is; what asks for state is not at all."""

    def block(x: torch.Tensor) -> torch.Tensor:
        return x + 1.0 if torch.compiler.is_compiling() else x + 0.0

    @decorator
    def forward(x: torch.Tensor) -> torch.Tensor:
        x = block(x)
        return x + 10.0 if torch.compiler.is_compiling() else x

    torch.compiler.reset()
    model = torch.compile(lambda x: forward(x + 0.0), backend="eager")
    assert model(torch.zeros(2)).tolist() == [expected] * 2


# --- what a stack is made of ---------------------------------------------------------------------


def test_a_transformer_without_the_lists_or_blocks_is_refused() -> None:
    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList()

    with pytest.raises(LookupError, match="Empty has no single"):
        BlockStack(Empty(), (SINGLE,))
    with pytest.raises(LookupError, match="Empty has no blocks"):
        BlockStack(Empty(), (PAIR,))
    one = Transformer()
    del one.blocks[1]
    BlockStack(one, (PAIR,))


def test_lists_may_lie_deeper_in_the_transformer() -> None:
    outer = nn.Module()
    outer.model = nn.ModuleDict({"part": Transformer()})
    deep = BlockList("model.part.blocks", PAIR.inputs, PAIR.outputs)
    stack = BlockStack(outer, (deep,), (side_list(path="model.part.single"),))
    assert len(stack._slots) == 4
    assert len(BlockStack(outer, (deep,), (side_list(path="model.other.single"),))._slots) == 2
