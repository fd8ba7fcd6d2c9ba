"""The block stack of a transformer, and the stand-ins that take its slots during a call.

Slots of `ModuleList`s (or `ModuleDict`s) are swapped in place for the duration of one call of
the model and restored in `finally`: block indices, lengths and whatever other code does between
the blocks stay as they are, and no forward is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


@dataclass(frozen=True)
class Stream:
    """Where a block takes a stream: its role, position and parameter name."""

    role: Role
    position: int
    name: str


class BlockArguments:
    """The arguments of one call of a block, by position or name."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args = args
        self.kwargs = kwargs

    def __getitem__(self, key: tuple[int, str]) -> Any:
        position, name = key
        return self.kwargs[name] if name in self.kwargs else self.args[position]

    def stream(self, stream: Stream) -> torch.Tensor:
        value: torch.Tensor = self[stream.position, stream.name]
        return value


@dataclass(frozen=True)
class BlockList:
    """One list of blocks in the stack.

    path: dotted name of the list in the transformer. takes: the streams a block is given.
    returns: the roles it returns, in order; a single one is returned bare, several as a tuple.
    """

    path: str
    takes: tuple[Stream, ...]
    returns: tuple[Role, ...]

    def image_stream(self) -> Stream:
        return next(stream for stream in self.takes if stream.role is not Role.TEXT)


@dataclass(frozen=True)
class SideList:
    """Blocks beside the stack whose output only feeds it, passed over on a skip.

    Each is called with its own stream first and returns (what it adds to the stack, its stream).
    `feeds_end` says whether the output of one of them is added after the last block of the
    stack; then they run, because the residual does not contain it.
    """

    path: str
    feeds_end: Callable[[Any], bool]


class StackCall(Protocol):
    """What decides and remembers during one call of the model."""

    @property
    def skipping(self) -> bool: ...

    def enter(self, block: nn.Module, arguments: BlockArguments, image: torch.Tensor) -> None:
        """The first block is about to run on `image` [rows, tokens, width]: decide."""

    def leave(self, image: torch.Tensor) -> None:
        """The last block has computed `image`."""

    def prediction(self) -> torch.Tensor:
        """What the last block returns for the image on a skip."""

    @property
    def image_tokens(self) -> int:
        """Tokens of the image stream at the entry of the stack."""


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


def _outside_compiled_regions(forward: _Forward) -> _Forward:
    """The decision stays out of torch.compile; the blocks called from it are still compiled."""
    wrapped: _Forward = torch.compiler.disable(forward, recursive=False)  # type: ignore[no-untyped-call]
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

    @_outside_compiled_regions
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call, spec = self.stack.call, self.spec
        if self.first:
            arguments = BlockArguments(args, kwargs)
            call.enter(self.block, arguments, arguments.stream(spec.image_stream()))
        if not call.skipping:
            out = self.block(*args, **kwargs)
            if self.last and call.image_tokens:
                call.leave(self._image_of(out, call.image_tokens))
            return out
        arguments = BlockArguments(args, kwargs)
        by_role = {stream.role: arguments.stream(stream) for stream in spec.takes}
        if self.last:
            role = spec.image_stream().role
            by_role[role] = _with_image(by_role[role], role, call.prediction())
        passed = tuple(by_role[role] for role in spec.returns)
        return passed if len(passed) > 1 else passed[0]

    def _image_of(self, out: Any, tokens: int) -> torch.Tensor:
        role = self.spec.image_stream().role
        returns = self.spec.returns
        tensor = out[returns.index(role)] if len(returns) > 1 else out
        return _image_part(tensor, role, tokens)


class _SideStandIn(_StandIn):
    @_outside_compiled_regions
    def forward(self, stream: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.stack.call.skipping:
            return torch.zeros((), dtype=stream.dtype, device=stream.device), stream
        return self.block(stream, *args, **kwargs)


class BlockStack:
    """The slots of a transformer's block lists, in the order in which they run.

    Raises LookupError when the transformer lacks one of the lists or a list is empty.
    """

    def __init__(
        self, transformer: nn.Module, lists: tuple[BlockList, ...], sides: tuple[SideList, ...] = ()
    ) -> None:
        self.call: StackCall | None = None
        self._slots: list[tuple[nn.Module, str, _StandIn]] = []
        containers = [_container(transformer, blocks.path) for blocks in lists]
        counted = [
            (blocks, box)
            for blocks, box in zip(lists, containers, strict=True)
            if len(box._modules)
        ]
        if not counted:
            raise LookupError(f"{type(transformer).__name__} has no blocks")
        for index, (blocks, box) in enumerate(counted):
            names = list(box._modules)
            for place, name in enumerate(names):
                first = index == 0 and place == 0
                last = index == len(counted) - 1 and place == len(names) - 1
                self._slots.append((box, name, _StackStandIn(self, blocks, first, last)))
        for side in sides:
            if not side.feeds_end(transformer):
                box = _container(transformer, side.path)
                self._slots += [(box, name, _SideStandIn(self)) for name in box._modules]

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
