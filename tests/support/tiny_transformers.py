"""Tiny transformers of diffusers with random weights, in an Euler loop with guidance of their own.

Families whose pipelines need a text encoder, or lie in modular pipelines, are tested on these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from stand_in_models import QwenImage21, SenseNova
from tiny_pipelines import LAYERS, STEPS, TOKENS, noise, set_weights
from torch import nn

WIDTH, TEXT_WIDTH = 32, 16
GUIDANCE = 3.0
IMAGE_TOKENS = 16

Latents = tuple[torch.Tensor, ...]
Inputs = Callable[[Latents, torch.Tensor, int, dict[str, Any]], dict[str, Any]]
"""(latents, noise level 1 to 0 of shape [1], seed of the text, what the branch keeps from step to
step) -> the transformer's arguments."""


@dataclass(frozen=True)
class TinyTransformer:
    """One transformer, and how a loop calls it.

    Attributes:
        family: Id of the model family.
        build: Returns the transformer, its weights not yet set.
        latents: Shapes of the latents.
        inputs: Makes the arguments of a call.
        attention: The first attention that the image's tokens enter, within the first block; empty
            where the family has no modulated input.
        outputs: What the transformer returns -> a prediction for each latent.
        attention_input: Which of the attention's arguments they are.
        prepare: Changes the transformer after its weights are set.
    """

    family: str
    build: Callable[[], nn.Module]
    latents: tuple[tuple[int, ...], ...]
    inputs: Inputs
    attention: str
    outputs: Callable[[Any], Latents] = lambda out: (out[0],)
    attention_input: int = 0
    prepare: Callable[[Any], None] = lambda transformer: None


def build(name: str) -> Any:
    """The transformer `name` with weights set."""
    transformer = TRANSFORMERS[name].build().eval().requires_grad_(False)
    set_weights(transformer)
    TRANSFORMERS[name].prepare(transformer)
    return transformer


def sample(
    transformer: Any,
    name: str,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    seen: Callable[[dict[str, Any], Any], None] = lambda given, out: None,
) -> torch.Tensor:
    """The latents of one run, flat and one behind the other.

    Args:
        seen: Is given the arguments and the output of each call.
    """
    tiny = TRANSFORMERS[name]
    latents = tuple(noise(index, *shape) for index, shape in enumerate(tiny.latents))
    kept: tuple[dict[str, Any], ...] = ({}, {})
    with torch.no_grad():
        for step in range(steps):
            level = torch.tensor([1 - step / steps])
            out = []
            for seed in (1, 2) if guidance != 1 else (1,):
                given = tiny.inputs(latents, level, seed, kept[seed - 1])
                answer = transformer(**given)
                seen(given, answer)
                out.append(tiny.outputs(answer))
            latents = tuple(
                x - (branches[-1] + guidance * (branches[0] - branches[-1])) / steps
                for x, *branches in zip(latents, *out, strict=True)
            )
    return torch.cat([x.flatten() for x in latents])


def text(seed: int) -> torch.Tensor:
    return noise(seed, 1, TOKENS, TEXT_WIDTH)


def flux3() -> nn.Module:
    from diffusers import Flux3Transformer2DModel

    return Flux3Transformer2DModel(
        in_channels=8,
        cond_in_channels=8,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        timestep_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
    )


def grid(height: int, width: int, first: int) -> torch.Tensor:
    """Positions (t, h, w, l) of FLUX.3's tokens."""
    ids = torch.zeros(height, width, 4)
    ids[..., 0] = first
    ids[..., 1], ids[..., 2] = torch.meshgrid(
        torch.arange(height), torch.arange(width), indexing="ij"
    )
    return ids.reshape(-1, 4)


def flux3_inputs(
    latents: Latents, level: torch.Tensor, seed: int, kept: dict[str, Any]
) -> dict[str, Any]:
    return {
        "hidden_states": latents[0],
        "encoder_hidden_states": text(seed),
        "timestep": level,
        "img_ids": grid(4, 4, 0),
        "txt_ids": torch.zeros(TOKENS, 4),
        "return_dict": False,
    }


def flux3_edit_inputs(
    latents: Latents, level: torch.Tensor, seed: int, kept: dict[str, Any]
) -> dict[str, Any]:
    return {
        **flux3_inputs(latents, level, seed, kept),
        "image_cond_hidden_states": noise(9, 1, 8, 8),
        "image_cond_ids": grid(2, 4, 1),
    }


JOY = dict(
    in_channels=4,
    hidden_size=WIDTH,
    num_attention_heads=2,
    text_dim=TEXT_WIDTH,
    num_layers=LAYERS,
    rope_dim_list=[4, 6, 6],
)


def joy_image() -> nn.Module:
    from diffusers import JoyImageEditTransformer3DModel

    return JoyImageEditTransformer3DModel(**JOY)


def joy_image_plus() -> nn.Module:
    from diffusers import JoyImageEditPlusTransformer3DModel

    return JoyImageEditPlusTransformer3DModel(**JOY)


def joy_inputs(
    latents: Latents, level: torch.Tensor, seed: int, kept: dict[str, Any]
) -> dict[str, Any]:
    return {
        "hidden_states": latents[0],
        "timestep": level * 1000,
        "encoder_hidden_states": text(seed),
        "return_dict": False,
    }


def joy_plus_inputs(
    latents: Latents, level: torch.Tensor, seed: int, kept: dict[str, Any]
) -> dict[str, Any]:
    return {
        **joy_inputs(latents, level, seed, kept),
        "encoder_hidden_states_mask": torch.ones(1, TOKENS),
        "shape_list": [[(1, 4, 4)]],
    }


KANDINSKY = dict(
    in_visual_dim=4,
    out_visual_dim=4,
    in_text_dim=TEXT_WIDTH,
    in_text_dim2=12,
    time_dim=32,
    model_dim=WIDTH,
    ff_dim=WIDTH,
    num_text_blocks=1,
    num_visual_blocks=LAYERS,
    axes_dims=(4, 6, 6),
)


def kandinsky5(visual_cond: bool) -> nn.Module:
    from diffusers import Kandinsky5Transformer3DModel

    return Kandinsky5Transformer3DModel(**KANDINSKY, visual_cond=visual_cond)


def kandinsky6() -> nn.Module:
    from diffusers import Kandinsky6Transformer3DModel

    return Kandinsky6Transformer3DModel(
        **KANDINSKY, in_audio_dim=6, out_audio_dim=6, ca_rope=True, cross_gates=True
    )


def with_mask(film: torch.Tensor) -> torch.Tensor:
    """A film with the channels of a guiding image, which is not there."""
    return torch.cat([film, torch.zeros(*film.shape[:-1], 5)], dim=-1)


def kandinsky5_inputs(
    latents: Latents, level: torch.Tensor, seed: int, kept: dict[str, Any]
) -> dict[str, Any]:
    film = latents[0]
    return {
        "hidden_states": with_mask(film) if film.shape[1] > 1 else film,
        "encoder_hidden_states": text(seed),
        "timestep": level * 1000,
        "pooled_projections": noise(seed + 10, 1, 12),
        "visual_rope_pos": [torch.arange(film.shape[1]), torch.arange(2), torch.arange(2)],
        "text_rope_pos": torch.arange(TOKENS),
    }


def kandinsky6_inputs(
    latents: Latents, level: torch.Tensor, seed: int, kept: dict[str, Any]
) -> dict[str, Any]:
    return {
        "hidden_states": with_mask(latents[0]),
        "audio_hidden_states": latents[1] if len(latents) > 1 else None,
        "encoder_hidden_states": text(seed),
        "pooled_projections": noise(seed + 10, 1, 12),
        "timestep": level * 1000,
        "return_dict": False,
    }


def cosmos3() -> nn.Module:
    from diffusers import Cosmos3OmniTransformer

    return Cosmos3OmniTransformer(
        head_dim=16,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        latent_channel=4,
        latent_patch_size=2,
        patch_latent_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_hidden_layers=LAYERS,
        vocab_size=32,
        rope_axes_dim=(4, 2, 2),
    )


def cosmos3_inputs(
    latents: Latents, level: torch.Tensor, seed: int, kept: dict[str, Any]
) -> dict[str, Any]:
    tokens = IMAGE_TOKENS
    picture = torch.arange(TOKENS, TOKENS + tokens)
    return {
        "input_ids": torch.arange(TOKENS) + 7 * seed,
        "text_indexes": torch.arange(TOKENS),
        "position_ids": torch.arange(TOKENS + tokens).expand(3, -1),
        "und_len": TOKENS,
        "sequence_length": TOKENS + tokens,
        "vision_tokens": [latents[0]],
        "vision_token_shapes": [(1, 4, 4)],
        "vision_sequence_indexes": picture,
        "vision_mse_loss_indexes": picture,
        "vision_timesteps": (level * 1000).expand(tokens),
        "vision_noisy_frame_indexes": [torch.tensor([0])],
        "return_dict": False,
    }


def qwen_image_21() -> nn.Module:
    from diffusers import QwenImage21Transformer2DModel

    return QwenImage21Transformer2DModel(
        in_channels=8,
        out_channels=8,
        num_layers=LAYERS,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=TEXT_WIDTH,
        axes_dims_rope=(4, 6, 6),
    )


def qwen_image_21_inputs(
    latents: Latents, level: torch.Tensor, seed: int, kept: dict[str, Any]
) -> dict[str, Any]:
    """Five text tokens, a reference image of 2 x 2 tokens in one slot, and the image of 4 x 4."""
    slots = torch.tensor([[False, False, True, False, False, False, True, True, True, True]])
    return {
        "hidden_states": torch.cat([noise(9, 1, 4, 8), latents[0]], dim=1),
        "encoder_hidden_states": noise(seed, 1, 6, TEXT_WIDTH),
        "timestep": level,
        "img_shapes": [[(1, 2, 2), (1, 4, 4)]],
        "img_mask": slots,
        "return_dict": False,
    }


def qwen_image_21_cached_inputs(
    latents: Latents, level: torch.Tensor, seed: int, kept: dict[str, Any]
) -> dict[str, Any]:
    """The first call of a branch keeps the keys and values of the text and the reference."""
    from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVCache

    mode = "cached" if kept else "extract"
    cache = kept.setdefault("cache", QwenImage21KVCache(LAYERS))
    return {
        **qwen_image_21_inputs(latents, level, seed, kept),
        "kv_cache": cache,
        "kv_cache_mode": mode,
    }


def stand_in_inputs(
    latents: Latents, level: torch.Tensor, seed: int, kept: dict[str, Any]
) -> dict[str, Any]:
    return {"hidden_states": latents[0], "timestep": level, "encoder_hidden_states": text(seed)}


def image_tokens(out: Any) -> Latents:
    return (out[0][:, -IMAGE_TOKENS:],)


TRANSFORMERS: dict[str, TinyTransformer] = {
    "flux3": TinyTransformer("flux3", flux3, ((1, 16, 8),), flux3_inputs, "attn"),
    "flux3_edit": TinyTransformer("flux3", flux3, ((1, 16, 8),), flux3_edit_inputs, "attn"),
    "joy_image": TinyTransformer("joy_image", joy_image, ((1, 4, 1, 8, 8),), joy_inputs, "attn"),
    "joy_image_plus": TinyTransformer(
        "joy_image", joy_image_plus, ((1, 16, 4, 1, 2, 2),), joy_plus_inputs, "attn"
    ),
    "kandinsky5": TinyTransformer(
        "kandinsky5",
        lambda: kandinsky5(True),
        ((1, 2, 4, 4, 4),),
        kandinsky5_inputs,
        "self_attention",
        outputs=lambda out: (out.sample,),
    ),
    "kandinsky5_image": TinyTransformer(
        "kandinsky5_image",
        lambda: kandinsky5(False),
        ((1, 1, 4, 4, 4),),
        kandinsky5_inputs,
        "self_attention",
        outputs=lambda out: (out.sample,),
    ),
    "kandinsky6": TinyTransformer(
        "kandinsky6",
        kandinsky6,
        ((1, 2, 4, 4, 4), (1, 7, 6)),
        kandinsky6_inputs,
        "video_dec_block.self_attention",
        outputs=lambda out: tuple(out),
    ),
    "kandinsky6_silent": TinyTransformer(
        "kandinsky6",
        kandinsky6,
        ((1, 2, 4, 4, 4),),
        kandinsky6_inputs,
        "video_dec_block.self_attention",
    ),
    "cosmos3": TinyTransformer(
        "cosmos3",
        cosmos3,
        ((1, 4, 1, 8, 8),),
        cosmos3_inputs,
        "self_attn",
        attention_input=1,
        outputs=lambda out: (out[0][0].reshape(1, 4, 1, 8, 8),),
    ),
    "qwen_image21": TinyTransformer(
        "qwen_image21",
        qwen_image_21,
        ((1, 16, 8),),
        qwen_image_21_inputs,
        "attn",
        outputs=image_tokens,
    ),
    "qwen_image21_cached": TinyTransformer(
        "qwen_image21",
        qwen_image_21,
        ((1, 16, 8),),
        qwen_image_21_cached_inputs,
        "attn",
        outputs=image_tokens,
    ),
    "qwen_image21_in_comfyui": TinyTransformer(
        "qwen_image21", lambda: QwenImage21(False), ((1, 16, 8),), stand_in_inputs, "qkv"
    ),
    "qwen_image21_in_comfyui_cached": TinyTransformer(
        "qwen_image21", lambda: QwenImage21(True), ((1, 16, 8),), stand_in_inputs, "qkv"
    ),
    "sensenova": TinyTransformer(
        "sensenova", SenseNova, ((1, 16, 8),), stand_in_inputs, "of_image"
    ),
}

from tiny_dual_stream import DUAL_STREAM  # noqa: E402  (it needs what is above)

TRANSFORMERS |= DUAL_STREAM
