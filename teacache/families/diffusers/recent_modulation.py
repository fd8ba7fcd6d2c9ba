"""The modulated input of the first block of recent models in diffusers 0.42; see `modulation`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..comfyui.modulation import modulate
from ..streams import BlockArguments


def flux3_block(block: Any, arguments: BlockArguments) -> Tensor:
    """FLUX.3: `norm` with the shift and scale of the modulation that the blocks of the image share
    (`transformer_flux3.py`)."""
    shift, scale = arguments[1, "temb_mod"].chunk(3, dim=-1)[:2]
    return modulate(block.norm(arguments[0, "hidden_states"]), scale, shift)


def kandinsky6_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Kandinsky 6: `self_attention_norm` with the first shift and scale of `visual_modulation`, of
    film and sound, packed one behind the other (`transformer_kandinsky6.py`)."""
    streams = (arguments[0, "vis"], arguments[1, "aud"])
    decoders = (block.video_dec_block, block.audio_dec_block)
    parts = []
    for x, decoder, time in zip(streams, decoders, arguments[4, "time_embed"], strict=True):
        if x is None:
            continue
        shift, scale = decoder.visual_modulation(time).unsqueeze(1).chunk(9, dim=-1)[:2]
        parts.append(modulate(decoder.self_attention_norm(x.float()), scale, shift).flatten(1))
    return torch.cat(parts, dim=1)


def cosmos3_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Cosmos 3: `input_layernorm_moe_gen`; the timestep is added to the tokens before the blocks
    (`transformer_cosmos3.py`)."""
    normed: Tensor = block.input_layernorm_moe_gen(arguments[1, "gen_seq"])
    return normed.unsqueeze(0)


def qwen_image_21_block(block: Any, arguments: BlockArguments) -> Tensor:
    """Qwen-Image 2.1: `img_norm1` with the first scale of the modulation that all blocks share
    (`transformer_qwenimage21.py`).

    Where a row of timestep zero follows the sampled ones, it is that of the text and the reference
    images, whose tokens are left out in the call that keeps their keys and values.
    """
    x, modulation = arguments.kwargs["hidden_states"], arguments.kwargs["modulation"]
    kept = arguments.kwargs["cache_write_slice"]
    if kept is not None:
        x = x[:, kept.stop :]
    scale = modulation[: x.shape[0]].chunk(4, dim=-1)[0].unsqueeze(1)
    return modulate(block.img_norm1(x), scale)


def joint_norm_block(block: Any, arguments: BlockArguments) -> Tensor:
    """CogView, GLM-Image: first output of `norm1(image, text, temb)`
    (`transformer_cogview4.py`)."""
    image, text = arguments[0, "hidden_states"], arguments[1, "encoder_hidden_states"]
    named = arguments.kwargs["emb"] if "emb" in arguments.kwargs else arguments[2, "temb"]
    modulated: Tensor = block.norm1(image, text, named)[0]
    return modulated


def ltx2_block(block: Any, arguments: BlockArguments) -> Tensor:
    """LTX-2: `norm1` with the first shift and scale of the video's table, and the same of the
    audio's, packed one behind the other (`transformer_ltx2.py`)."""
    parts = []
    for x, norm, table, temb in (
        (arguments[0, "hidden_states"], block.norm1, block.scale_shift_table, arguments[4, "temb"]),
        (
            arguments[1, "audio_hidden_states"],
            block.audio_norm1,
            block.audio_scale_shift_table,
            arguments[5, "temb_audio"],
        ),
    ):
        shift, scale = block.get_mod_params(table, temb, x.shape[0])[:2]
        parts.append(modulate(norm(x), scale, shift).flatten(1))
    return torch.cat(parts, dim=1)
