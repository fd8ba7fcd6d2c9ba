"""How much the output of a model's block stack changes from step to step, beside large models.

    python -m benchmarks.roughness --pairs 6 --write

A step whose change is small can be predicted from the steps before. Of each ground (`grounds`) the
relative L1 change sum|now - before| / sum|before| of what the stack gives for the image is taken,
of the branch of guidance that changes more, on captions that settings were tuned on; a step of the
table is the mean over the pairs. Of a UNet it is what the last of its blocks gives. Two curves of
large models stand beside them, so that it can be seen how near a ground is to what people sample.
With `--models`, the page keeps its rows of the other models.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.command import comfyui, options, parsed, with_rows_of
from benchmarks.grounds import GROUNDS, Ground
from benchmarks.sampling import sample
from benchmarks.testbeds import COMFYUI, Pair, Testbed, load
from teacache.engine.regions import relative_change
from teacache.errors import UserError
from teacache.families.registry import find_family
from teacache.families.streams import BlockArguments, BlockList, Role, image_part
from teacache.files import write_atomically

RESULTS = Path(__file__).parent / "results" / "roughness.md"
SOURCE = "calibration records of mlx-teacache"
PUBLISHED = {
    "Qwen-Image, 20 steps, guidance 4": (
        "2.1 .60 .57 .27 .25 .18",
        ".06 to .14",
        ".22 .29 .32 .56",
    ),
    "FLUX.1 Krea, 28 steps, guidance 4.5": (".95 .85 .49 .33 .27 .19", "near .17", ".41"),
}
"""First steps, middle, last steps, as they were published."""
FIRST, LAST = 6, 4
"""How many steps are shown one by one."""
MODELS = tuple(dict.fromkeys(ground.model for ground in GROUNDS))


class StackOutputs:
    """The image that the block stack of a ComfyUI model gives at each call, [rows, tokens, width].

    Args:
        transformer: the model, of a known family.
    """

    def __init__(self, transformer: Any) -> None:
        family = find_family(transformer)
        assert family is not None
        self._lists = family.block_lists
        self._ends = [
            list(transformer.get_submodule(blocks.path).children()) for blocks in self._lists
        ]
        self._tokens = 0
        self.taken: list[Tensor] = []

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """The outputs of the calls within."""
        self.taken = []
        first, last = self._ends[0][0], self._ends[-1][-1]
        hooks = [
            first.register_forward_pre_hook(self._begin, with_kwargs=True),
            last.register_forward_hook(self._end),
        ]
        try:
            yield self.taken
        finally:
            for hook in hooks:
                hook.remove()

    def _begin(self, block: Any, args: Any, kwargs: Any) -> None:
        stream = self._lists[0].image_stream()
        self._tokens = stream.pack(BlockArguments(args, kwargs).stream(stream)).shape[1]

    def _end(self, block: Any, args: Any, out: Any) -> None:
        self.taken.append(_image_of(self._lists[-1], out, self._tokens).clone())


def _image_of(blocks: BlockList, out: Any, tokens: int) -> Tensor:
    stream = blocks.image_stream()
    value = out[blocks.outputs.index(stream.role)] if len(blocks.outputs) > 1 else out
    packed = stream.pack(value)
    return packed if stream.role is Role.IMAGE else image_part(packed, stream.role, tokens)


@contextmanager
def unet_outputs(unet: Any) -> Iterator[list[Tensor]]:
    """What the last block of ComfyUI's UNet gives at each call within, [rows, channels, h, w]."""
    taken: list[Tensor] = []
    hook = unet.out.register_forward_pre_hook(lambda _, args: taken.append(args[0].clone()))
    try:
        yield taken
    finally:
        hook.remove()


def recorded(testbed: Testbed) -> AbstractContextManager[list[Tensor]]:
    """The outputs of the testbed's blocks in ComfyUI, of the calls within."""
    model = testbed.patcher.model.diffusion_model
    return StackOutputs(model).recorded() if testbed.ground.has_blocks else unet_outputs(model)


def changes(outputs: Sequence[Tensor]) -> list[float]:
    """The change of each output against the one before, of the branch that changes more."""
    return [float(relative_change(now, before).max()) for before, now in pairwise(outputs)]


def measure(testbed: Testbed, ground: Ground, pairs: Sequence[Pair]) -> list[float]:
    """The mean change at each step after the first one."""
    testbed = testbed.on(ground)
    sigmas = testbed.sigmas(ground.steps)
    curves = []
    for pair in pairs:
        with recorded(testbed) as outputs:
            sample(testbed, COMFYUI, testbed.patcher, [pair], sigmas, sampler=(ground.sampler, {}))
        curves.append(changes(outputs))
    return [statistics.mean(step) for step in zip(*curves, strict=True)]


def row(name: str, curve: Sequence[float]) -> list[str]:
    """A curve as the published ones are told: its first steps, its middle, its last ones."""
    middle = curve[FIRST:-LAST]
    shown = f"{short(min(middle))} to {short(max(middle))}" if middle else "-"
    ends = (curve[:FIRST], curve[-LAST:])
    first, last = (" ".join(map(short, end)) for end in ends)
    return [name, first, shown, last]


def short(value: float) -> str:
    """Two significant digits, without a zero before the point."""
    return f"{value:.2f}".removeprefix("0") if value < 1 else f"{value:.1f}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| | first steps | middle | last steps |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def rows_of(grounds: Sequence[Ground], count: int) -> Iterator[list[str]]:
    """The row of each ground, as soon as it is measured.

    Args:
        count: pairs of each ground.
    """
    testbeds: dict[str, Testbed] = {}
    for ground in grounds:
        try:
            testbed = testbeds.get(ground.model) or load(ground.model)
        except UserError as missing:
            yield [ground.heading, f"not measured: {missing}", "", ""]
            continue
        testbeds[ground.model] = testbed
        curve = measure(testbed, ground, testbed.tuning_pairs(count))
        yield row(ground.heading, curve)


def publish(page: str, file: Path | None) -> None:
    """Write `page` to `file`, or print it where there is none."""
    if file is None:
        print(f"\n{page}")
    else:
        write_atomically(file, lambda path: path.write_text(page, encoding="utf-8"))


def main() -> None:
    args = parsed(options(__doc__, RESULTS, 6, MODELS))
    command = f"python -m benchmarks.roughness --pairs {args.pairs} --write"
    rows: list[list[str]] = []
    with comfyui(args):
        grounds = [each for each in GROUNDS if each.model in args.models]
        for measured in rows_of(grounds, args.pairs):
            rows.append(measured)
            print("  ".join(measured), flush=True)
    if args.write and set(args.models) < set(MODELS):
        rows = with_rows_of(RESULTS, command, rows)
    published = [[f"**{name}**", *shown] for name, shown in PUBLISHED.items()]
    page = (
        "# How rough the grounds are\n\n"
        f"`{command}`: relative L1 change of the "
        "block stack's output\nfrom step to step, of the branch of guidance that changes more, "
        f"mean of {args.pairs} pairs; the first\nfigure is the second step's. "
        f"Of a UNet: the last block's output. In bold: {SOURCE}.\n\n"
        f"{table([*published, *rows])}\n"
    )
    publish(page, RESULTS if args.write else None)


if __name__ == "__main__":
    main()
