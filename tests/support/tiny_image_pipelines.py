"""Tiny pipelines of the other image families (see tiny_pipelines)."""

from __future__ import annotations

from typing import Any

from tiny_pipelines import (
    GUIDED,
    LAYERS,
    NEGATIVE,
    NO_GUIDANCE,
    SMALL,
    TOKENS,
    TinyPipeline,
    damp_time_embedding,
    float_masks,
    flow,
    kl_vae,
    noise,
    prompts,
)


def sd3(**config: Any) -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        **{
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": LAYERS,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "caption_projection_dim": 32,
            "pooled_projection_dim": 12,
            "pos_embed_max_size": 16,
            **config,
        }
    )
    absent = {
        f"{part}{n}": None for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")
    }
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=flow(), vae=None, **absent, image_encoder=None
    )


def lumina2() -> Any:
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=24,
        num_layers=LAYERS,
        num_refiner_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=2,
        norm_eps=1e-5,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(32, 32, 32),
        cap_feat_dim=16,
    )
    return Lumina2Pipeline(
        transformer=transformer, scheduler=flow(), vae=None, text_encoder=None, tokenizer=None
    )


def z_image() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=LAYERS,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    return ZImagePipeline(
        scheduler=flow(shift=3.0), vae=None, text_encoder=None, tokenizer=None,
        transformer=transformer,
    )  # fmt: skip


def hidream() -> Any:
    from diffusers import HiDreamImagePipeline, HiDreamImageTransformer2DModel

    transformer = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[32, 16],
        text_emb_dim=64,
        num_routed_experts=2,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(32, 32),
        llama_layers=(0, 1, 0, 1),
        force_inference_output=True,
    )
    absent = {
        f"{part}{n}": None for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3", "_4")
    }
    pipe = HiDreamImagePipeline(scheduler=flow(), vae=kl_vae(), transformer=transformer, **absent)
    pipe.default_sample_size = 8
    return pipe


def damp_hidream(pipe: Any) -> None:
    damp_time_embedding(pipe.transformer.t_embedder.timestep_embedder.linear_2)


def hidream_inputs() -> dict[str, Any]:
    inputs: dict[str, Any] = {"height": 32, "width": 32, "guidance_scale": 3.0}
    for seed, prefix in ((1, ""), (2, NEGATIVE)):
        inputs[f"{prefix}prompt_embeds_t5"] = noise(seed, 1, TOKENS, 32)
        inputs[f"{prefix}prompt_embeds_llama3"] = noise(seed + 5, 2, 1, TOKENS, 16)
        inputs[f"{prefix}pooled_prompt_embeds"] = noise(seed + 10, 1, 64)
    return inputs


def pixart() -> Any:
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    transformer = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=LAYERS,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=16,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction"
        ),
    )  # fmt: skip


def aura_flow() -> Any:
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel

    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=32,
        pos_embed_max_size=64,
    )
    return AuraFlowPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=transformer, scheduler=flow()
    )


def chroma() -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    return ChromaPipeline(
        scheduler=flow(), vae=kl_vae(), text_encoder=None, tokenizer=None, transformer=transformer
    )


def sana() -> Any:
    from diffusers import SanaPipeline, SanaTransformer2DModel

    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=LAYERS,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=8,
    )
    return SanaPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=transformer, scheduler=flow()
    )


IMAGE: dict[str, TinyPipeline] = {
    "sd3": TinyPipeline(
        "sd3",
        sd3,
        lambda: {**prompts(32, pooled=12), **GUIDED, **SMALL},
        guidance="one batch",
        unguided=NO_GUIDANCE,
    ),
    "sd35": TinyPipeline(
        "sd3",
        lambda: sd3(dual_attention_layers=(0, 1), qk_norm="rms_norm"),
        lambda: {**prompts(32, pooled=12), **GUIDED, **SMALL},
        guidance="one batch",
        unguided=NO_GUIDANCE,
    ),
    "lumina2": TinyPipeline(
        "lumina2",
        lumina2,
        lambda: {**prompts(16, mask="prompt_attention_mask"), **GUIDED, **SMALL},
        unguided=NO_GUIDANCE,
    ),
    "z_image": TinyPipeline(
        "z_image",
        z_image,
        lambda: {
            "prompt_embeds": [noise(1, TOKENS, 16)],
            "negative_prompt_embeds": [noise(2, TOKENS, 16)],
            **GUIDED,
            **SMALL,
        },
        guidance="one batch",
        unguided={"guidance_scale": 0.0},
    ),
    "hidream": TinyPipeline(
        "hidream",
        hidream,
        hidream_inputs,
        guidance="one batch",
        unguided=NO_GUIDANCE,
        prepare=damp_hidream,
    ),
    "pixart": TinyPipeline(
        "pixart",
        pixart,
        lambda: {
            **prompts(16, mask="prompt_attention_mask"), **GUIDED, **SMALL,
            "use_resolution_binning": False, "negative_prompt": None,
        },
        guidance="one batch",
        unguided=NO_GUIDANCE,
        flow=False,
    ),
    "auraflow": TinyPipeline(
        "auraflow",
        aura_flow,
        lambda: {**prompts(16, mask="prompt_attention_mask"), **GUIDED, **SMALL},
        guidance="one batch",
        unguided=NO_GUIDANCE,
    ),
    "chroma": TinyPipeline(
        "chroma",
        chroma,
        lambda: {
            **float_masks(prompts(16, mask="prompt_attention_mask")), **GUIDED,
            "height": 32, "width": 32,
        },
        unguided=NO_GUIDANCE,
    ),
    "sana": TinyPipeline(
        "sana",
        sana,
        lambda: {
            **prompts(16, mask="prompt_attention_mask"), **GUIDED, **SMALL,
            "use_resolution_binning": False, "negative_prompt": None,
        },
        guidance="one batch",
        unguided=NO_GUIDANCE,
    ),
}  # fmt: skip
