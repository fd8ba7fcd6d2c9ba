"""How the first block's modulated input is read in each family, by calling the block's own layers.

Each function takes (first block, its arguments) and returns the tokens that enter the first
attention, [rows, tokens, width]: `m_t` of arXiv 2411.19108, section 3.3.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..blocks import BlockArguments


def _modulated(normed: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    scaled = normed * (1 + scale)
    return scaled if shift is None else scaled + shift


def joint_block(block: Any, arguments: BlockArguments) -> Tensor:
    """SD3: `x_block.norm1` and the shift and scale of its adaLN (`mmdit.py`)."""
    x, c = arguments[1, "x"], arguments[2, "c"]
    x_block = block.x_block
    modulation = x_block.adaLN_modulation(c).unsqueeze(1)
    if x_block.scale_mod_only:
        return _modulated(x_block.norm1(x), modulation[..., : x.shape[-1]])
    shift, scale = modulation[..., : 2 * x.shape[-1]].chunk(2, dim=-1)
    return _modulated(x_block.norm1(x), scale, shift)


def flux_double_block(block: Any, arguments: BlockArguments) -> Tensor:
    """FLUX: `img_norm1` with the image modulation of `vec` (`flux/layers.py`).

    FLUX.2 computes its modulation once for all blocks and hands it over in place of `vec`.
    """
    img, vec = arguments[0, "img"], arguments[2, "vec"]
    first = block.img_mod(vec)[0] if block.modulation else vec[0][0]
    return _modulated(block.img_norm1(img), first.scale, first.shift)


def qwen_image_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Qwen-Image: `img_norm1` with the first half of `img_mod(temb)` (`qwen_image/model.py`)."""
    img, temb = arguments[0, "hidden_states"], arguments[3, "temb"]
    first = block.img_mod(temb).chunk(2, dim=-1)[0].unsqueeze(1)
    shift, scale, _ = first.chunk(3, dim=-1)
    return _modulated(block.img_norm1(img), scale, shift)
