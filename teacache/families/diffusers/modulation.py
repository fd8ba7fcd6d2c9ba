"""The modulated input of the first block in diffusers 0.42; see `comfyui.modulation`.

Docstrings name the file under `diffusers/models/transformers`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..comfyui.modulation import modulate
from ..streams import BlockArguments


def ada_norm_block(block: Any, arguments: BlockArguments) -> Tensor:
    """SD3, FLUX, AuraFlow, Mochi: first output of `norm1(hidden_states, emb=temb)`."""
    modulated: Tensor = block.norm1(arguments[0, "hidden_states"], emb=arguments[2, "temb"])[0]
    return modulated


def chroma_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Chroma: first output of `norm1` with the image half of `temb` (`transformer_chroma.py`)."""
    image = arguments[2, "temb"][:, :6]
    modulated: Tensor = block.norm1(arguments[0, "hidden_states"], emb=image)[0]
    return modulated


def flux2_block(block: Any, arguments: BlockArguments) -> Tensor:
    """FLUX.2: `norm1` with the first shift and scale of the modulation that all blocks share
    (`transformer_flux2.py`)."""
    modulation = arguments[2, "temb_mod_img"]
    if modulation.ndim == 2:
        modulation = modulation.unsqueeze(1)
    shift, scale = modulation.chunk(6, dim=-1)[:2]
    return modulate(block.norm1(arguments[0, "hidden_states"]), scale, shift)


def lumina2_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Lumina 2: first output of `norm1(hidden_states, temb)` (`transformer_lumina2.py`)."""
    modulated: Tensor = block.norm1(arguments[0, "hidden_states"], arguments[3, "temb"])[0]
    return modulated


def z_image_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Z-Image: `attention_norm1` with the scale of the adaLN (`transformer_z_image.py`).

    With reference images, all tokens get the scale of the noisy ones.
    """
    x, adaln = arguments[0, "x"], arguments[3, "adaln_input"]
    if arguments[4, "noise_mask"] is not None:
        adaln = arguments[5, "adaln_noisy"]
    scale = block.adaLN_modulation(adaln).unsqueeze(1).chunk(4, dim=2)[0]
    return modulate(block.attention_norm1(x), scale)


def hunyuan_video_block(block: Any, arguments: BlockArguments) -> Tensor:
    """HunyuanVideo: first output of `norm1` (`transformer_hunyuan_video.py`).

    If an image guides the video, the tokens of the first frame have their own modulation.
    """
    x, temb = arguments[0, "hidden_states"], arguments[2, "temb"]
    replaced = arguments[5, "token_replace_emb"]
    first_frame: dict[str, Any] = {}
    if replaced is not None:
        tokens = arguments[6, "num_tokens"]
        first_frame = {"token_replace_emb": replaced, "first_frame_num_tokens": tokens}
    modulated: Tensor = block.norm1(x, emb=temb, **first_frame)[0]
    return modulated


def ltx_block(block: Any, arguments: BlockArguments) -> Tensor:
    """LTX-Video: `norm1` with the first shift and scale of `scale_shift_table + temb`
    (`transformer_ltx.py`)."""
    x, temb = arguments[0, "hidden_states"], arguments[2, "temb"]
    table = block.scale_shift_table
    rows = temb.reshape(x.shape[0], temb.shape[1], table.shape[0], -1)
    shift, scale = (table[:2].to(rows) + rows[:, :, :2]).unbind(dim=2)
    return modulate(block.norm1(x), scale, shift)


def cosmos_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Cosmos: first output of `norm1`; Cosmos 1 adds `extra_pos_emb` before
    (`transformer_cosmos.py`)."""
    x, position = arguments[0, "hidden_states"], arguments[5, "extra_pos_emb"]
    if position is not None:
        x = x + position
    modulated: Tensor = block.norm1(x, arguments[2, "embedded_timestep"], arguments[3, "temb"])[0]
    return modulated


def table_block(block: Any, arguments: BlockArguments) -> Tensor:
    """PixArt, Sana: `norm1` with the first shift and scale of `scale_shift_table + timestep`."""
    x, timestep = arguments[0, "hidden_states"], arguments[4, "timestep"]
    table = block.scale_shift_table[None].to(timestep)
    shift, scale = (table + timestep.reshape(x.shape[0], 6, -1)).chunk(6, dim=1)[:2]
    return modulate(block.norm1(x), scale, shift)
