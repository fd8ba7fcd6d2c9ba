"""Tiny models of families that need a newer ComfyUI than 0.3.75 (see tiny_models)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from paths import ROOT
from tiny_image import IMAGE, NEXT_DIT, TEXT, random_tensor
from tiny_models import BASIC, CONTEXT, DEPTH, FLUX, HEADS, WIDTH, TinyModel, control_residual

FLUX_NO_POOLED = dict(FLUX, vec_in_dim=None, guidance_embed=False, txt_ids_dims=[1, 2])


def _amplify_text(transformer: Any) -> None:
    """Makes the pixel head depend on the text as strongly as a trained one does."""
    for block in transformer.pixel_blocks:
        block.adaLN_modulation_msa.weight.data *= 3.0
        block.adaLN_modulation_mlp.weight.data *= 3.0
    transformer.final_layer.linear.weight.data *= 3.0
    transformer.final_layer.norm.weight.data.fill_(1.0)


RECENT: dict[str, TinyModel] = {
    "longcat_image": TinyModel(
        "LongCatImage",
        dict(FLUX_NO_POOLED, context_in_dim=3584),
        latent=(16, 8, 8),
        text=3584,
        control=BASIC["flux1"].control,
    ),
    "ovis_image": TinyModel(
        "LongCatImage",
        dict(FLUX_NO_POOLED, yak_mlp=True, txt_norm=True),
        latent=(16, 8, 8),
        text=TEXT,
    ),
    "newbie": TinyModel(
        "Lumina2",
        dict(
            **NEXT_DIT, dim=288, n_heads=3, n_kv_heads=1, axes_dims=[32, 32, 32], clip_text_dim=16
        ),
        latent=(16, 8, 8),
        text=TEXT,
        patches_replace=False,
    ),
    "z_image_pixel": TinyModel(
        "ZImagePixelSpace",
        dict(
            NEXT_DIT,
            in_channels=3,
            patch_size=8,
            dim=WIDTH,
            n_heads=2,
            n_kv_heads=2,
            axes_dims=[32, 48, 48],
            z_image_modulation=True,
            time_scale=1000.0,
            pad_tokens_multiple=32,
            decoder_hidden_size=64,
            decoder_num_res_blocks=1,
            decoder_max_freqs=4,
        ),
        latent=(3, 32, 32),
        text=TEXT,
        patches_replace=False,
    ),
    "kandinsky5_image": TinyModel(
        "Kandinsky5Image",
        dict(
            in_visual_dim=16,
            out_visual_dim=16,
            in_text_dim=TEXT,
            in_text_dim2=32,
            time_dim=64,
            model_dim=WIDTH,
            ff_dim=WIDTH,
            visual_embed_dim=64,
            patch_size=(1, 2, 2),
            num_text_blocks=1,
            num_visual_blocks=DEPTH,
            axes_dims=(32, 48, 48),
        ),
        latent=(16, 8, 8),
        text=TEXT,
        pooled=32,
        patches_replace=False,
    ),
    "krea2": TinyModel(
        "Krea2",
        dict(
            features=WIDTH,
            tdim=64,
            txtdim=16,
            heads=4,
            kvheads=2,
            multiplier=2,
            layers=DEPTH,
            txtlayers=2,
            txtheads=2,
            txtkvheads=2,
        ),
        latent=(16, 1, 8, 8),
        text=32,
        patches_replace=False,
    ),
    "ideogram4": TinyModel(
        "Ideogram4",
        dict(
            num_layers=DEPTH,
            num_attention_heads=HEADS,
            attention_head_dim=128,
            intermediate_size=WIDTH,
            adaln_dim=64,
            llm_features_dim=TEXT,
        ),
        latent=(128, 4, 4),
        text=TEXT,
        patches_replace=False,
    ),
    "ernie_image": TinyModel(
        "ErnieImage",
        dict(
            hidden_size=WIDTH,
            num_attention_heads=HEADS,
            num_layers=DEPTH,
            ffn_hidden_size=WIDTH,
            text_in_dim=TEXT,
            rope_axes_dim=(32, 48, 48),
        ),
        latent=(128, 4, 4),
        text=TEXT,
        patches_replace=False,
    ),
    "boogu": TinyModel(
        "Boogu",
        dict(
            hidden_size=240,
            num_layers=3,
            num_double_stream_layers=2,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            instruction_feat_dim=TEXT,
        ),
        latent=(16, 8, 8),
        text=TEXT,
        extra=lambda: {"attention_mask": torch.ones(1, CONTEXT, dtype=torch.long)},
        patches_replace=False,
    ),
    "joy_image": TinyModel(
        "JoyImage",
        dict(hidden_size=WIDTH, num_attention_heads=HEADS, text_dim=TEXT, num_layers=DEPTH),
        latent=(16, 1, 8, 8),
        text=TEXT,
    ),
    "lens": TinyModel(
        "Lens",
        dict(
            num_layers=DEPTH,
            attention_head_dim=64,
            num_attention_heads=4,
            enc_hidden_dim=32,
            selected_layer_index=(0, 1),
        ),
        latent=(128, 4, 4),
        text=64,
        control=control_residual("input", 16, WIDTH, DEPTH),
    ),
    "mage_flow": TinyModel(
        "MageFlow",
        dict(
            num_layers=DEPTH,
            attention_head_dim=128,
            num_attention_heads=HEADS,
            joint_attention_dim=TEXT,
        ),
        latent=(128, 4, 4),
        text=TEXT,
        control=control_residual("input", 16, WIDTH, DEPTH),
    ),
    "pixeldit": TinyModel(
        "PixelDiTT2I",
        dict(
            num_groups=4,
            hidden_size=WIDTH,
            pixel_hidden_size=4,
            pixel_attn_hidden_size=64,
            pixel_num_groups=2,
            patch_depth=DEPTH,
            pixel_depth=1,
            patch_size=8,
            txt_embed_dim=TEXT,
            txt_max_length=CONTEXT,
        ),
        latent=(3, 32, 32),
        text=TEXT,
        prepare=_amplify_text,
        patches_replace=False,
    ),
    "qwen_image_edit_2511": replace(
        IMAGE["qwen_image_edit"],
        extra=lambda: {
            **IMAGE["qwen_image_edit"].extra(),
            "reference_latents_method": "index_timestep_zero",
        },
    ),
    "z_image_omni": replace(
        IMAGE["z_image"],
        kwargs={**IMAGE["z_image"].kwargs, "siglip_feat_dim": 32},
        extra=lambda: {"reference_latents": [random_tensor(1, 16, 4, 8)]},
        family="z_image",
    ),
    "ace_step15": TinyModel(
        "ACEStep15",
        dict(
            hidden_size=WIDTH,
            text_hidden_dim=TEXT,
            intermediate_size=WIDTH,
            num_dit_layers=DEPTH,
            num_lyric_layers=1,
            num_timbre_layers=1,
            num_tokenizer_layers=1,
            num_heads=4,
            num_kv_heads=2,
            head_dim=64,
            fsq_dim=WIDTH,
            encoder_hidden_size=WIDTH,
            encoder_intermediate_size=WIDTH,
            encoder_num_heads=4,
        ),
        latent=(64, 16),
        text=TEXT,
        extra=lambda: {"conditioning_lyrics": random_tensor(1, 5, TEXT)},
        patches_replace=False,
        splits=False,
    ),
}

TREE = Path(os.environ.get("COMFYUI_DIR", ROOT / ".comfyui"))
HAS_RECENT_MODELS = (TREE / "comfy" / "ldm" / "krea2").is_dir()
"""Whether the ComfyUI under test has these families."""
