"""Tiny models of the video families (see tiny_models)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from tiny_models import (
    CONTEXT,
    DEPTH,
    HEADS,
    WAN,
    WIDTH,
    TinyModel,
    control_residual,
    damp_time_embedding,
)
from torch import nn

FRAMES = 2
LATENT = (16, FRAMES, 8, 8)


def random_tensor(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention_mask() -> dict[str, Any]:
    return {"attention_mask": torch.ones(1, CONTEXT, dtype=torch.long)}


def clip_vision() -> dict[str, Any]:
    hidden = random_tensor(1, 9, 1280)
    return {"clip_vision_output": SimpleNamespace(penultimate_hidden_states=hidden)}


def remove_adapter(transformer: Any) -> None:
    transformer.llm_adapter = nn.Identity()


def damp_cogvideox(transformer: Any) -> None:
    transformer.time_embedding_linear_2.bias.data += 10.0


class MeanColorEncoder(nn.Module):
    """Replaces Wan Animate's motion encoder, which is slow and cannot be made smaller."""

    def get_motion(self, faces: torch.Tensor) -> torch.Tensor:
        return faces.mean(dim=(2, 3)).repeat(1, 171)[:, :512]


def prepare_animate(transformer: Any) -> None:
    damp_time_embedding(transformer)
    transformer.motion_encoder = MeanColorEncoder()


def prepare_s2v(transformer: Any) -> None:
    damp_time_embedding(transformer)
    transformer.casual_audio_encoder.weights.data.fill_(1.0)


def wan(config: str, kwargs: dict[str, Any] | None = None, **more: Any) -> TinyModel:
    settings = {"latent": LATENT, "text": 64, "prepare": damp_time_embedding, "family": "wan21"}
    return TinyModel(config, WAN | (kwargs or {}), **(settings | more))


def vace(layers: int, contexts: int) -> TinyModel:
    return wan(
        "WAN21_Vace",
        dict(model_type="vace", vace_layers=layers, vace_in_dim=96),
        extra=lambda: {
            "vace_frames": [random_tensor(1, 32, *LATENT[1:], seed=5 + i) for i in range(contexts)],
            "vace_mask": [random_tensor(1, 64, *LATENT[1:], seed=7 + i) for i in range(contexts)],
            "vace_strength": [1.0, 0.7][:contexts],
        },
    )


def s2v(*layers: int) -> TinyModel:
    return wan(
        "WAN22_S2V",
        dict(model_type="s2v", audio_dim=32, audio_inject_layers=list(layers)),
        extra=lambda: {"audio_embed": random_tensor(1, 25, 32, 4 * FRAMES)},
        prepare=prepare_s2v,
    )


HUNYUAN = dict(
    in_channels=16,
    out_channels=16,
    vec_in_dim=768,
    context_in_dim=64,
    hidden_size=WIDTH,
    mlp_ratio=4.0,
    num_heads=HEADS,
    depth=2,
    depth_single_blocks=2,
    axes_dim=[16, 56, 56],
    theta=256,
    patch_size=[1, 2, 2],
    qkv_bias=True,
    guidance_embed=True,
    byt5=False,
    meanflow=False,
    use_cond_type_embedding=False,
    vision_in_dim=None,
)
MEANFLOW_SUM = dict(meanflow_sum=False)
NEWER_HUNYUAN = HUNYUAN | dict(vec_in_dim=None, guidance_embed=False, byt5=True)


def byt5_text() -> dict[str, Any]:
    return {"conditioning_byt5small": random_tensor(1, 5, 1472)}


def hunyuan_control(x: torch.Tensor) -> dict[str, list[torch.Tensor | None]]:
    tokens = FRAMES * 16
    return {
        **control_residual("input", tokens, WIDTH, 2)(x),
        **control_residual("output", tokens, WIDTH, 2)(x),
    }


COSMOS = dict(
    max_img_h=240,
    max_img_w=240,
    max_frames=128,
    in_channels=16,
    out_channels=16,
    patch_spatial=2,
    patch_temporal=1,
    model_channels=WIDTH,
    concat_padding_mask=True,
    crossattn_emb_channels=64,
    pos_emb_cls="rope3d",
    pos_emb_interpolation="crop",
    use_adaln_lora=True,
    adaln_lora_dim=32,
)

VIDEO: dict[str, TinyModel] = {
    "wan21_i2v": wan("WAN21_I2V", dict(model_type="i2v", in_dim=36), extra=clip_vision),
    "wan21_fun_control": wan(
        "WAN21_FunControl2V",
        dict(model_type="i2v", in_dim=48, in_dim_ref_conv=16),
        extra=lambda: {"reference_latents": [random_tensor(1, 16, 1, 8, 8)], **clip_vision()},
    ),
    "wan21_camera": wan(
        "WAN21_Camera",
        dict(model_type="camera", in_dim=32),
        extra=lambda: {"camera_conditions": random_tensor(1, 24, FRAMES, 64, 64), **clip_vision()},
    ),
    "wan21_vace": vace(layers=2, contexts=1),
    "wan21_vace_to_the_end": vace(layers=DEPTH, contexts=2),
    "wan21_humo": wan(
        "WAN21_HuMo",
        dict(model_type="humo"),
        extra=lambda: {
            "audio_embed": random_tensor(1, FRAMES, 8, 5, 1280),
            "reference_latents": [random_tensor(1, 16, 1, 8, 8)],
        },
    ),
    "wan22_s2v": s2v(0, 2),
    "wan22_s2v_to_the_end": s2v(0, DEPTH - 1),
    "wan22_animate": wan(
        "WAN22_Animate",
        dict(model_type="animate", in_dim=36, num_layers=5),
        extra=lambda: {
            "face_video_pixels": random_tensor(1, 3, 4, 16, 16),
            "pose_video_latent": random_tensor(1, 16, 1, 8, 8),
        },
        prepare=prepare_animate,
    ),
    "wan22_i2v": wan("WAN21_T2V", dict(in_dim=36)),
    "wan22_5b": wan("WAN22_T2V", dict(in_dim=48, out_dim=48), latent=(48, FRAMES, 8, 8)),
    "hunyuan_video": TinyModel(
        "HunyuanVideo",
        HUNYUAN,
        latent=LATENT,
        text=64,
        pooled=768,
        control=hunyuan_control,
        newer=MEANFLOW_SUM,
    ),
    "hunyuan_video_15": TinyModel(
        "HunyuanVideo15",
        NEWER_HUNYUAN
        | dict(
            in_channels=65,
            out_channels=32,
            patch_size=[1, 1, 1],
            use_cond_type_embedding=True,
            vision_in_dim=1152,
        ),
        latent=(32, FRAMES, 4, 4),
        text=64,
        pooled=768,
        extra=lambda: {
            "clip_vision_output": SimpleNamespace(last_hidden_state=random_tensor(1, 9, 1152)),
            **byt5_text(),
        },
        family="hunyuan_video",
        newer=MEANFLOW_SUM,
    ),
    "hunyuan_image": TinyModel(
        "HunyuanImage21",
        NEWER_HUNYUAN
        | dict(
            in_channels=64, out_channels=64, patch_size=[1, 1], axes_dim=[64, 64], meanflow=True
        ),
        latent=(64, 4, 4),
        text=64,
        extra=byt5_text,
        family="hunyuan_video",
        newer=MEANFLOW_SUM,
    ),
    "hunyuan_image_refiner": TinyModel(
        "HunyuanImage21Refiner",
        NEWER_HUNYUAN | dict(in_channels=128, out_channels=64, patch_size=[1, 1, 1], byt5=False),
        latent=(64, FRAMES, 4, 4),
        text=64,
        family="hunyuan_video",
        newer=MEANFLOW_SUM,
    ),
    "ltx": TinyModel(
        "LTXV",
        dict(
            in_channels=128,
            cross_attention_dim=WIDTH,
            attention_head_dim=64,
            num_attention_heads=WIDTH // 64,
            caption_channels=64,
            num_layers=DEPTH,
        ),
        latent=(128, FRAMES, 4, 4),
        text=64,
        extra=attention_mask,
    ),
    "cosmos1": TinyModel(
        "CosmosT2V",
        COSMOS
        | dict(
            num_blocks=DEPTH,
            num_heads=4,
            block_config="FA-CA-MLP",
            pos_emb_learnable=False,
            block_x_format="THWBD",
            affline_emb_norm=True,
            extra_per_block_abs_pos_emb=True,
            extra_per_block_abs_pos_emb_type="learnable",
            rope_h_extrapolation_ratio=1.0,
            rope_w_extrapolation_ratio=1.0,
            rope_t_extrapolation_ratio=2.0,
        ),
        latent=LATENT,
        text=64,
        patches_replace=False,
    ),
    "cosmos_predict2": TinyModel(
        "CosmosT2IPredict2",
        COSMOS
        | dict(
            num_blocks=DEPTH,
            num_heads=4,
            pos_emb_learnable=True,
            min_fps=1,
            max_fps=30,
            extra_per_block_abs_pos_emb=False,
            rope_h_extrapolation_ratio=4.0,
            rope_w_extrapolation_ratio=4.0,
            rope_t_extrapolation_ratio=1.0,
            rope_enable_fps_modulation=False,
        ),
        latent=LATENT,
        text=64,
        patches_replace=False,
    ),
    "mochi": TinyModel(
        "GenmoMochi",
        dict(
            depth=DEPTH,
            patch_size=2,
            num_heads=HEADS,
            hidden_size_x=WIDTH,
            hidden_size_y=WIDTH // 2,
            mlp_ratio_x=12288 / WIDTH,
            mlp_ratio_y=4.0,
            learn_sigma=False,
            in_channels=12,
            qk_norm=True,
            qkv_bias=False,
            out_bias=True,
            attn_drop=0.0,
            patch_embed_bias=True,
            posenc_preserve_area=True,
            timestep_mlp_bias=True,
            attend_to_padding=False,
            timestep_scale=1000.0,
            use_t5=True,
            t5_feat_dim=64,
            t5_token_length=256,
            rope_theta=10000.0,
        ),
        latent=(12, FRAMES, 8, 8),
        text=64,
        extra=attention_mask,
    ),
}

VIDEO |= {  # in ComfyUI 0.30 and later
    "wan_scail": wan(
        "WAN21_SCAIL",
        dict(model_type="scail", in_dim=20),
        extra=lambda: {
            "reference_latents": [random_tensor(1, 16, 1, 8, 8)],
            "pose_video_latent": random_tensor(1, 16, FRAMES, 8, 8),
            **clip_vision(),
        },
        family="wan_variants",
    ),
    "wan_dancer": wan(
        "WAN22_WanDancer",
        dict(model_type="wandancer", in_dim=36, audio_inject_layers=[0, DEPTH - 1]),
        extra=lambda: {"audio_embed": random_tensor(1, 16, 35), **clip_vision()},
        family="wan_variants",
    ),
    "wan_animate2": wan(
        "WAN_Animate2",
        dict(model_type="animate2", in_dim=36),
        latent=(16, 1 + FRAMES, 8, 8),
        extra=lambda: {
            "pose_video_latent": random_tensor(1, 16, FRAMES, 8, 8),
            **clip_vision(),
        },
        family="wan_variants",
    ),
    "anima": TinyModel(
        "Anima",
        VIDEO["cosmos_predict2"].kwargs,
        latent=(16, 1, 8, 8),
        text=64,
        patches_replace=False,
        trim=remove_adapter,
    ),
    "kandinsky5": TinyModel(
        "Kandinsky5",
        dict(
            in_visual_dim=16,
            out_visual_dim=16,
            in_text_dim=64,
            in_text_dim2=768,
            time_dim=64,
            model_dim=WIDTH,
            ff_dim=2 * WIDTH,
            visual_embed_dim=132,
            num_text_blocks=1,
            num_visual_blocks=DEPTH,
        ),
        latent=LATENT,
        text=64,
        pooled=768,
        patches_replace=False,
    ),
    "cogvideox": TinyModel(
        "CogVideoX_T2V",
        dict(
            num_attention_heads=4,
            attention_head_dim=64,
            time_embed_dim=64,
            text_embed_dim=64,
            num_layers=DEPTH,
            max_text_seq_length=CONTEXT,
            use_rotary_positional_embeddings=True,
        ),
        latent=LATENT,
        text=64,
        patches_replace=False,
        prepare=damp_cogvideox,
    ),
}
