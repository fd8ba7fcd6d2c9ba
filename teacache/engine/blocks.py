"""The block stack of a transformer, and the proxies that take its slots during a call.

The slots of `ModuleList`s (or `ModuleDict`s) are swapped in place for the duration of one call of
the model and restored in `finally`: block indices, lengths, and whatever other code does between
the blocks stay as they are, and no forward is copied.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..families.streams import (
    BlockArguments,
    BlockList,
    FamilyMismatch,
    SideBlockList,
    SkippedOutput,
    image_part,
    reading_model,
    with_image,
)

_Forward = TypeVar("_Forward", bound=Callable[..., Any])


class StackCallbacks(Protocol):
    """Decides and caches during one call of the model (`forward.StackForward`)."""

    @property
    def skipping(self) -> bool: ...

    @property
    def image_tokens(self) -> int:
        """Number of image tokens at the input of the stack; 0 before it and after `give_up`."""

    def on_stack_input(
        self, block: nn.Module, arguments: BlockArguments, image: torch.Tensor
    ) -> None:
        """The first block of the stack is about to run on `image`, the batch first: decide."""

    def on_stack_output(self, image: torch.Tensor) -> None:
        """The last block has computed `image`."""

    def predicted_output(self) -> torch.Tensor:
        """What the last block returns for the image on a skip."""

    def give_up(self, mismatch: FamilyMismatch) -> None:
        """The streams cannot be read: this call and the rest of the run are computed."""


def outside_compiled_regions(forward: _Forward) -> _Forward:
    """Keep `forward` out of torch.compile; the blocks that it calls are still compiled."""
    wrapped: _Forward = torch.compiler.disable(forward, recursive=False)  # type: ignore[no-untyped-call]
    return wrapped


def never_compiled(function: _Forward) -> _Forward:
    """Keep `function` and all that it calls out of torch.compile, which specialises on state."""
    wrapped: _Forward = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return wrapped


class BlockProxy(nn.Module):
    """Takes a block's slot for one call, and shows itself as that block to whoever looks at it.

    Other code walks the model's modules during a call (weight prefetching, attention patches),
    asks for a block's class and sets attributes on it: all of that reaches the block. It is no
    child of the proxy, so that state dicts keep their names.
    """

    def __init__(self, stack: BlockStack) -> None:
        super().__init__()
        self.__dict__["stack"] = stack
        self.__dict__["block"] = None

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        block = self.__dict__.get("block")
        return type(self) if block is None else type(block)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        block = self.__dict__.get("block")
        if block is None:
            super().__setattr__(name, value)
        else:
            setattr(block, name, value)

    def named_modules(
        self,
        memo: set[nn.Module] | None = None,
        prefix: str = "",
        remove_duplicate: bool = True,
    ) -> Iterator[tuple[str, nn.Module]]:
        shown = self.__dict__["block"]
        walk = super().named_modules if shown is None else shown.named_modules
        yield from walk(memo, prefix, remove_duplicate)

    def modules(self, remove_duplicate: bool = True) -> Iterator[nn.Module]:
        """As `named_modules`; none of a block that does not run: weights are prefetched by them."""
        if not self._is_skipped():
            yield from super().modules(remove_duplicate)

    def _is_skipped(self) -> bool:
        """Whether the block does not run in this call of the model."""
        callbacks = self.__dict__["stack"].callbacks_here
        return callbacks is not None and bool(callbacks.skipping)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """What moves a module moves the block: other code may do so between the blocks."""
        shown = self.__dict__["block"]
        if shown is not None:
            shown._apply(fn, recurse)
        return self

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        shown = self.__dict__["block"]
        yield from super().named_children() if shown is None else shown.named_children()


class StackBlockProxy(BlockProxy):
    """A block of the stack: runs on a computed step, passes its inputs through on a skip."""

    def __init__(self, stack: BlockStack, blocks: BlockList, first: bool, last: bool) -> None:
        super().__init__(stack)
        self.__dict__["block_list"] = blocks
        self.__dict__["image_stream"] = image = blocks.image_stream()
        self.__dict__["image_index"] = blocks.outputs.index(image.role)
        self.__dict__["returned"] = blocks.returned_streams()
        self.__dict__["first"] = first
        self.__dict__["last"] = last

    def __getattr__(self, name: str) -> Any:
        blocks = self.__dict__.get("block_list")
        if blocks is not None and name == blocks.method:
            return partial(self._call, super().__getattr__(name))
        return super().__getattr__(name)

    @outside_compiled_regions
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.block_list.method != "forward":
            return self.block(*args, **kwargs)
        return self._call(self.block, *args, **kwargs)

    @outside_compiled_regions
    def _call(self, block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What `block` or its method returns; on a skip its inputs."""
        arguments = BlockArguments(args, kwargs, self.image_stream)
        if self._is_beside(arguments):
            return block(*args, **kwargs)
        skipping, passed = self._before(arguments)
        if skipping:
            return passed
        out = block(*args, **kwargs)
        self._after(arguments, out)
        return out

    @never_compiled
    def _is_beside(self, arguments: BlockArguments) -> bool:
        """Whether the call is none of the image."""
        beside, callbacks = self.block_list.beside, self.stack.callbacks_here
        if beside is None or callbacks is None:
            return False
        try:
            with reading_model():
                return bool(beside(arguments))
        except FamilyMismatch as mismatch:
            callbacks.give_up(mismatch)
            return False

    @never_compiled
    def _before(self, arguments: BlockArguments) -> tuple[bool, Any]:
        """Whether the block is skipped, and what it returns then."""
        callbacks = self.stack.callbacks_here
        if callbacks is None:
            return False, None
        try:
            with self.stack.allocating():
                if self.first:
                    callbacks.on_stack_input(self.block, arguments, self._stack_input(arguments))
                if callbacks.skipping:
                    return True, self._passed_through(arguments)
        except FamilyMismatch as mismatch:
            callbacks.give_up(mismatch)
        return False, None

    @never_compiled
    def _after(self, arguments: BlockArguments, out: Any) -> None:
        callbacks = self.stack.callbacks_here
        if callbacks is None or not callbacks.image_tokens:
            return
        try:
            if self.block_list.verify_outputs:
                self._verify(arguments, out)
            if self.last:
                with self.stack.allocating():
                    callbacks.on_stack_output(self._image_of(out, callbacks.image_tokens))
        except FamilyMismatch as mismatch:
            callbacks.give_up(mismatch)

    @reading_model()
    def _verify(self, arguments: BlockArguments, out: Any) -> None:
        given = arguments.stream(self.image_stream)
        if not isinstance(out, torch.Tensor) or out.shape != given.shape:
            kind = type(self.block).__name__
            raise TypeError(f"{kind} does not return one tensor in the shape of its input")

    @reading_model()
    def _stack_input(self, arguments: BlockArguments) -> torch.Tensor:
        if self.stack.callbacks.image_tokens:
            raise RuntimeError("its blocks run more than once within one call")
        stream = self.image_stream
        packed: torch.Tensor = stream.pack(arguments.stream(stream))
        if stream.tokens_before is None:
            return packed
        return image_part(packed, stream.role, packed.shape[1] - stream.tokens_before(arguments))

    @reading_model()
    def _passed_through(self, arguments: BlockArguments) -> Any:
        """The inputs in the form of the block's outputs; the last block returns the prediction."""
        passed = [arguments.stream(stream) for stream in self.returned]
        if self.last or (self.first and self.stack.side_blocks_run):
            stream, value = self.image_stream, passed[self.image_index]
            packed = stream.pack(value)
            if self.last:
                predicted = self.stack.callbacks.predicted_output()
                packed = with_image(packed, stream.role, predicted)
            else:
                packed = packed.clone()
            passed[self.image_index] = stream.unpack(packed, value)
        return tuple(passed) if len(passed) > 1 else passed[0]

    @reading_model()
    def _image_of(self, out: Any, tokens: int) -> torch.Tensor:
        stream = self.image_stream
        value = out[self.image_index] if len(self.returned) > 1 else out
        return image_part(stream.pack(value), stream.role, tokens)


class SideBlockProxy(BlockProxy):
    """A block beside the stack, whose output is added to it: skipped together with it."""

    def __init__(self, stack: BlockStack, side: SideBlockList) -> None:
        super().__init__(stack)
        self.__dict__["side"] = side

    @outside_compiled_regions
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        callbacks = self.stack.callbacks_here
        if callbacks is None or not callbacks.skipping:
            return self.block(*args, **kwargs)
        stream = BlockArguments(args, kwargs)[0, self.side.stream]
        if self.side.skipped_output is SkippedOutput.ZERO:
            return stream.new_zeros(()).expand(stream.shape)
        return stream.new_zeros(()), stream


class BlockStack:
    """The slots of a transformer's block lists, in the order in which they run.

    Args:
        transformer: holds the lists.
        block_lists: the stack. side_block_lists: blocks beside it.
        allocating: makes the context in which the cache allocates memory within a block, some of
            which it holds for longer than the block runs.

    Raises:
        LookupError: the transformer lacks one of the lists or has too few blocks.
    """

    def __init__(
        self,
        transformer: nn.Module,
        block_lists: tuple[BlockList, ...],
        side_block_lists: tuple[SideBlockList, ...] = (),
        allocating: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.callbacks: StackCallbacks | None = None
        self.allocating = allocating
        self._thread: int | None = None
        """The one whose call the proxies serve."""
        self._transformer = transformer
        self.side_blocks_run = False
        """Whether side blocks run on a skip: they may need the stack's input unchanged."""
        self._slots: list[tuple[nn.Module, str, BlockProxy]] = []
        slots = [
            (blocks, container, name)
            for blocks in block_lists
            for container in [_container(transformer, blocks.path)]
            for name in container._modules
        ]
        if not slots:
            raise LookupError(f"{type(transformer).__name__} has no blocks")
        for index, (blocks, container, name) in enumerate(slots):
            first, last = index == 0, index == len(slots) - 1
            self._slots.append((container, name, StackBlockProxy(self, blocks, first, last)))
        for side in side_block_lists:
            if not _has(transformer, side.path):
                continue
            container, running = _container(transformer, side.path), side.always_run(transformer)
            self.side_blocks_run = self.side_blocks_run or bool(running)
            self._slots += [
                (container, name, SideBlockProxy(self, side))
                for name in container._modules
                if name not in running
            ]

    @property
    def callbacks_here(self) -> StackCallbacks | None:
        """The callbacks in the thread whose call they serve.

        None in another one, which may have come upon a proxy in a call of the model that no host
        knows of, and keep it beyond the call that it was made for: its block runs as it is.
        """
        callbacks = self.callbacks
        return callbacks if self._thread == threading.get_ident() else None

    @contextmanager
    def installed(self, callbacks: StackCallbacks) -> Iterator[None]:
        """Every slot holds its proxy and serves `callbacks`; afterwards all is as it was."""
        with in_use(self._transformer):
            yield from self._installed(callbacks)

    def _installed(self, callbacks: StackCallbacks) -> Iterator[None]:
        replaced: list[tuple[nn.Module, str, nn.Module]] = []
        self.callbacks, self._thread = callbacks, threading.get_ident()
        try:
            for container, name, proxy in self._slots:
                block = container._modules[name]
                assert block is not None
                proxy.__dict__["block"] = block
                replaced.append((container, name, block))
                container._modules[name] = proxy
            yield
        finally:
            for container, name, block in replaced:
                container._modules[name] = block
            self.callbacks = self._thread = None


_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_LOCKS_LOCK = threading.RLock()


@contextmanager
def in_use(transformer: nn.Module) -> Iterator[None]:
    """One call at a time swaps the slots of a transformer, whichever run and thread makes it."""
    with _LOCKS_LOCK:
        lock = _LOCKS.setdefault(transformer, threading.RLock())
    with lock:
        yield


def _container(transformer: nn.Module, path: str) -> nn.Module:
    try:
        return transformer.get_submodule(path)
    except AttributeError as error:
        raise LookupError(f"{type(transformer).__name__} has no {path}") from error


def _has(transformer: nn.Module, path: str) -> bool:
    part: nn.Module | None = transformer
    for name in path.split("."):
        part = None if part is None else part._modules.get(name)
    return part is not None
