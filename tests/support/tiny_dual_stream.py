"""Tiny transformers of diffusers whose blocks return several streams (see tiny_transformers)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tiny_pipelines import TOKENS, damp_time_embedding, noise
from tiny_transformers import TEXT_WIDTH, Inputs, Latents, TinyTransformer, grid, text
from torch import nn

DEPTHS = dict(num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2)


def built(name: str, **config: Any) -> Callable[[], nn.Module]:
    """Makes the class `name` of diffusers."""

    def build() -> nn.Module:
        import diffusers

        transformer: nn.Module = getattr(diffusers, name)(**config)
        return transformer

    return build


def inputs(scale: float = 1000.0, **more: Callable[[int], Any]) -> Inputs:
    """Arguments that most transformers take.

    Args:
        scale: The timestep of pure noise.
        more: Further ones, made of the seed of the text.
    """

    def make(
        latents: Latents, level: torch.Tensor, seed: int, kept: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "hidden_states": latents[0],
            "encoder_hidden_states": text(seed),
            "timestep": level * scale,
            "return_dict": False,
            **{name: value(seed) for name, value in more.items()},
        }

    return make


def always(value: Any) -> Callable[[int], Any]:
    return lambda seed: value


IDS = dict(img_ids=always(grid(4, 4, 0)[:, :3]), txt_ids=always(torch.zeros(TOKENS, 3)))
SIZES = {name: always(torch.tensor([[64.0, 64.0]])) for name in ("target_size", "crop_coords")}
MASK = always(torch.ones(1, TOKENS, dtype=torch.long))
COGVIEW = dict(
    in_channels=4,
    out_channels=4,
    num_layers=4,
    attention_head_dim=16,
    num_attention_heads=2,
    text_embed_dim=TEXT_WIDTH,
    time_embed_dim=32,
    condition_dim=8,
)
HUNYUAN = dict(num_attention_heads=2, attention_head_dim=16, num_refiner_layers=1)


def ltx2_inputs(
    latents: Latents, level: torch.Tensor, seed: int, kept: dict[str, Any]
) -> dict[str, Any]:
    return {
        "hidden_states": latents[0],
        "audio_hidden_states": latents[1],
        "encoder_hidden_states": noise(seed, 1, TOKENS, 32),
        "audio_encoder_hidden_states": noise(seed + 5, 1, TOKENS, 16),
        "timestep": level * 1000,
        "sigma": level,
        "num_frames": 2,
        "height": 2,
        "width": 4,
        "audio_num_frames": 7,
        "return_dict": False,
    }


DUAL_STREAM: dict[str, TinyTransformer] = {
    "longcat_image": TinyTransformer(
        "longcat_image",
        built(
            "LongCatImageTransformer2DModel",
            **DEPTHS,
            in_channels=8,
            joint_attention_dim=TEXT_WIDTH,
            axes_dims_rope=[4, 4, 8],
        ),
        ((1, 16, 8),),
        inputs(1.0, **IDS),
        "attn",
    ),
    "ovis_image": TinyTransformer(
        "ovis_image",
        built(
            "OvisImageTransformer2DModel",
            **DEPTHS,
            in_channels=8,
            out_channels=8,
            joint_attention_dim=TEXT_WIDTH,
            axes_dims_rope=(4, 4, 8),
        ),
        ((1, 16, 8),),
        inputs(1.0, **IDS),
        "attn",
    ),
    "bria": TinyTransformer(
        "bria",
        built(
            "BriaTransformer2DModel",
            **DEPTHS,
            in_channels=8,
            joint_attention_dim=TEXT_WIDTH,
            axes_dims_rope=[4, 4, 8],
        ),
        ((1, 16, 8),),
        inputs(**IDS),
        "attn",
    ),
    "bria_fibo": TinyTransformer(
        "bria",
        built(
            "BriaFiboTransformer2DModel",
            **DEPTHS,
            in_channels=8,
            joint_attention_dim=TEXT_WIDTH,
            axes_dims_rope=[4, 4, 8],
            text_encoder_dim=8,
        ),
        ((1, 16, 8),),
        inputs(
            **IDS,
            text_encoder_layers=lambda seed: [noise(seed + i, 1, TOKENS, 8) for i in range(4)],
        ),
        "attn",
    ),
    "cogview4": TinyTransformer(
        "cogview",
        built("CogView4Transformer2DModel", **COGVIEW, rope_axes_dim=(32, 32)),
        ((1, 4, 8, 8),),
        inputs(**SIZES, original_size=SIZES["target_size"]),
        "attn1",
    ),
    "cogview3": TinyTransformer(
        "cogview",
        built("CogView3PlusTransformer2DModel", **COGVIEW, pos_embed_max_size=8, sample_size=8),
        ((1, 4, 8, 8),),
        inputs(**SIZES, original_size=SIZES["target_size"]),
        "attn1",
    ),
    "glm_image": TinyTransformer(
        "glm_image",
        built("GlmImageTransformer2DModel", **COGVIEW, prior_vq_quantizer_codebook_size=32),
        ((1, 4, 8, 8),),
        inputs(
            **SIZES,
            prior_token_id=always(torch.arange(16).reshape(1, 16)),
            prior_token_drop=lambda seed: torch.full((1, 16), seed == 2),
        ),
        "attn1",
    ),
    "hunyuan_video15": TinyTransformer(
        "hunyuan_video",
        built(
            "HunyuanVideo15Transformer3DModel",
            **HUNYUAN,
            in_channels=4,
            out_channels=4,
            num_layers=4,
            text_embed_dim=TEXT_WIDTH,
            text_embed_2_dim=12,
            image_embed_dim=8,
            rope_axes_dim=(4, 4, 8),
            target_size=32,
        ),
        ((1, 4, 1, 4, 4),),
        inputs(
            encoder_attention_mask=MASK,
            encoder_hidden_states_2=lambda seed: noise(seed + 5, 1, TOKENS, 12),
            encoder_attention_mask_2=MASK,
            image_embeds=always(torch.zeros(1, 3, 8)),
        ),
        "attn",
    ),
    "hunyuan_image": TinyTransformer(
        "hunyuan_video",
        built(
            "HunyuanImageTransformer2DModel",
            **HUNYUAN,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            num_single_layers=2,
            text_embed_dim=TEXT_WIDTH,
            rope_axes_dim=(8, 8),
        ),
        ((1, 4, 4, 4),),
        inputs(encoder_attention_mask=MASK),
        "attn",
    ),
    "consisid": TinyTransformer(
        "cogvideox",
        built(
            "ConsisIDTransformer3DModel",
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=TEXT_WIDTH,
            num_layers=4,
            sample_width=8,
            sample_height=8,
            sample_frames=5,
            max_text_seq_length=TOKENS,
        ),
        ((1, 2, 4, 8, 8),),
        inputs(),
        "",
        prepare=lambda transformer: damp_time_embedding(transformer.time_embedding.linear_2),
    ),
    "ltx2": TinyTransformer(
        "ltx_av",
        built(
            "LTX2VideoTransformer3DModel",
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=16,
            cross_attention_dim=32,
            audio_in_channels=6,
            audio_out_channels=6,
            audio_num_attention_heads=2,
            audio_attention_head_dim=8,
            audio_cross_attention_dim=16,
            num_layers=4,
            caption_channels=16,
            rope_double_precision=False,
            use_prompt_embeddings=False,
        ),
        ((1, 16, 8), (1, 7, 6)),
        ltx2_inputs,
        "attn1",
        outputs=lambda out: tuple(out),
    ),
}
