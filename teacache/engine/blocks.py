"""The block stack of a transformer, and the stand-ins that take its slots during a call.

Slots of `ModuleList`s (or `ModuleDict`s) are swapped in place for the duration of one call of
the model and restored in `finally`: block indices, lengths and whatever other code does between
the blocks stay as they are, and no forward is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from ..families.streams import (
    AdapterFailed,
    BlockArguments,
    BlockList,
    Passed,
    SideList,
    image_part,
    reading,
    with_image,
)

_Forward = TypeVar("_Forward", bound=Callable[..., Any])


class StackCall(Protocol):
    """What decides and remembers during one call of the model."""

    @property
    def skipping(self) -> bool: ...

    def lead(self, image: torch.Tensor) -> None:
        """The block that runs before the stack is about to run on `image`, the batch first."""

    @property
    def lead_tokens(self) -> int:
        """Length of the second dimension of what `lead` was given; 0 before it and without it."""

    def enter(self, block: nn.Module, arguments: BlockArguments, image: torch.Tensor) -> None:
        """The first block is about to run on `image`, the batch first: decide."""

    def leave(self, image: torch.Tensor) -> None:
        """The last block has computed `image`."""

    def prediction(self) -> torch.Tensor:
        """What the last block returns for the image on a skip."""

    def give_up(self, failure: AdapterFailed) -> None:
        """The streams cannot be read: this call and the rest of the run are computed."""

    @property
    def image_tokens(self) -> int:
        """Length of the image's second dimension at the entry of the stack: its tokens, where
        streams are joined. 0 before the entry and after `give_up`."""


def outside_compiled_regions(forward: _Forward) -> _Forward:
    """The decision stays out of torch.compile; the blocks called from it are still compiled."""
    wrapped: _Forward = torch.compiler.disable(forward, recursive=False)  # type: ignore[no-untyped-call]
    return wrapped


def never_compiled(function: _Forward) -> _Forward:
    """`function` and all that it calls stay out of torch.compile: it would specialise on state."""
    wrapped: _Forward = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return wrapped


class _StandIn(nn.Module):
    """Takes a block's slot. Not registered as its parent: the block keeps its own identity."""

    def __init__(self, stack: BlockStack) -> None:
        super().__init__()
        self.__dict__["stack"] = stack
        self.__dict__["block"] = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"], name)


class _StackStandIn(_StandIn):
    def __init__(self, stack: BlockStack, blocks: BlockList, first: bool, last: bool) -> None:
        super().__init__(stack)
        self.__dict__["spec"] = blocks
        self.__dict__["image_stream"] = image = blocks.image_stream()
        self.__dict__["image_place"] = blocks.returns.index(image.role)
        self.__dict__["returned"] = blocks.returned_streams()
        self.__dict__["first"] = first
        self.__dict__["last"] = last

    @outside_compiled_regions
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        arguments = BlockArguments(args, kwargs, self.image_stream)
        skipping, passed = self._before(arguments)
        if skipping:
            return passed
        out = self.block(*args, **kwargs)
        self._after(arguments, out)
        return out

    @never_compiled
    def _before(self, arguments: BlockArguments) -> tuple[bool, Any]:
        """Whether the block is skipped, and what it returns then."""
        call = self.stack.call
        try:
            if self.first:
                call.enter(self.block, arguments, self._entry(arguments))
            if call.skipping:
                return True, self._passed(arguments)
        except AdapterFailed as failure:
            call.give_up(failure)
        return False, None

    @never_compiled
    def _after(self, arguments: BlockArguments, out: Any) -> None:
        call = self.stack.call
        if not call.image_tokens:
            return
        try:
            if self.spec.checked:
                self._check(arguments, out)
            if self.last:
                call.leave(self._image_of(out, call.image_tokens))
        except AdapterFailed as failure:
            call.give_up(failure)

    @reading()
    def _check(self, arguments: BlockArguments, out: Any) -> None:
        given = arguments.stream(self.image_stream)
        if not isinstance(out, torch.Tensor) or out.shape != given.shape:
            kind = type(self.block).__name__
            raise TypeError(f"{kind} does not return one tensor in the shape of its input")

    @reading()
    def _entry(self, arguments: BlockArguments) -> torch.Tensor:
        if self.stack.call.image_tokens:
            raise RuntimeError("its blocks run more than once within one call")
        stream = self.image_stream
        packed = stream.pack(arguments.stream(stream))
        tokens = self.stack.call.lead_tokens
        return image_part(packed, stream.role, tokens) if tokens else packed

    @reading()
    def _passed(self, arguments: BlockArguments) -> Any:
        passed = [arguments.stream(stream) for stream in self.returned]
        if self.last or (self.first and self.stack.sides_run):
            stream, value = self.image_stream, passed[self.image_place]
            packed = stream.pack(value)
            if self.last:
                packed = with_image(packed, stream.role, self.stack.call.prediction())
            else:
                packed = packed.clone()
            passed[self.image_place] = stream.unpack(packed, value)
        return tuple(passed) if len(passed) > 1 else passed[0]

    @reading()
    def _image_of(self, out: Any, tokens: int) -> torch.Tensor:
        stream = self.image_stream
        value = out[self.image_place] if len(self.returned) > 1 else out
        return image_part(stream.pack(value), stream.role, tokens)


class _LeadStandIn(_StandIn):
    """The first block where it is what the decision looks at: it always runs."""

    def __init__(self, stack: BlockStack, blocks: BlockList) -> None:
        super().__init__(stack)
        self.__dict__["spec"] = blocks

    @outside_compiled_regions
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self._before(BlockArguments(args, kwargs))
        return self.block(*args, **kwargs)

    @never_compiled
    def _before(self, arguments: BlockArguments) -> None:
        call, stream = self.stack.call, self.spec.image_stream()
        try:
            with reading():
                call.lead(stream.pack(arguments.stream(stream)))
        except AdapterFailed as failure:
            call.give_up(failure)


class _SideStandIn(_StandIn):
    def __init__(self, stack: BlockStack, side: SideList) -> None:
        super().__init__(stack)
        self.__dict__["side"] = side

    @outside_compiled_regions
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.stack.call.skipping:
            return self.block(*args, **kwargs)
        stream = BlockArguments(args, kwargs)[0, self.side.stream]
        if self.side.gives is Passed.ZERO:
            return stream.new_zeros(()).expand(stream.shape)
        return stream.new_zeros(()), stream


class BlockStack:
    """The slots of a transformer's block lists, in the order in which they run.

    leading: the first block runs even on a skip, and the stack begins behind it.
    Raises LookupError when the transformer lacks one of the lists or has too few blocks.
    """

    def __init__(
        self,
        transformer: nn.Module,
        lists: tuple[BlockList, ...],
        sides: tuple[SideList, ...] = (),
        leading: bool = False,
    ) -> None:
        self.call: StackCall | None = None
        self.sides_run = False
        """Whether blocks beside the stack run on a skip, and may need the first input unchanged."""
        self._slots: list[tuple[nn.Module, str, _StandIn]] = []
        containers = [_container(transformer, blocks.path) for blocks in lists]
        counted = [
            (blocks, box)
            for blocks, box in zip(lists, containers, strict=True)
            if len(box._modules)
        ]
        if not counted:
            raise LookupError(f"{type(transformer).__name__} has no blocks")
        places = [(blocks, box, name) for blocks, box in counted for name in box._modules]
        first = 1 if leading else 0
        if len(places) <= first:
            raise LookupError(f"{type(transformer).__name__} has no block behind the first one")
        for place, (blocks, box, name) in enumerate(places):
            stand_in: _StandIn = _LeadStandIn(self, blocks)
            if place >= first:
                last = place == len(places) - 1
                stand_in = _StackStandIn(self, blocks, place == first, last)
            self._slots.append((box, name, stand_in))
        for side in sides:
            if not _has(transformer, side.path):
                continue
            box, runs = _container(transformer, side.path), side.runs(transformer)
            self.sides_run = self.sides_run or bool(runs)
            self._slots += [
                (box, name, _SideStandIn(self, side)) for name in box._modules if name not in runs
            ]

    @contextmanager
    def installed(self, call: StackCall) -> Iterator[None]:
        """Every slot holds its stand-in and serves `call`; afterwards all is as it was."""
        taken: list[tuple[nn.Module, str, nn.Module]] = []
        self.call = call
        try:
            for box, name, stand_in in self._slots:
                block = box._modules[name]
                assert block is not None
                stand_in.__dict__["block"] = block
                taken.append((box, name, block))
                box._modules[name] = stand_in
            yield
        finally:
            for box, name, block in taken:
                box._modules[name] = block
            for _, _, stand_in in self._slots:
                stand_in.__dict__["block"] = None
            self.call = None


def _container(transformer: nn.Module, path: str) -> nn.Module:
    try:
        found = transformer.get_submodule(path)
    except AttributeError as error:
        raise LookupError(f"{type(transformer).__name__} has no {path}") from error
    return found


def _has(transformer: nn.Module, path: str) -> bool:
    part: nn.Module | None = transformer
    for name in path.split("."):
        part = None if part is None else part._modules.get(name)
    return part is not None
