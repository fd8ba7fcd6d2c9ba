"""A generic family for transformers that no family describes, if their structure is clear."""

from __future__ import annotations

import inspect

from torch import nn

from .spec import Family
from .streams import BlockList, Role, Stream

BLOCK_LIST_NAMES = ("blocks", "transformer_blocks", "layers", "single_blocks")
"""Usual names of a transformer's list of blocks."""
IMAGE_PARAMETERS = ("x", "h", "img", "image", "image_tokens", "hidden_states", "latent", "tokens")
"""Usual names of a block's first parameter, if that is the stream of image tokens."""
MIN_BLOCKS = 4


def generic_family(transformer: nn.Module) -> Family | None:
    """A family made for `transformer`.

    Its indicator is the change of the block stack's input. That each block returns the stream of
    tokens and nothing else is checked while the model runs.

    Returns:
        None unless exactly one child of `transformer` is a list with a usual name of at least
        `MIN_BLOCKS` blocks of one class, whose first parameter has a usual name.
    """
    stacks = [
        (name, child)
        for name, child in transformer.named_children()
        if name in BLOCK_LIST_NAMES and _is_block_stack(child)
    ]
    if len(stacks) != 1:
        return None
    name, blocks = stacks[0]
    parameter = _first_parameter(next(blocks.children()))
    if parameter not in IMAGE_PARAMETERS:
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


def _is_block_stack(module: nn.Module) -> bool:
    if not isinstance(module, nn.ModuleList) or len(module) < MIN_BLOCKS:
        return False
    return len({type(block) for block in module}) == 1


def _first_parameter(block: nn.Module) -> str | None:
    """Name of the first positional parameter of the block's `forward`."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(block.forward).parameters.values()
    return next((p.name for p in parameters if p.kind in positional), None)
