"""Tiny pipelines around a UNet, of diffusers' own classes with random weights.

Prompts are passed as embeddings; there are no text encoders. Every call returns latents.
"""

from __future__ import annotations

from typing import Any

import torch
from tiny_pipelines import TOKENS, image, kl_vae, noise, set_weights

STEPS = 20
WIDTH = 16
"""Of the text embeddings."""
POOLED = 8
SIZE = 32
"""Of a picture, in pixels: 16 x 16 in the latent."""
TRAINED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""The noise that SD 1.5 and SDXL were trained with."""
SCHEDULERS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
    "EulerDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "PNDMScheduler": {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1},
    "UniPCMultistepScheduler": {},
}
"""Settings of deterministic schedulers of diffusers, as pipelines of SD 1.5 and SDXL have them."""


def scheduler(name: str, kind: str = "epsilon", **settings: Any) -> Any:
    """A scheduler of diffusers. kind: its `prediction_type`."""
    import diffusers

    given = {**TRAINED, **SCHEDULERS.get(name, {}), "prediction_type": kind, **settings}
    return getattr(diffusers, name)(**given)


def unet(channels: int = 4, **settings: Any) -> Any:
    """A UNet as SD 1.5 has it, with one level of attention."""
    from diffusers import UNet2DConditionModel

    given = {
        "sample_size": SIZE // 2,
        "in_channels": channels,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
        **settings,
    }
    model = UNet2DConditionModel(**given).eval()
    set_weights(model)
    return model


def xl_unet() -> Any:
    """A UNet as SDXL has it: pooled text and sizes go into the time embedding."""
    return unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=POOLED + 6 * 4,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
    )


def vae() -> Any:
    """An autoencoder that halves the size."""
    model = kl_vae().eval()
    set_weights(model)
    return model


def prompts(pooled: bool = False) -> dict[str, Any]:
    """Embeddings of a prompt and a negative prompt, for SDXL with the pooled ones."""
    given = {
        "prompt_embeds": noise(1, 1, TOKENS, WIDTH),
        "negative_prompt_embeds": noise(2, 1, TOKENS, WIDTH),
    }
    if pooled:
        given["pooled_prompt_embeds"] = noise(3, 1, POOLED)
        given["negative_pooled_prompt_embeds"] = noise(4, 1, POOLED)
    return given


def build(name: str, **parts: Any) -> Any:
    """A pipeline of diffusers with everything but text encoders, and its progress bar off.

    Args:
        name: of the pipeline's class.
        parts: components in place of the usual ones.
    """
    import diffusers

    absent: dict[str, Any] = {"tokenizer": None, "text_encoder": None}
    if "XL" in name:
        absent |= {"tokenizer_2": None, "text_encoder_2": None}
        usual = {"unet": xl_unet}
    else:
        absent |= {"safety_checker": None, "feature_extractor": None}
        parts.setdefault("requires_safety_checker", False)
        usual = {"unet": unet}
    usual |= {"vae": vae, "scheduler": lambda: scheduler("EulerDiscreteScheduler")}
    made = {part: make() for part, make in usual.items() if part not in parts}
    pipe = getattr(diffusers, name)(**absent, **made, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe: Any, *, steps: int = STEPS, seed: int = 0, **changes: Any) -> torch.Tensor:
    """The latents of one call with guidance."""
    given = {"height": SIZE, "width": SIZE, "guidance_scale": 5.0}
    out = pipe(
        **{**given, **prompts("XL" in type(pipe).__name__), **changes},
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        return_dict=False,
    )
    return out[0]


def picture() -> Any:
    """A picture to start from."""
    return image(SIZE)


class TextStandIn(torch.nn.Linear):
    """What a pipeline asks its text encoder for although the prompts are embeddings."""

    dtype = torch.float32
    device = torch.device("cpu")


def cascade_unet(channels: int, **settings: Any) -> Any:
    """A UNet of Stable Cascade."""
    from diffusers.models import StableCascadeUNet

    model = StableCascadeUNet(
        in_channels=channels, out_channels=channels, conditioning_dim=16,
        block_out_channels=(16, 16), num_attention_heads=(2, 2), down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1), down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(1, 1), switch_level=(False,), clip_text_pooled_in_channels=POOLED,
        block_types_per_layer=(
            ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),
        ) * 2,
        timestep_conditioning_type=("sca",), **settings,
    ).eval()  # fmt: skip
    set_weights(model)
    return model


def cascade(stage: str) -> tuple[Any, dict[str, Any]]:
    """A pipeline of Stable Cascade and the inputs of its calls. stage: `prior` or `decoder`."""
    import diffusers

    text = {"tokenizer": None, "text_encoder": TextStandIn(2, 2)}
    noisy = diffusers.DDPMWuerstchenScheduler()
    inputs: dict[str, Any] = {
        "prompt_embeds": noise(1, 1, TOKENS, POOLED),
        "prompt_embeds_pooled": noise(2, 1, 1, POOLED),
        "negative_prompt_embeds": noise(3, 1, TOKENS, POOLED),
        "negative_prompt_embeds_pooled": noise(4, 1, 1, POOLED),
    }
    if stage == "prior":
        unet = cascade_unet(16, clip_text_in_channels=POOLED, clip_image_in_channels=POOLED)
        made = diffusers.StableCascadePriorPipeline(prior=unet, scheduler=noisy, **text)
        return made, {**inputs, "height": 128, "width": 128}
    unet = cascade_unet(4, effnet_in_channels=16, patch_size=2)
    made = diffusers.StableCascadeDecoderPipeline(
        decoder=unet, scheduler=noisy, vqgan=None, latent_dim_scale=2.0, **text
    )
    return made, {**inputs, "image_embeddings": noise(5, 1, 16, 6, 6), "output_type": "latent"}


def kandinsky(scheduler: Any) -> tuple[Any, dict[str, Any]]:
    """A pipeline of Kandinsky 2.2, whose UNet also predicts a variance, and its inputs."""
    from diffusers import KandinskyV22Pipeline, VQModel

    model = unet(
        out_channels=8, addition_embed_type="image", encoder_hid_dim=POOLED,
        encoder_hid_dim_type="image_proj", resnet_time_scale_shift="scale_shift",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    )  # fmt: skip
    movq = VQModel(block_out_channels=(32,), norm_num_groups=8, latent_channels=4)
    inputs = {
        "image_embeds": noise(1, 1, POOLED),
        "negative_image_embeds": noise(2, 1, POOLED),
        "height": 64,
        "width": 64,
        "output_type": "latent",
    }
    return KandinskyV22Pipeline(unet=model, scheduler=scheduler, movq=movq), inputs
