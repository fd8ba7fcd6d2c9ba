"""Watches the calls of a transformer's blocks that a cache may skip, by the test's own hooks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import nn

from teacache.families.spec import Family
from teacache.families.streams import BlockArguments, BlockList

Before = Callable[[BlockArguments], None]
After = Callable[[BlockArguments, Any], Any]


def stack_of(transformer: nn.Module, family: Family) -> list[tuple[nn.Module, BlockList]]:
    """The blocks of the stack, each with the list that it is in."""
    return [
        (block, blocks)
        for blocks in family.block_lists
        for block in transformer.get_submodule(blocks.path).children()
    ]


def watch(
    block: nn.Module,
    blocks: BlockList,
    before: Before = lambda arguments: None,
    after: After = lambda arguments, out: None,
) -> ExitStack:
    """Calls of `block` for the image go through `before` and `after`, until the stack is closed.

    Args:
        blocks: The list that the block is in.
        before: Is given the arguments of a call.
        after: Is given them with the result, and returns another result, or None.
    """

    def is_watched(arguments: BlockArguments) -> bool:
        return blocks.beside is None or not blocks.beside(arguments)

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        arguments = BlockArguments(args, kwargs)
        if is_watched(arguments):
            before(arguments)

    def leave(module: nn.Module, args: Any, kwargs: Any, out: Any) -> Any:
        arguments = BlockArguments(args, kwargs)
        return after(arguments, out) if is_watched(arguments) else None

    watching = ExitStack()
    if blocks.method == "forward":
        watching.enter_context(block.register_forward_pre_hook(enter, with_kwargs=True))
        watching.enter_context(block.register_forward_hook(leave, with_kwargs=True))
        return watching
    original = getattr(block, blocks.method)

    def watched(*args: Any, **kwargs: Any) -> Any:
        enter(block, args, kwargs)
        out = original(*args, **kwargs)
        replaced = leave(block, args, kwargs, out)
        return out if replaced is None else replaced

    setattr(block, blocks.method, watched)
    watching.callback(delattr, block, blocks.method)
    return watching
