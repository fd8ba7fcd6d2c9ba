"""The proxies that take the blocks' slots during a call, on a transformer of a few lines."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from teacache.engine.blocks import BlockStack, never_compiled, outside_compiled_regions
from teacache.families.streams import (
    BlockArguments,
    BlockList,
    FamilyMismatch,
    Role,
    SideBlockList,
    SkippedOutput,
    Stream,
)

IMAGE, TEXT = Stream(Role.IMAGE, 0, "x"), Stream(Role.TEXT, 1, "text")
PAIR = BlockList("blocks", (IMAGE, TEXT), (Role.TEXT, Role.IMAGE))
SINGLE = BlockList("single", (Stream(Role.TEXT_IMAGE, 0, "x"),), (Role.TEXT_IMAGE,))


class Block(nn.Module):
    """Returns (text, image), each with its own number added."""

    def __init__(self, add: float) -> None:
        super().__init__()
        self.add, self.calls = add, 0
        self.inner = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> Any:
        self.calls += 1
        return text + self.add, x + self.add


class Joined(Block):
    """Returns the one stream that it takes."""

    def forward(self, x: torch.Tensor) -> Any:  # type: ignore[override]
        self.calls += 1
        return x + self.add


class Transformer(nn.Module):
    """Two blocks on image and text, two on both joined."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(1.0), Block(2.0)])
        self.single = nn.ModuleList([Joined(4.0), Joined(8.0)])

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            text, image = block(image, text)
        joined = torch.cat([text, image], dim=1)
        for block in self.single:
            joined = block(joined)
        return joined

    @property
    def every(self) -> list[Block]:
        return [*self.blocks, *self.single]


class Callbacks:
    """Skips or computes as it is told, and notes what it is called with."""

    def __init__(self, skip: bool = False, refuse: str = "") -> None:
        self.skip, self.refuse = skip, refuse
        self.skipping = False
        self.image_tokens = self.first_block_tokens = 0
        self.events: list[tuple[str, Any]] = []
        self.mismatches: list[FamilyMismatch] = []

    def on_first_block(self, image: torch.Tensor) -> None:
        self.first_block_tokens = image.shape[1]
        self.events.append(("first", image.clone()))

    def on_stack_input(
        self, block: nn.Module, arguments: BlockArguments, image: torch.Tensor
    ) -> None:
        self.image_tokens, self.skipping = image.shape[1], self.skip
        self.events.append(("input", image.clone()))
        self.block, self.arguments = block, arguments
        if self.refuse:
            try:
                raise ValueError(self.refuse)
            except ValueError as error:
                raise FamilyMismatch from error

    def on_stack_output(self, image: torch.Tensor) -> None:
        self.events.append(("output", image.clone()))

    def predicted_output(self) -> torch.Tensor:
        return torch.full((1, self.image_tokens, 2), 100.0)

    def give_up(self, mismatch: FamilyMismatch) -> None:
        self.mismatches.append(mismatch)
        self.skipping, self.image_tokens = False, 0


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(1, 3, 2), torch.zeros(1, 2, 2)


def called(
    callbacks: Callbacks, transformer: Any = None, lists: Any = (PAIR, SINGLE), **more: Any
) -> tuple[torch.Tensor, Any]:
    transformer = Transformer() if transformer is None else transformer
    stack = BlockStack(transformer, lists, **more)
    with stack.installed(callbacks):
        out = transformer(*inputs())
    return out, transformer


# --- computing and skipping ----------------------------------------------------------------------


def test_a_computed_call_is_the_models_own_and_shows_both_ends_of_the_stack() -> None:
    callbacks = Callbacks()
    out, transformer = called(callbacks)
    assert torch.equal(out, Transformer()(*inputs()))
    assert [block.calls for block in transformer.every] == [1, 1, 1, 1]
    (begin, given), (end, computed) = callbacks.events
    assert (begin, end) == ("input", "output")
    assert torch.equal(given, torch.ones(1, 3, 2))
    assert torch.equal(computed, torch.full((1, 3, 2), 16.0)), "the image's tokens alone"
    assert callbacks.block is transformer.blocks[0]
    assert torch.equal(callbacks.arguments.stream(TEXT), torch.zeros(1, 2, 2))
    assert callbacks.mismatches == []


def test_a_skipped_call_runs_no_block_and_ends_in_the_prediction() -> None:
    callbacks = Callbacks(skip=True)
    out, transformer = called(callbacks)
    assert [block.calls for block in transformer.every] == [0, 0, 0, 0]
    text, image = out[:, :2], out[:, 2:]
    assert torch.equal(text, torch.zeros(1, 2, 2)) and torch.equal(
        image, torch.full((1, 3, 2), 100.0)
    )
    assert [event for event, _ in callbacks.events] == ["input"]


def test_a_stack_that_ends_in_several_streams_predicts_the_images() -> None:
    class Pairs(Transformer):
        def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                text, image = block(x=image, text=text)
            return torch.cat([text, image], dim=1)

    skipped, _ = called(Callbacks(skip=True), Pairs(), (PAIR,))
    assert torch.equal(skipped, torch.cat([torch.zeros(1, 2, 2), torch.full((1, 3, 2), 100.0)], 1))
    callbacks = Callbacks()
    computed, _ = called(callbacks, Pairs(), (PAIR,))
    assert torch.equal(computed, Pairs()(*inputs()))
    assert torch.equal(callbacks.events[-1][1], torch.full((1, 3, 2), 4.0))


def test_a_single_block_is_both_ends_of_the_stack() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.single = nn.ModuleList([Joined(4.0)])

        def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
            return self.single[0](torch.cat([text, image], dim=1))

    callbacks = Callbacks()
    called(callbacks, One(), (SINGLE,))
    assert [event for event, _ in callbacks.events] == ["input", "output"]


def test_a_stack_that_begins_with_a_joined_stream_shows_all_of_it() -> None:
    class JoinedAtOnce(Transformer):
        def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
            joined = torch.cat([image, text], dim=1)
            for block in self.single:
                joined = block(joined)
            return joined

    for role in (Role.IMAGE_TEXT, Role.TEXT_IMAGE):
        callbacks = Callbacks()
        lists = (BlockList("single", (Stream(role, 0, "x"),), (role,)),)
        called(callbacks, JoinedAtOnce(), lists)
        assert torch.equal(callbacks.events[0][1], torch.cat(inputs(), dim=1))


def test_a_stream_of_several_tensors_is_predicted_in_their_shapes() -> None:
    class Films(nn.Module):
        """A film and its sound in one tuple."""

        def __init__(self) -> None:
            super().__init__()
            self.films = nn.ModuleList([Joined(1.0), Joined(2.0)])

        def forward(self, image: torch.Tensor, text: torch.Tensor) -> Any:
            film = (image, text)
            for block in self.films:
                film = block(film)
            return film

    class Flat(Callbacks):
        def predicted_output(self) -> torch.Tensor:
            return torch.arange(10.0).reshape(1, 10)

    stream = Stream(Role.IMAGE, 0, "x", is_tuple=True)
    callbacks = Flat(skip=True)
    out, _ = called(callbacks, Films(), (BlockList("films", (stream,), (Role.IMAGE,)),))
    assert callbacks.events[0][1].shape == (1, 10) and callbacks.mismatches == []
    assert [part.shape for part in out] == [(1, 3, 2), (1, 2, 2)]
    assert torch.equal(torch.cat([part.flatten() for part in out]), torch.arange(10.0))


# --- the first block -----------------------------------------------------------------------------


def test_the_first_block_may_run_even_on_a_skip() -> None:
    callbacks = Callbacks(skip=True)
    out, transformer = called(callbacks, first_block_runs=True)
    assert [block.calls for block in transformer.every] == [1, 0, 0, 0]
    (first, before), (begin, given) = callbacks.events
    assert (first, begin) == ("first", "input")
    assert torch.equal(before, torch.ones(1, 3, 2)) and torch.equal(
        given, torch.full((1, 3, 2), 2.0)
    )
    assert torch.equal(out[:, :2], torch.ones(1, 2, 2)), "the first block's text"


def test_the_stack_behind_the_first_block_begins_with_the_images_tokens() -> None:
    """Where the text is joined to the image behind the first block."""

    class Late(Transformer):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block(1.0)])

    callbacks = Callbacks()
    called(callbacks, Late(), first_block_runs=True)
    assert torch.equal(callbacks.events[1][1], torch.full((1, 3, 2), 2.0))


def test_a_first_block_that_cannot_be_read_is_a_mismatch() -> None:
    other = BlockList("blocks", (Stream(Role.IMAGE, 5, "missing"), TEXT), (Role.TEXT, Role.IMAGE))
    callbacks = Callbacks()
    out, _ = called(callbacks, lists=(other, SINGLE), first_block_runs=True)
    assert callbacks.mismatches and torch.equal(out, Transformer()(*inputs()))


def test_a_first_block_that_alone_cannot_be_read_is_a_mismatch() -> None:
    class Late(Transformer):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block(1.0)])

    other = BlockList("blocks", (Stream(Role.IMAGE, 5, "missing"), TEXT), (Role.TEXT, Role.IMAGE))
    callbacks = Callbacks()
    out, _ = called(callbacks, Late(), (other, SINGLE), first_block_runs=True)
    (mismatch,) = callbacks.mismatches
    assert isinstance(mismatch.__cause__, IndexError)
    assert torch.equal(out, Late()(*inputs()))


# --- what does not match -------------------------------------------------------------------------


def test_a_mismatch_at_the_input_computes_the_call() -> None:
    callbacks = Callbacks(skip=True, refuse="no norm")
    out, _ = called(callbacks)
    assert torch.equal(out, Transformer()(*inputs()))
    assert [str(each) for each in callbacks.mismatches] == ["ValueError: no norm"]
    assert [event for event, _ in callbacks.events] == ["input"], "nothing is observed any more"


def test_blocks_that_run_twice_within_a_call_are_a_mismatch() -> None:
    class Twice(Transformer):
        def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
            text, image = self.blocks[0](image, text)
            return super().forward(image, text)

    callbacks = Callbacks()
    out, _ = called(callbacks, Twice())
    assert torch.equal(out, Twice()(*inputs()))
    assert "its blocks run more than once within one call" in str(callbacks.mismatches[0])


class Guessed(nn.Module):
    """Blocks whose outputs are only assumed."""

    def __init__(self, returned: Any) -> None:
        super().__init__()
        self.single = nn.ModuleList([Joined(4.0), Joined(8.0)])
        self.single[0].forward = lambda x: returned(x)  # type: ignore[method-assign]

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> Any:
        out = self.single[0](torch.cat([text, image], dim=1))
        return self.single[1](out if isinstance(out, torch.Tensor) else out[0])


ASSUMED = BlockList("single", SINGLE.inputs, SINGLE.outputs, verify_outputs=True)


@pytest.mark.parametrize("returned", [lambda x: (x,), lambda x: x[:, :2]])
def test_assumed_outputs_are_verified(returned: Any) -> None:
    callbacks = Callbacks()
    called(callbacks, Guessed(returned), (ASSUMED,))
    (mismatch,) = callbacks.mismatches
    assert "Joined does not return one tensor in the shape of its input" in str(mismatch)


def test_outputs_that_are_as_assumed_pass() -> None:
    callbacks = Callbacks()
    called(callbacks, Guessed(lambda x: x + 1), (ASSUMED,))
    assert callbacks.mismatches == [] and callbacks.events[-1][0] == "output"


def test_outputs_that_are_known_are_not_verified() -> None:
    callbacks = Callbacks()
    called(callbacks, Guessed(lambda x: x[:, :4]), (SINGLE,))
    assert callbacks.mismatches == []


# --- blocks beside the stack ---------------------------------------------------------------------


class Side(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, stream: torch.Tensor) -> Any:
        self.calls += 1
        return stream + 1


class WithSide(Transformer):
    """Side blocks read the input of each pair of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.ModuleList([Side(), Side()])
        self.returned: list[Any] = []
        self.seen: list[torch.Tensor] = []

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        for block, side in zip(self.blocks, self.side, strict=True):
            text, image = block(image, text)
            self.seen.append(image)
            self.returned.append(side(image))
        return image


def side_list(
    running: Any = (), output: SkippedOutput = SkippedOutput.ZERO, path: str = "side"
) -> SideBlockList:
    return SideBlockList(path, lambda transformer: running, "stream", output)


def test_side_blocks_are_skipped_with_the_stack() -> None:
    for skip in (True, False):
        _, transformer = called(
            Callbacks(skip), WithSide(), (PAIR,), side_block_lists=(side_list(),)
        )
        assert [side.calls for side in transformer.side] == [0 if skip else 1] * 2
        for returned in transformer.returned:
            assert returned.shape == (1, 3, 2) and returned.any() != skip


def test_side_blocks_may_be_called_by_keyword() -> None:
    class ByKeyword(WithSide):
        def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
            text, image = self.blocks[0](image, text)
            self.returned.append(self.side[0](stream=image))
            return image

    for skip in (True, False):
        _, transformer = called(
            Callbacks(skip), ByKeyword(), (PAIR,), side_block_lists=(side_list(),)
        )
        assert transformer.returned[0].any() != skip


def test_which_side_blocks_run_is_asked_of_the_transformer() -> None:
    transformer = WithSide()
    transformer.kept = {"1"}
    asked = SideBlockList("side", lambda model: model.kept, "stream", SkippedOutput.ZERO)
    called(Callbacks(skip=True), transformer, (PAIR,), side_block_lists=(asked,))
    assert [side.calls for side in transformer.side] == [0, 1]


def test_a_side_block_may_return_its_stream_too() -> None:
    both = side_list(output=SkippedOutput.ZERO_AND_STREAM)
    _, transformer = called(Callbacks(skip=True), WithSide(), (PAIR,), side_block_lists=(both,))
    for (zero, stream), seen in zip(transformer.returned, transformer.seen, strict=True):
        assert not zero.any() and stream is seen


def test_a_side_block_that_runs_on_a_skip_gets_a_copy_of_the_stacks_input() -> None:
    """What the model adds to it in place must not reach the input that others hold."""
    given = inputs()
    transformer = WithSide()
    stack = BlockStack(transformer, (PAIR,), (side_list({"0"}),))
    assert stack.side_blocks_run
    with stack.installed(Callbacks(skip=True)):
        transformer(*given)
    assert [side.calls for side in transformer.side] == [1, 0]
    first = transformer.seen[0]
    assert torch.equal(first, given[0]) and first.data_ptr() != given[0].data_ptr()
    without = WithSide()
    stack = BlockStack(without, (PAIR,), (side_list(),))
    assert not stack.side_blocks_run
    with stack.installed(Callbacks(skip=True)):
        without(*given)
    assert without.seen[0].data_ptr() == given[0].data_ptr()


def test_one_list_of_running_side_blocks_is_enough_and_lists_may_be_missing() -> None:
    lists = (side_list({"0"}), side_list(path="elsewhere.side"), side_list(path="side.0.none"))
    stack = BlockStack(WithSide(), (PAIR,), lists)
    assert stack.side_blocks_run
    late = BlockStack(WithSide(), (PAIR,), (side_list(path="elsewhere"), side_list({"0"})))
    assert late.side_blocks_run
    doubled = BlockStack(WithSide(), (PAIR,), (side_list({"0"}), side_list(())))
    assert doubled.side_blocks_run


# --- proxies are seen as blocks ------------------------------------------------------------------


def test_during_a_call_the_proxies_show_the_blocks() -> None:
    transformer = Transformer()
    block = transformer.blocks[0]
    stack = BlockStack(transformer, (PAIR, SINGLE), first_block_runs=False)
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
        with BlockStack(transformer, **lists, first_block_runs=True).installed(Callbacks(skip)):
            transformer(*inputs())
            found = [
                len(list(proxy.modules())) for proxy in (*transformer.blocks, *transformer.side)
            ]
        assert found == ([2, 0, 0, 0] if skip else [2, 2, 1, 1])
    shared = Transformer()
    shared.blocks[0].again = shared.blocks[0].inner
    with BlockStack(shared, (PAIR,)).installed(Callbacks()):
        assert len(list(shared.blocks[0].modules())) == 2
        assert len(list(shared.blocks[0].modules(remove_duplicate=False))) == 3


def test_memory_within_blocks_is_allocated_in_the_hosts_context() -> None:
    inside: list[str] = []

    @contextmanager
    def allocating() -> Iterator[None]:
        inside.append("in")
        yield
        inside.append("out")

    class Watching(Callbacks):
        def on_first_block(self, image: torch.Tensor) -> None:
            assert inside[-1] == "in"
            super().on_first_block(image)

        def on_stack_input(self, *args: Any) -> None:
            assert inside[-1] == "in"
            super().on_stack_input(*args)

        def on_stack_output(self, image: torch.Tensor) -> None:
            assert inside[-1] == "in"
            super().on_stack_output(image)

    callbacks = Watching()
    called(callbacks, first_block_runs=True, allocating=allocating)
    assert len(callbacks.events) == 3 and inside[-1] == "out"


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
    stack = BlockStack(transformer, (PAIR,), (side_list(),), first_block_runs=True)
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
    with pytest.raises(LookupError, match="Transformer has no block behind the first one"):
        BlockStack(one, (PAIR,), first_block_runs=True)
    BlockStack(one, (PAIR,))


def test_lists_may_lie_deeper_in_the_transformer() -> None:
    outer = nn.Module()
    outer.model = nn.ModuleDict({"part": Transformer()})
    deep = BlockList("model.part.blocks", PAIR.inputs, PAIR.outputs)
    stack = BlockStack(outer, (deep,), (side_list(path="model.part.single"),))
    assert len(stack._slots) == 4
    assert len(BlockStack(outer, (deep,), (side_list(path="model.other.single"),))._slots) == 2
