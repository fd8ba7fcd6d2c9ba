"""The proxies that take the blocks' slots during a call, on a transformer of a few lines."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from made_up_blocks import (
    PAIR,
    SINGLE,
    TEXT,
    Callbacks,
    Joined,
    Transformer,
    WithSide,
    called,
    inputs,
    side_list,
)
from torch import nn

from teacache.engine.blocks import BlockStack
from teacache.families.streams import (
    BlockList,
    Role,
    SideBlockList,
    SkippedOutput,
    Stream,
)

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


# --- what does not match -------------------------------------------------------------------------


def test_a_mismatch_at_the_input_computes_the_call() -> None:
    callbacks = Callbacks(skip=True, refuse="no norm")
    out, _ = called(callbacks)
    assert torch.equal(out, Transformer()(*inputs()))
    assert [str(each) for each in callbacks.mismatches] == ["ValueError: no norm"]
    assert [event for event, _ in callbacks.events] == ["input"], "nothing is observed any more"


def test_a_first_block_that_cannot_be_read_is_a_mismatch() -> None:
    other = BlockList("blocks", (Stream(Role.IMAGE, 5, "missing"), TEXT), (Role.TEXT, Role.IMAGE))
    callbacks = Callbacks()
    out, _ = called(callbacks, lists=(other, SINGLE))
    assert isinstance(callbacks.mismatches[0].__cause__, IndexError)
    assert torch.equal(out, Transformer()(*inputs()))


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
