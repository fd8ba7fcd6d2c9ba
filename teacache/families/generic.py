"""A family for models that no entry describes: with their blocks, if the structure is clear."""

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
GENERIC = "generic"
"""Id of the families that are made for a model, and name of their profile."""


def generic_family(transformer: nn.Module) -> Family:
    """A family made for `transformer`.

    Where exactly one child of it is a list with a usual name of at least `MIN_BLOCKS` blocks of one
    class, whose first parameter has a usual name, that list is the block stack. Its indicator is
    then the change of the block stack's input; that each block returns the stream of tokens and
    nothing else is checked while the model runs. Any other model is `forecast_only_family`.
    """
    name = type(transformer).__name__
    stacks = [
        (name, child)
        for name, child in transformer.named_children()
        if name in BLOCK_LIST_NAMES and _is_block_stack(child)
    ]
    if len(stacks) != 1:
        return forecast_only_family(name)
    path, blocks = stacks[0]
    parameter = _first_parameter(next(blocks.children()))
    if parameter not in IMAGE_PARAMETERS:
        return forecast_only_family(name)
    return Family(
        id=GENERIC,
        name=f"{name} (family not recognised: generic indicator)",
        classes=(),
        block_lists=(
            BlockList(
                path,
                inputs=(Stream(Role.IMAGE, 0, parameter),),
                outputs=(Role.IMAGE,),
                verify_outputs=True,
            ),
        ),
        default_profile=lambda transformer: GENERIC,
    )


def forecast_only_family(name: str) -> Family:
    """A family for a model of which only the predictions can be used, called `name`."""
    return Family(
        id=GENERIC,
        name=name,
        classes=(),
        block_lists=(),
        default_profile=lambda transformer: GENERIC,
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
