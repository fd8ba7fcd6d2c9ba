"""Tiny pipelines of FLUX and Qwen-Image (see tiny_pipelines)."""

from __future__ import annotations

from typing import Any

from tiny_pipelines import (
    GUIDED,
    LAYERS,
    NO_CFG,
    NO_GUIDANCE,
    SMALL,
    TOKENS,
    TinyPipeline,
    flow,
    image,
    kl_vae,
    noise,
    positive,
    prompts,
    qwen_vae,
)


def qwen_transformer() -> Any:
    from diffusers import QwenImageTransformer2DModel

    return QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=LAYERS,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )


def qwen(kind: str, **parts: Any) -> Any:
    import diffusers

    return getattr(diffusers, kind)(
        scheduler=flow(), vae=qwen_vae(), text_encoder=None, tokenizer=None,
        transformer=qwen_transformer(), **parts,
    )  # fmt: skip


def qwen_controlnet() -> Any:
    from diffusers import QwenImageControlNetModel

    return QwenImageControlNetModel(
        in_channels=64,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )


def qwen_inputs(**more: Any) -> dict[str, Any]:
    size = {"height": 32, "width": 32}
    return {**prompts(16, mask="prompt_embeds_mask"), "true_cfg_scale": 3.0, **size, **more}


def flux(kind: str, channels: int = 16, guidance: bool = False) -> Any:
    import diffusers

    transformer = diffusers.FluxTransformer2DModel(
        in_channels=channels,
        out_channels=16,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=12,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 4, 8),
    )
    return getattr(diffusers, kind)(
        scheduler=flow(), vae=kl_vae(), text_encoder=None, tokenizer=None, text_encoder_2=None,
        tokenizer_2=None, transformer=transformer,
    )  # fmt: skip


def flux2(kind: str, guidance: bool) -> Any:
    import diffusers

    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance,
    )
    return getattr(diffusers, kind)(
        scheduler=flow(), vae=flux2_vae(), text_encoder=None, tokenizer=None,
        transformer=transformer,
    )  # fmt: skip


def flux2_vae() -> Any:
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )


FLUX_AND_QWEN: dict[str, TinyPipeline] = {
    "qwen_image": TinyPipeline(
        "qwen_image", lambda: qwen("QwenImagePipeline"), qwen_inputs, unguided=NO_CFG
    ),
    "qwen_image_edit": TinyPipeline(
        "qwen_image",
        lambda: qwen("QwenImageEditPipeline", processor=None),
        lambda: qwen_inputs(image=image()),
        unguided=NO_CFG,
    ),
    "qwen_image_edit_plus": TinyPipeline(
        "qwen_image",
        lambda: qwen("QwenImageEditPlusPipeline", processor=None),
        lambda: qwen_inputs(image=[image(), image()]),
        unguided=NO_CFG,
    ),
    "qwen_image_controlnet": TinyPipeline(
        "qwen_image",
        lambda: qwen("QwenImageControlNetPipeline", controlnet=qwen_controlnet()),
        lambda: qwen_inputs(control_image=image()),
        unguided=NO_CFG,
    ),
    "flux1": TinyPipeline(
        "flux1",
        lambda: flux("FluxPipeline", guidance=True),
        lambda: {**prompts(16, pooled=12), "height": 32, "width": 32, "true_cfg_scale": 3.0},
        unguided=NO_CFG,
    ),
    "flux1_distilled": TinyPipeline(
        "flux1",
        lambda: flux("FluxPipeline", guidance=True),
        lambda: {**positive(prompts(16, pooled=12)), "height": 32, "width": 32},
        guidance="none",
    ),
    "flux1_kontext": TinyPipeline(
        "flux1",
        lambda: flux("FluxKontextPipeline", guidance=True),
        lambda: {
            **prompts(16, pooled=12), "image": image(), "height": 32, "width": 32,
            "true_cfg_scale": 3.0, "_auto_resize": False, "max_area": 1024,
        },
        unguided=NO_CFG,
    ),
    "flux1_fill": TinyPipeline(
        "flux1",
        lambda: flux("FluxFillPipeline", channels=48, guidance=True),
        lambda: {
            **positive(prompts(16, pooled=12)), "image": image(), "mask_image": image(),
            "height": 32, "width": 32,
        },
        guidance="none",
    ),
    "flux2": TinyPipeline(
        "flux2",
        lambda: flux2("Flux2Pipeline", guidance=True),
        lambda: {"prompt_embeds": noise(1, 1, TOKENS, 16), **SMALL},
        guidance="none",
    ),
    "flux2_klein": TinyPipeline(
        "flux2",
        lambda: flux2("Flux2KleinPipeline", guidance=False),
        lambda: {**prompts(16), **GUIDED, **SMALL},
        unguided=NO_GUIDANCE,
    ),
}  # fmt: skip
