"""The modulated input of the first block in each family, computed by the block's own layers.

Each function takes the first block and its arguments and returns the tokens that enter the first
attention, [rows, tokens, width]: TeaCache's timestep embedding modulated noisy input (arXiv
2411.19108, section 3.3). If reference images are modulated for timestep zero, all tokens are
modulated for the current timestep here. Docstrings name the file under `comfy/ldm`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..streams import BlockArguments


def modulate(normed: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    """adaLN: normed * (1 + scale) + shift."""
    return normed * (1 + scale) if shift is None else torch.addcmul(shift, normed, 1 + scale)


def joint_block(block: Any, arguments: BlockArguments) -> Tensor:
    """SD3: `x_block.norm1` and the shift and scale of its adaLN (`mmdit.py`)."""
    x, c = arguments[1, "x"], arguments[2, "c"]
    x_block = block.x_block
    modulation = x_block.adaLN_modulation(c).unsqueeze(1)
    if x_block.scale_mod_only:
        return modulate(x_block.norm1(x), modulation[..., : x.shape[-1]])
    shift, scale = modulation[..., : 2 * x.shape[-1]].chunk(2, dim=-1)
    return modulate(x_block.norm1(x), scale, shift)


def flux_double_block(block: Any, arguments: BlockArguments) -> Tensor:
    """FLUX: `img_norm1` with the image modulation of `vec` (`flux/layers.py`).

    FLUX.2 and Chroma pass computed modulations instead of `vec`: FLUX.2 the same to all blocks,
    Chroma its own to each.
    """
    img, vec = arguments[0, "img"], arguments[2, "vec"]
    first = block.img_mod(vec)[0] if block.modulation else vec[0][0]
    return modulate(block.img_norm1(img), first.scale[:, :1], first.shift[:, :1])


def qwen_image_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Qwen-Image: `img_norm1` with the first half of `img_mod(temb)` (`qwen_image/model.py`)."""
    return _first_half_of_img_mod(block, arguments[0, "hidden_states"], arguments[3, "temb"])


def lens_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Lens: as Qwen-Image, with `temb` as third argument (`lens/model.py`)."""
    return _first_half_of_img_mod(block, arguments[0, "hidden_states"], arguments[2, "temb"])


def _first_half_of_img_mod(block: Any, img: Tensor, temb: Tensor) -> Tensor:
    first = block.img_mod(temb[: img.shape[0]]).chunk(2, dim=-1)[0].unsqueeze(1)
    shift, scale, _ = first.chunk(3, dim=-1)
    return modulate(block.img_norm1(img), scale, shift)


def lumina_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Lumina 2, Z-Image: `attention_norm1` with the scale of the adaLN (`lumina/model.py`).

    With reference images the rows of timestep zero come before those of this timestep.
    """
    x, adaln = arguments[0, "x"], arguments[3, "adaln_input"]
    scale = block.adaLN_modulation(adaln[-x.shape[0] :]).chunk(4, dim=1)[0].unsqueeze(1)
    return modulate(block.attention_norm1(x), scale)


def omnigen_block(block: Any, arguments: BlockArguments) -> Tensor:
    """OmniGen2: first output of `norm1(hidden_states, temb)` (`omnigen/omnigen2.py`)."""
    modulated: Tensor = block.norm1(arguments[0, "hidden_states"], arguments[3, "temb"])[0]
    return modulated


def boogu_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Boogu: first output of `img_norm1(img, temb)` (`boogu/model.py`)."""
    modulated: Tensor = block.img_norm1(arguments[0, "img_hidden_states"], arguments[4, "temb"])[0]
    return modulated


def aura_block(block: Any, arguments: BlockArguments) -> Tensor:
    """AuraFlow: `normX1` with the shift and scale of `modX` (`aura/mmdit.py`)."""
    x, condition = arguments[1, "x"], arguments[2, "global_cond"]
    shift, scale = block.modX(condition).unsqueeze(1).chunk(6, dim=-1)[:2]
    return modulate(block.normX1(x), scale, shift)


def pixart_block(block: Any, arguments: BlockArguments) -> Tensor:
    """PixArt: `norm1` modulated by `scale_shift_table + t` (`pixart/pixartms.py`)."""
    return _table_modulation(block, block.norm1, arguments[0, "x"], arguments[2, "t"])


def ace_block(block: Any, arguments: BlockArguments) -> Tensor:
    """ACE-Step: `norm1` modulated by `scale_shift_table + temb` (`ace/attention.py`)."""
    return _table_modulation(
        block, block.norm1, arguments[0, "hidden_states"], arguments[6, "temb"]
    )


def ace15_block(block: Any, arguments: BlockArguments) -> Tensor:
    """ACE-Step 1.5: `self_attn_norm` modulated in the same way (`ace/ace_step15.py`)."""
    x, temb = arguments[0, "hidden_states"], arguments[1, "temb"]
    return _table_modulation(block, block.self_attn_norm, x, temb)


def _table_modulation(block: Any, norm: Any, x: Tensor, t: Tensor) -> Tensor:
    """`norm(x)` with the first shift and scale of `scale_shift_table + t`, 6 rows."""
    table = block.scale_shift_table.reshape(1, 6, -1).to(t)
    shift, scale = (table + t.reshape(x.shape[0], 6, -1)).chunk(6, dim=1)[:2]
    return modulate(norm(x), scale, shift)


def hunyuan_dit_block(block: Any, arguments: BlockArguments) -> Tensor:
    """HunyuanDiT: `norm1` with the shift of `default_modulation` (`hydit/models.py`)."""
    shift: Tensor = block.default_modulation(arguments[1, "c"]).unsqueeze(1)
    modulated: Tensor = block.norm1(arguments[0, "x"]) + shift
    return modulated


def stable_audio_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Stable Audio: `pre_norm`; the timestep is a token of the sequence (`audio/dit.py`)."""
    normed: Tensor = block.pre_norm(arguments[0, "x"])
    return normed


def kandinsky_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Kandinsky 5: `self_attention_norm` with the first shift and scale of
    `visual_modulation` (`kandinsky5/model.py`)."""
    x, time_embed = arguments[0, "visual_embed"], arguments[2, "time_embed"]
    shift, scale = block.visual_modulation(time_embed).unsqueeze(1).chunk(9, dim=-1)[:2]
    return modulate(block.self_attention_norm(x), scale, shift)


def krea2_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Krea 2: `prenorm` with the first scale and shift of `mod(vec)` (`krea2/model.py`)."""
    x, vec = arguments[0, "x"], arguments[1, "vec"]
    scale, shift = block.mod(vec[: x.shape[0]])[:2]
    return modulate(block.prenorm(x), scale, shift)


def ideogram_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Ideogram 4: `attention_norm1` with the first scale (`ideogram4/model.py`)."""
    scale = block.adaln_modulation(arguments[3, "adaln_input"]).chunk(4, dim=-1)[0]
    return modulate(block.attention_norm1(arguments[0, "x"]), scale)


def ernie_block(block: Any, arguments: BlockArguments) -> Tensor:
    """ERNIE-Image: `adaLN_sa_ln` with the shared shift and scale (`ernie/model.py`)."""
    shift, scale = arguments[2, "temb"][:2]
    return modulate(block.adaLN_sa_ln(arguments[0, "x"]), scale, shift)


def joy_block(block: Any, arguments: BlockArguments) -> Tensor:
    """JoyImage: `img_norm1` with the first shift and scale of `img_mod` (`joyimage/model.py`)."""
    img, temb = arguments[0, "hidden_states"], arguments[2, "temb"]
    shift, scale = block.img_mod(temb)[:2]
    return modulate(block.img_norm1(img), scale.unsqueeze(1), shift.unsqueeze(1))


def pixeldit_block(block: Any, arguments: BlockArguments) -> Tensor:
    """PixelDiT: `norm_x1` with the first shift and scale (`pixeldit/model.py`)."""
    shift, scale = block.adaLN_modulation_img(arguments[2, "c"]).chunk(6, dim=-1)[:2]
    return modulate(block.norm_x1(arguments[0, "x"]), scale, shift)


def qwen_image_21_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Qwen-Image 2.1: `img_norm1` of the image's tokens with their scale, which all blocks share
    (`qwen_image21/model.py`)."""
    x, (_, scale) = arguments[0, "x"], arguments[1, "mod"][0]
    return modulate(block.img_norm1(x[:, arguments[4, "prefix_len"] :]), scale)


def sensenova_block(block: Any, arguments: BlockArguments) -> Tensor:
    """SenseNova U1.5: `input_layernorm_mot_gen`; the timestep is added to the tokens before the
    blocks (`sensenova/model.py`)."""
    normed: Tensor = block.input_layernorm_mot_gen(arguments[0, "image"])
    return normed
