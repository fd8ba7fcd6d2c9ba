"""An entry for transformers that the table does not know, where their shape leaves no doubt."""

from __future__ import annotations

import inspect

from torch import nn

from .spec import Family
from .streams import BlockList, Role, Stream

LIST_NAMES = ("blocks", "transformer_blocks", "layers", "single_blocks")
"""Names that lists of blocks have; `single_blocks` follow others on the joined streams."""
IMAGE_NAMES = ("x", "h", "img", "image", "image_tokens", "hidden_states", "latent", "tokens")
"""Names that a block's first parameter has where it is the stream of tokens."""
FEWEST_BLOCKS = 4


def generic_family(transformer: nn.Module) -> Family | None:
    """An entry for `transformer`, or None where its blocks are not plainly one stack.

    There must be exactly one list of at least four blocks of one class, under a usual name, whose
    first parameter is the stream. That each of them returns the stream and nothing else is
    checked while the model runs. The indicator is the change of the stack's input.
    """
    stacks = [
        (name, box)
        for name, box in transformer.named_children()
        if name in LIST_NAMES and _is_stack(box)
    ]
    if len(stacks) != 1:
        return None
    name, box = stacks[0]
    parameter = _first_parameter(next(box.children()))
    if parameter not in IMAGE_NAMES:
        return None
    return Family(
        id="generic",
        name=f"{type(transformer).__name__} (family not recognised: generic indicator)",
        classes=(),
        block_lists=(
            BlockList(
                name,
                inputs=(Stream(Role.IMAGE, 0, parameter),),
                outputs=(Role.IMAGE,),
                verify_outputs=True,
            ),
        ),
        default_profile=lambda transformer: "generic",
    )


def _is_stack(box: nn.Module) -> bool:
    kinds = {type(block) for block in box.children()}
    return isinstance(box, nn.ModuleList) and len(box) >= FEWEST_BLOCKS and len(kinds) == 1


def _first_parameter(block: nn.Module) -> str | None:
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(block.forward).parameters.values()
    return next((p.name for p in parameters if p.kind in named), None)
