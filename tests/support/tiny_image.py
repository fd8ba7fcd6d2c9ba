"""Tiny models of the image, audio and 3D families (see tiny_models)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from tiny_models import BASIC, CONTEXT, DEPTH, FLUX, HEADS, WIDTH, TinyModel

TEXT = 64


def random_tensor(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def _damp_hidream(transformer: Any) -> None:
    transformer.t_embedder.timestep_embedder.linear_2.bias.data += 3.0


def _truncate_lyric_encoder(transformer: Any) -> None:
    transformer.lyric_encoder.encoders = transformer.lyric_encoder.encoders[:1]


def _amplify_pixel_head(transformer: Any) -> None:
    """Makes the pixel head depend on the blocks as strongly as a trained one does."""
    transformer.nerf_final_layer_conv.conv.weight.data *= 30.0
    for block in transformer.nerf_blocks:
        block.param_generator.weight.data *= 8.0


def _set_checkpoint_values(transformer: Any) -> None:
    """Sets what comes from Stable Audio's checkpoint: rotary frequencies, and gains of norms."""
    frequencies = transformer.transformer.rotary_pos_emb.inv_freq
    frequencies.copy_(10000.0 ** -torch.linspace(0, 1, frequencies.numel()))
    for name, parameter in transformer.named_parameters():
        if name.endswith("gamma"):
            parameter.data.fill_(1.0)


def with_unknown_class(transformer: Any) -> None:
    """Changes the transformer's class to one that no family is registered for."""
    kind = type(transformer)
    name, module = f"Unknown{kind.__name__}", {"__module__": kind.__module__}
    transformer.__class__ = type(name, (kind,), module)


def _seconds_embedder_weights() -> dict[str, torch.Tensor]:
    """The weights that a Stable Audio checkpoint holds besides the transformer's."""
    from comfy.ldm.audio.embedders import NumberConditioner

    shapes = NumberConditioner(768, min_val=0, max_val=512).state_dict()
    weights = {name: random_tensor(*value.shape) * 0.1 for name, value in shapes.items()}
    return {
        f"conditioner.conditioners.seconds_{part}.{name}": value
        for part in ("start", "total")
        for name, value in weights.items()
    }


NEWER_CHROMA = dict(txt_ids_dims=[], vec_in_dim=None)
CHROMA = dict(
    in_channels=64,
    out_channels=64,
    context_in_dim=TEXT,
    hidden_size=WIDTH,
    mlp_ratio=2.0,
    num_heads=HEADS,
    depth=2,
    depth_single_blocks=3,
    axes_dim=[16, 56, 56],
    theta=10000,
    patch_size=2,
    qkv_bias=True,
    in_dim=64,
    out_dim=WIDTH,
    hidden_dim=WIDTH,
    n_layers=2,
)
NEXT_DIT = dict(
    patch_size=2,
    in_channels=16,
    n_layers=DEPTH,
    n_refiner_layers=1,
    qk_norm=True,
    cap_feat_dim=TEXT,
    multiple_of=64,
)

IMAGE: dict[str, TinyModel] = {
    "sd35_medium": replace(
        BASIC["sd3"],
        kwargs={**BASIC["sd3"].kwargs, "x_block_self_attn_layers": [0, 1]},
        family="sd3",
    ),
    "flux2": TinyModel(
        "Flux2",
        {
            **FLUX,
            **dict(
                in_channels=128,
                out_channels=128,
                vec_in_dim=None,
                mlp_ratio=3.0,
                axes_dim=[32, 32, 32, 32],
                theta=2000,
                patch_size=1,
                qkv_bias=False,
                global_modulation=True,
                mlp_silu_act=True,
                ops_bias=False,
                default_ref_method="index",
                ref_index_scale=10.0,
            ),
        },
        latent=(128, 4, 4),
        text=TEXT,
        pooled=8,
        control=BASIC["flux1"].control,
        newer=dict(txt_ids_dims=[3]),
    ),
    "chroma": TinyModel(
        "Chroma",
        CHROMA,
        latent=(16, 8, 8),
        text=TEXT,
        pooled=8,
        control=BASIC["flux1"].control,
        newer=NEWER_CHROMA,
    ),
    "chroma_radiance": TinyModel(
        "ChromaRadiance",
        dict(
            **{**CHROMA, "in_channels": 3, "out_channels": 3, "patch_size": 16},
            nerf_hidden_size=16,
            nerf_mlp_ratio=2,
            nerf_depth=1,
            nerf_max_freqs=4,
            nerf_tile_size=0,
            nerf_final_head_type="conv",
            nerf_embedder_dtype=torch.float32,
        ),
        latent=(3, 64, 64),
        text=TEXT,
        pooled=8,
        prepare=_amplify_pixel_head,
        family="chroma",
        control=BASIC["flux1"].control,
        newer=NEWER_CHROMA | dict(use_x0=False, use_sequential_txt_ids=False),
    ),
    "qwen_image_edit": replace(
        BASIC["qwen_image"],
        extra=lambda: {"reference_latents": [random_tensor(1, 16, 1, 4, 8)]},
        family="qwen_image",
    ),
    "lumina2": TinyModel(
        "Lumina2",
        dict(**NEXT_DIT, dim=288, n_heads=3, n_kv_heads=1, axes_dims=[32, 32, 32]),
        latent=(16, 8, 8),
        text=TEXT,
        patches_replace=False,
    ),
    "z_image": TinyModel(
        "ZImage",
        dict(
            **NEXT_DIT,
            dim=WIDTH,
            n_heads=2,
            n_kv_heads=2,
            axes_dims=[32, 48, 48],
            z_image_modulation=True,
            time_scale=1000.0,
            pad_tokens_multiple=32,
        ),
        latent=(16, 8, 8),
        text=TEXT,
        patches_replace=False,
    ),
    "hidream": TinyModel(
        "HiDream",
        dict(
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=128,
            num_attention_heads=HEADS,
            caption_channels=[TEXT, TEXT],
            text_emb_dim=TEXT,
            axes_dims_rope=[64, 32, 32],
            max_resolution=[128, 128],
            llama_layers=[0, 1, 2, 2, 2],
        ),
        latent=(16, 8, 8),
        text=TEXT,
        pooled=TEXT,
        extra=lambda: {"conditioning_llama3": random_tensor(1, 3, CONTEXT, TEXT)},
        prepare=_damp_hidream,
        patches_replace=False,
    ),
    "auraflow": TinyModel(
        "AuraFlow",
        dict(
            max_seq=16 * 16,
            cond_seq_dim=TEXT,
            n_double_layers=2,
            n_layers=5,
            dim=WIDTH,
            n_heads=HEADS,
            global_conddim=WIDTH,
        ),
        latent=(4, 8, 8),
        text=TEXT,
    ),
    "pixart_sigma": TinyModel(
        "PixArtSigma",
        dict(
            num_heads=4,
            patch_size=8,
            hidden_size=WIDTH,
            in_channels=4,
            depth=DEPTH,
            caption_channels=TEXT,
            model_max_length=CONTEXT,
            micro_condition=False,
            input_size=64,
            pe_interpolation=1,
        ),
        latent=(4, 40, 40),
        text=TEXT,
        family="pixart",
        patches_replace=False,
    ),
    "pixart_alpha": TinyModel(
        "PixArtAlpha",
        dict(
            num_heads=4,
            patch_size=8,
            hidden_size=252,
            in_channels=4,
            depth=DEPTH,
            caption_channels=TEXT,
            model_max_length=CONTEXT,
            micro_condition=True,
            input_size=64,
        ),
        latent=(4, 40, 40),
        text=TEXT,
        family="pixart",
        patches_replace=False,
    ),
    "hunyuan_dit": TinyModel(
        "HunyuanDiT",
        dict(
            depth=6,
            hidden_size=WIDTH,
            num_heads=4,
            text_states_dim=TEXT,
            text_states_dim_t5=TEXT,
            text_len=CONTEXT,
            text_len_t5=8,
        ),
        latent=(4, 8, 8),
        text=TEXT,
        extra=lambda: {
            "attention_mask": torch.ones(1, CONTEXT),
            "conditioning_mt5xl": random_tensor(1, 8, TEXT),
            "attention_mask_mt5xl": torch.ones(1, 8),
        },
    ),
    "omnigen2": TinyModel(
        "Omnigen2",
        dict(
            hidden_size=192,
            num_layers=DEPTH,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            axes_dim_rope=(32, 32, 32),
            text_feat_dim=TEXT,
            timestep_scale=1000.0,
        ),
        latent=(16, 8, 8),
        text=TEXT,
        extra=lambda: {
            "attention_mask": torch.ones(1, CONTEXT, dtype=torch.long),
            "reference_latents": [random_tensor(1, 16, 4, 8)],
        },
        patches_replace=False,
    ),
    "ace_step": TinyModel(
        "ACEStep",
        dict(
            in_channels=8,
            num_layers=DEPTH,
            attention_head_dim=128,
            num_attention_heads=HEADS,
            mlp_ratio=2.5,
            max_height=16,
            max_width=64,
            max_position=64,
            text_embedding_dim=TEXT,
            lyric_encoder_vocab_size=16,
        ),
        latent=(8, 16, 12),
        text=TEXT,
        extra=lambda: {"conditioning_lyrics": torch.arange(5)[None]},
        trim=_truncate_lyric_encoder,
        patches_replace=False,
    ),
    "stable_audio": TinyModel(
        "StableAudio",
        dict(embed_dim=WIDTH, depth=DEPTH, num_heads=4, project_cond_tokens=True),
        latent=(64, 16),
        text=768,
        weights=_seconds_embedder_weights,
        prepare=_set_checkpoint_values,
    ),
    "hunyuan3d": TinyModel(
        "Hunyuan3Dv2",
        dict(
            context_in_dim=TEXT,
            hidden_size=WIDTH,
            num_heads=HEADS,
            depth=2,
            depth_single_blocks=3,
            guidance_embed=True,
        ),
        latent=(64, 16),
        text=TEXT,
    ),
    "hunyuan3d21": TinyModel(
        "Hunyuan3Dv2_1",
        dict(
            hidden_size=WIDTH,
            context_dim=TEXT,
            depth=6,
            num_heads=4,
            num_moe_layers=2,
            num_experts=4,
            guidance_cond_proj_dim=WIDTH,
        ),
        latent=(64, 16),
        text=TEXT,
        patches_replace=False,
        splits=False,
    ),
}

IMAGE |= {
    "generic": replace(IMAGE["pixart_sigma"], prepare=with_unknown_class, family="generic"),
    "generic_joined": replace(
        BASIC["flux1"],
        kwargs={**FLUX, "depth_single_blocks": 4},
        prepare=with_unknown_class,
        family="generic",
    ),
}
