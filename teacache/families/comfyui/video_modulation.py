"""The modulated input of the first block in video families; see `modulation`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu

from ..streams import BlockArguments
from .modulation import modulate

EPS = 1e-6


def _rms(x: Tensor) -> Tensor:
    return rms_norm(x, x.shape[-1:], eps=EPS)


def hunyuan_double_block(block: Any, arguments: BlockArguments) -> Tensor:
    """HunyuanVideo: `img_norm1` with the image modulation of `vec` (`flux/layers.py`).

    With a guiding frame, `modulation_dims_img` lists (start, end, row): the row of the modulation
    for each span of tokens.
    """
    first = block.img_mod(arguments[2, "vec"])[0]
    normed: Tensor = block.img_norm1(arguments[0, "img"])
    spans = arguments[5, "modulation_dims_img"]
    if spans is None:
        return modulate(normed, first.scale, first.shift)
    parts = [
        modulate(normed[:, start:end], first.scale[:, row, None], first.shift[:, row, None])
        for start, end, row in spans
    ]
    return torch.cat(parts, dim=1)


def ltx_block(block: Any, arguments: BlockArguments) -> Tensor:
    """LTX-Video: RMS norm with the first shift and scale of `scale_shift_table + timestep`
    (`lightricks/model.py`)."""
    x, timestep = arguments[0, "x"], arguments[3, "timestep"]
    table = block.scale_shift_table.to(device=x.device, dtype=x.dtype)
    rows = timestep.reshape(x.shape[0], timestep.shape[1], table.shape[0], -1)
    shift, scale = (table[:2] + rows[:, :, :2]).unbind(dim=2)
    return modulate(_rms(x), scale, shift)


def ltx_av_block(block: Any, arguments: BlockArguments) -> Tensor:
    """LTX-AV: as LTX-Video, of (video, audio) packed one behind the other
    (`lightricks/av_model.py`)."""
    video, audio = arguments[0, "x"]
    tables = (block.scale_shift_table, block.audio_scale_shift_table)
    timesteps = (arguments[4, "v_timestep"], arguments[5, "a_timestep"])
    parts = []
    for stream, table, timestep in zip((video, audio), tables, timesteps, strict=True):
        shift, scale = block.get_ada_values(table, stream.shape[0], timestep, slice(0, 2))
        parts.append(modulate(_rms(stream), scale, shift).flatten(1))
    return torch.cat(parts, dim=1)


def mochi_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Mochi: RMS norm with the first quarter of `mod_x` (`asymm_models_joint.py`)."""
    scale = block.mod_x(silu(arguments[1, "c"])).chunk(4, dim=1)[0]
    return modulate(_rms(arguments[0, "x"]), scale.unsqueeze(1))


def cosmos_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Cosmos 1: norm and adaLN of the block's first sublayer (`cosmos/blocks.py`).

    The stream is [T, H, W, B, D]; the batch is moved to the front.
    """
    x, embedding = arguments[0, "x"], arguments[1, "emb_B_D"]
    sublayer = block.blocks[0]
    modulation = sublayer.adaLN_modulation(embedding)
    if sublayer.use_adaln_lora:
        modulation = modulation + arguments[5, "adaln_lora_B_3D"]
    shift, scale, _ = modulation.chunk(3, dim=1)
    return modulate(sublayer.norm_state(x), scale, shift).movedim(3, 0)


def predict2_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Cosmos Predict2: norm and adaLN of the self-attention (`cosmos/predict2.py`).

    The stream is [B, T, H, W, D], and may be fp32 if the layers compute in fp16.
    """
    x, embedding = arguments[0, "x_B_T_H_W_D"], arguments[1, "emb_B_T_D"]
    modulation = block.adaln_modulation_self_attn(embedding)
    if block.use_adaln_lora:
        modulation = modulation + arguments[4, "adaln_lora_B_T_3D"]
    shift, scale, _ = modulation[:, :, None, None].chunk(3, dim=-1)
    modulated: Tensor = block.layer_norm_self_attn(x) * (1 + scale) + shift
    return modulated


def minimax_block(block: Any, arguments: BlockArguments) -> Tensor:
    """MiniMax-H3: `norm1` with the shift and scale of each span of tokens (`minimax/model.py`)."""
    normed: Tensor = block.norm1(arguments[0, "x"])
    shift, scale = block.adaln_proj(arguments[1, "t_emb"])[:2]
    parts = [
        normed[start:end] * (1 + scale[row].to(normed.dtype)) + shift[row].to(normed.dtype)
        for start, end, row in arguments[2, "mod_segments"]
    ]
    return torch.cat(parts).unsqueeze(0)


def minimax_segment_sizes(arguments: BlockArguments) -> tuple[int, ...]:
    """MiniMax-H3: tokens of each span that is modulated alike: text, sound, video, references."""
    return tuple(end - start for start, end, _ in arguments[2, "mod_segments"])
