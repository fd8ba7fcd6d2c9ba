"""A transformer of a few lines, and callbacks, for the proxies of its blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from teacache.engine.blocks import BlockStack
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
        self.image_tokens = 0
        self.events: list[tuple[str, Any]] = []
        self.mismatches: list[FamilyMismatch] = []

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
