"""As `modulation`, for the blocks of diffusers' transformers (0.42, `models/transformers`)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..comfyui.modulation import modulate
from ..streams import BlockArguments


def ada_norm_block(block: Any, arguments: BlockArguments) -> Tensor:
    """SD3, FLUX, AuraFlow, Mochi: what `norm1(hidden_states, emb=temb)` gives first."""
    modulated: Tensor = block.norm1(arguments[0, "hidden_states"], emb=arguments[2, "temb"])[0]
    return modulated


def chroma_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Chroma: the same with the image's half of the modulation (`transformer_chroma.py`)."""
    image = arguments[2, "temb"][:, :6]
    modulated: Tensor = block.norm1(arguments[0, "hidden_states"], emb=image)[0]
    return modulated


def flux2_block(block: Any, arguments: BlockArguments) -> Tensor:
    """FLUX.2: `norm1` with the shared modulation's first shift and scale."""
    modulation = arguments[2, "temb_mod_img"]
    if modulation.ndim == 2:
        modulation = modulation.unsqueeze(1)
    shift, scale = modulation.chunk(6, dim=-1)[:2]
    return modulate(block.norm1(arguments[0, "hidden_states"]), scale, shift)


def lumina2_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Lumina 2: what `norm1(hidden_states, temb)` gives first (`transformer_lumina2.py`)."""
    modulated: Tensor = block.norm1(arguments[0, "hidden_states"], arguments[3, "temb"])[0]
    return modulated


def z_image_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Z-Image: `attention_norm1` with the scale of the adaLN; with reference images, that of
    the noisy tokens (`transformer_z_image.py`)."""
    x, adaln = arguments[0, "x"], arguments[3, "adaln_input"]
    if arguments[4, "noise_mask"] is not None:
        adaln = arguments[5, "adaln_noisy"]
    scale = block.adaLN_modulation(adaln).unsqueeze(1).chunk(4, dim=2)[0]
    return modulate(block.attention_norm1(x), scale)


def hunyuan_video_block(block: Any, arguments: BlockArguments) -> Tensor:
    """HunyuanVideo: `norm1`; from an image, the first frame's tokens have a modulation of their
    own (`transformer_hunyuan_video.py`)."""
    x, temb = arguments[0, "hidden_states"], arguments[2, "temb"]
    replaced = arguments[5, "token_replace_emb"]
    first_frame: dict[str, Any] = {}
    if replaced is not None:
        tokens = arguments[6, "num_tokens"]
        first_frame = {"token_replace_emb": replaced, "first_frame_num_tokens": tokens}
    modulated: Tensor = block.norm1(x, emb=temb, **first_frame)[0]
    return modulated


def ltx_block(block: Any, arguments: BlockArguments) -> Tensor:
    """LTX-Video: `norm1` with the table's first shift and scale (`transformer_ltx.py`)."""
    x, temb = arguments[0, "hidden_states"], arguments[2, "temb"]
    table = block.scale_shift_table
    rows = temb.reshape(x.shape[0], temb.shape[1], table.shape[0], -1)
    shift, scale = (table[:2].to(rows) + rows[:, :, :2]).unbind(dim=2)
    return modulate(block.norm1(x), scale, shift)


def cosmos_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Cosmos: what `norm1` gives first, with the position of the block's own (Cosmos 1)."""
    x, position = arguments[0, "hidden_states"], arguments[5, "extra_pos_emb"]
    if position is not None:
        x = x + position
    modulated: Tensor = block.norm1(x, arguments[2, "embedded_timestep"], arguments[3, "temb"])[0]
    return modulated


def table_block(block: Any, arguments: BlockArguments) -> Tensor:
    """PixArt, Sana: `norm1` with the block's table plus the timestep's projection."""
    x, timestep = arguments[0, "hidden_states"], arguments[4, "timestep"]
    table = block.scale_shift_table[None].to(timestep)
    shift, scale = (table + timestep.reshape(x.shape[0], 6, -1)).chunk(6, dim=1)[:2]
    return modulate(block.norm1(x), scale, shift)
