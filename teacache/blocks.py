"""The block stack of a transformer, and the stand-ins that take its slots during a call.

Slots of `ModuleList`s (or `ModuleDict`s) are swapped in place for the duration of one call of
the model and restored in `finally`: block indices, lengths and whatever other code does between
the blocks stay as they are, and no forward is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

_Forward = TypeVar("_Forward", bound=Callable[..., Any])


class Role(Enum):
    """What a stream of tokens carries. Joined streams name their parts in order."""

    IMAGE = "image"
    TEXT = "text"
    TEXT_IMAGE = "text+image"
    IMAGE_TEXT = "image+text"


class AdapterFailed(Exception):
    """What the table says of a model does not hold for the model at hand; the cause is chained."""

    def __str__(self) -> str:
        return f"{type(self.__cause__).__name__}: {self.__cause__}"


@contextmanager
def reading() -> Iterator[None]:
    """Errors of reading a model's insides come out as `AdapterFailed`."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise AdapterFailed from error


@dataclass(frozen=True)
class Stream:
    """Where a block takes a stream: its role, position and parameter name.

    batch: the dimension along which the batch lies; None where there is none (a batch of one).
    parts: the stream is a tuple of tensors, handled as one.
    """

    role: Role
    position: int
    name: str
    batch: int | None = 0
    parts: bool = False

    def pack(self, value: Any) -> torch.Tensor:
        """`value` as one tensor, the batch first."""
        if self.parts:
            return torch.cat([part.flatten(1) for part in value], dim=1)
        packed: torch.Tensor = (
            value.unsqueeze(0) if self.batch is None else value.movedim(self.batch, 0)
        )
        return packed

    def unpack(self, packed: torch.Tensor, like: Any) -> Any:
        """`packed` in the form of `like`."""
        if self.parts:
            sizes = [part[0].numel() for part in like]
            flat = torch.split(packed, sizes, dim=1)
            return tuple(part.reshape(old.shape) for part, old in zip(flat, like, strict=True))
        return packed.squeeze(0) if self.batch is None else packed.movedim(0, self.batch)


class BlockArguments:
    """The arguments of one call of a block, by position or name."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args = args
        self.kwargs = kwargs

    def __getitem__(self, key: tuple[int, str]) -> Any:
        position, name = key
        return self.kwargs[name] if name in self.kwargs else self.args[position]

    def stream(self, stream: Stream) -> Any:
        return self[stream.position, stream.name]


@dataclass(frozen=True)
class BlockList:
    """One list of blocks in the stack.

    path: dotted name of the list in the transformer. takes: the streams a block is given.
    returns: the roles it returns, in order; a single one is returned bare, several as a tuple.
    checked: whether that a block returns its image stream, bare and in the same shape, is only
    supposed: each block's output is looked at before anything is skipped.
    """

    path: str
    takes: tuple[Stream, ...]
    returns: tuple[Role, ...]
    checked: bool = False

    def image_stream(self) -> Stream:
        return next(stream for stream in self.takes if stream.role is not Role.TEXT)


class Passed(Enum):
    """What a block beside the stack gives when it is passed over.

    ZERO: nothing to add, in the shape of its first argument. ZERO_AND_STREAM: nothing to add,
    and its own stream, which is its first argument.
    """

    ZERO = "zero"
    ZERO_AND_STREAM = "zero and stream"


@dataclass(frozen=True)
class SideList:
    """Blocks beside the stack whose output is only added to it, passed over on a skip.

    path: as in BlockList; a model without that list has none of them. runs: names of those which
    run all the same, because what they give is added after the last block of the stack, where
    the residual does not contain it. stream: name of their first parameter. gives: what a block
    gives instead of running.
    """

    path: str
    runs: Callable[[Any], Collection[str]]
    stream: str
    gives: Passed


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


def _image_part(tensor: torch.Tensor, role: Role, tokens: int) -> torch.Tensor:
    if role is Role.TEXT_IMAGE:
        return tensor[:, -tokens:]
    if role is Role.IMAGE_TEXT:
        return tensor[:, :tokens]
    return tensor


def _with_image(joined: torch.Tensor, role: Role, image: torch.Tensor) -> torch.Tensor:
    tokens = image.shape[1]
    if role is Role.TEXT_IMAGE:
        return torch.cat((joined[:, :-tokens], image), dim=1)
    if role is Role.IMAGE_TEXT:
        return torch.cat((image, joined[:, tokens:]), dim=1)
    return image


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
        self.__dict__["first"] = first
        self.__dict__["last"] = last

    @outside_compiled_regions
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        arguments = BlockArguments(args, kwargs)
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
        given = arguments.stream(self.spec.image_stream())
        if not isinstance(out, torch.Tensor) or out.shape != given.shape:
            kind = type(self.block).__name__
            raise TypeError(f"{kind} does not return one tensor in the shape of its input")

    @reading()
    def _entry(self, arguments: BlockArguments) -> torch.Tensor:
        if self.stack.call.image_tokens:
            raise RuntimeError("its blocks run more than once within one call")
        stream = self.spec.image_stream()
        packed = stream.pack(arguments.stream(stream))
        tokens = self.stack.call.lead_tokens
        return _image_part(packed, stream.role, tokens) if tokens else packed

    @reading()
    def _passed(self, arguments: BlockArguments) -> Any:
        spec = self.spec
        by_role = {stream.role: arguments.stream(stream) for stream in spec.takes}
        stream = spec.image_stream()
        if self.last:
            value, image = by_role[stream.role], self.stack.call.prediction()
            joined = _with_image(stream.pack(value), stream.role, image)
            by_role[stream.role] = stream.unpack(joined, value)
        elif self.first and self.stack.sides_run:
            value = by_role[stream.role]
            by_role[stream.role] = stream.unpack(stream.pack(value).clone(), value)
        passed = tuple(by_role[role] for role in spec.returns)
        return passed if len(passed) > 1 else passed[0]

    @reading()
    def _image_of(self, out: Any, tokens: int) -> torch.Tensor:
        stream = self.spec.image_stream()
        returns = self.spec.returns
        value = out[returns.index(stream.role)] if len(returns) > 1 else out
        return _image_part(stream.pack(value), stream.role, tokens)


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
