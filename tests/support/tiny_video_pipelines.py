"""Tiny pipelines of the video families (see tiny_pipelines)."""

from __future__ import annotations

from typing import Any

from tiny_pipelines import (
    GUIDED,
    LAYERS,
    NO_CFG,
    NO_GUIDANCE,
    TOKENS,
    TinyPipeline,
    damp_time_embedding,
    flow,
    image,
    prompts,
    transformers,
)

FRAMES = {"num_frames": 5, "height": 32, "width": 32}


def wan_transformer(**config: Any) -> Any:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 16,
            "out_channels": 16,
            "text_dim": 16,
            "freq_dim": 32,
            "ffn_dim": 32,
            "num_layers": LAYERS,
            "rope_max_seq_len": 32,
            **config,
        }
    )


def wan_vae(**config: Any) -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        **{
            "base_dim": 4,
            "z_dim": 16,
            "dim_mult": [1, 1, 1, 1],
            "num_res_blocks": 1,
            "temperal_downsample": [False, True, True],
            **config,
        }
    )


def wan(kind: str = "WanPipeline", experts: int = 1, **config: Any) -> Any:
    import diffusers

    second = wan_transformer(**config) if experts == 2 else None
    parts: dict[str, Any] = {}
    if kind == "WanImageToVideoPipeline":
        parts = {"image_encoder": None, "image_processor": None}
    return getattr(diffusers, kind)(
        tokenizer=None,
        text_encoder=None,
        vae=wan_vae(),
        scheduler=flow(shift=5.0),
        transformer=wan_transformer(**config),
        transformer_2=second,
        boundary_ratio=0.9 if experts == 2 else None,
        **parts,
    )


def wan_5b() -> Any:
    from diffusers import WanPipeline

    return WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=wan_vae(z_dim=48, latents_mean=[0.0] * 48, latents_std=[1.0] * 48),
        scheduler=flow(shift=5.0),
        transformer=wan_transformer(in_channels=48, out_channels=48),
        expand_timesteps=True,
    )


def wan_vace() -> Any:
    from diffusers import WanVACEPipeline, WanVACETransformer3DModel

    transformer = WanVACETransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=16,
        freq_dim=32,
        ffn_dim=32,
        num_layers=LAYERS,
        rope_max_seq_len=32,
        vace_layers=[0, 3],
        vace_in_channels=96,
    )
    return WanVACEPipeline(
        tokenizer=None, text_encoder=None, vae=wan_vae(), scheduler=flow(shift=5.0),
        transformer=transformer,
    )  # fmt: skip


def damp_wan(pipe: Any) -> None:
    for transformer in transformers(pipe):
        damp_time_embedding(transformer.condition_embedder.time_embedder.linear_2)


def hunyuan_video() -> Any:
    from diffusers import HunyuanVideoPipeline, HunyuanVideoTransformer3DModel

    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        patch_size=2,
        guidance_embeds=True,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
    )
    return HunyuanVideoPipeline(
        text_encoder=None, tokenizer=None, transformer=transformer, vae=None, scheduler=flow(),
        text_encoder_2=None, tokenizer_2=None,
    )  # fmt: skip


def ltx() -> Any:
    from diffusers import LTXPipeline, LTXVideoTransformer3DModel

    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=LAYERS,
        caption_channels=16,
    )
    return LTXPipeline(
        scheduler=flow(), vae=None, text_encoder=None, tokenizer=None, transformer=transformer
    )


def cogvideox() -> Any:
    from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel

    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=16,
        num_layers=LAYERS,
        sample_width=4,
        sample_height=4,
        sample_frames=5,
        patch_size=2,
        max_text_seq_length=TOKENS,
    )
    return CogVideoXPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=transformer,
        scheduler=CogVideoXDDIMScheduler(),
    )  # fmt: skip


def mochi() -> Any:
    from diffusers import MochiPipeline, MochiTransformer3DModel

    transformer = MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=LAYERS,
        pooled_projection_dim=16,
        in_channels=12,
        text_embed_dim=16,
        time_embed_dim=8,
        max_sequence_length=TOKENS,
    )
    return MochiPipeline(
        scheduler=flow(), vae=None, text_encoder=None, tokenizer=None, transformer=transformer
    )


class NoSafetyChecker:
    """Accepts every prompt and video; Cosmos requires a checker, which is in another package."""

    def to(self, device: Any) -> NoSafetyChecker:
        return self

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


def cosmos(kind: str, **config: Any) -> Any:
    import diffusers

    transformer = diffusers.CosmosTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=LAYERS,
        mlp_ratio=2,
        text_embed_dim=16,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        patch_size=(1, 2, 2),
        rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=True,
        **config,
    )
    vae = wan_vae()
    scheduler = flow(use_karras_sigmas=True)
    if kind == "CosmosTextToWorldPipeline":
        vae = None
        scheduler = diffusers.EDMEulerScheduler(
            sigma_min=0.002, sigma_max=80, sigma_data=0.5, prediction_type="epsilon"
        )
    return getattr(diffusers, kind)(
        text_encoder=None, tokenizer=None, transformer=transformer, vae=vae, scheduler=scheduler,
        safety_checker=NoSafetyChecker(),
    )  # fmt: skip


VIDEO: dict[str, TinyPipeline] = {
    "wan21": TinyPipeline(
        "wan21",
        wan,
        lambda: {**prompts(16), **GUIDED, **FRAMES},
        unguided=NO_GUIDANCE,
        prepare=damp_wan,
    ),
    "wan22_experts": TinyPipeline(
        "wan21",
        lambda: wan(experts=2),
        lambda: {**prompts(16), **GUIDED, **FRAMES},
        unguided=NO_GUIDANCE,
        prepare=damp_wan,
    ),
    "wan22_5b": TinyPipeline(
        "wan21",
        wan_5b,
        lambda: {**prompts(16), **GUIDED, **FRAMES},
        unguided=NO_GUIDANCE,
        prepare=damp_wan,
    ),
    "wan22_i2v": TinyPipeline(
        "wan21",
        lambda: wan("WanImageToVideoPipeline", in_channels=36),
        lambda: {**prompts(16), **GUIDED, **FRAMES, "image": image()},
        unguided=NO_GUIDANCE,
        prepare=damp_wan,
    ),
    "wan_vace": TinyPipeline(
        "wan21",
        wan_vace,
        lambda: {**prompts(16), **GUIDED, **FRAMES},
        unguided=NO_GUIDANCE,
        prepare=damp_wan,
    ),
    "hunyuan_video": TinyPipeline(
        "hunyuan_video",
        hunyuan_video,
        lambda: {
            **prompts(16, pooled=8, mask="prompt_attention_mask"), **FRAMES, "true_cfg_scale": 3.0
        },
        unguided=NO_CFG,
    ),
    "ltx": TinyPipeline(
        "ltx",
        ltx,
        lambda: {
            **prompts(16, mask="prompt_attention_mask"), **GUIDED,
            "num_frames": 9, "height": 64, "width": 64,
        },
        guidance="one batch",
        unguided=NO_GUIDANCE,
    ),
    "cogvideox": TinyPipeline(
        "cogvideox",
        cogvideox,
        lambda: {**prompts(16), **GUIDED, **FRAMES},
        guidance="one batch",
        unguided=NO_GUIDANCE,
        prepare=lambda pipe: damp_time_embedding(pipe.transformer.time_embedding.linear_2),
        flow=False,
    ),
    "mochi": TinyPipeline(
        "mochi",
        mochi,
        lambda: {
            **prompts(16, mask="prompt_attention_mask"), **GUIDED,
            "num_frames": 7, "height": 32, "width": 32,
        },
        guidance="one batch",
        unguided=NO_GUIDANCE,
    ),
    "cosmos1": TinyPipeline(
        "cosmos1",
        lambda: cosmos("CosmosTextToWorldPipeline", extra_pos_embed_type="learnable"),
        lambda: {**prompts(16), **GUIDED, "num_frames": 9, "height": 32, "width": 32},
        unguided=NO_GUIDANCE,
        flow=False,
    ),
    "cosmos_predict2": TinyPipeline(
        "cosmos_predict2",
        lambda: cosmos("Cosmos2TextToImagePipeline", extra_pos_embed_type=None),
        lambda: {**prompts(16), **GUIDED, "height": 32, "width": 32},
        unguided=NO_GUIDANCE,
    ),
}  # fmt: skip
