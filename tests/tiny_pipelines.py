"""Tiny random-weight pipelines of diffusers, built from its own classes and tiny configs.

Text encoders are bypassed: prompts come as embeddings. Autoencoders are there only where a
pipeline encodes an image. Every call returns latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

LAYERS = 4
STEPS = 6
TOKENS = 5
NEGATIVE = "negative_"


@dataclass(frozen=True)
class TinyPipeline:
    """One pipeline.

    family: id in the table. build: the pipeline, its weights not yet set. inputs: arguments of a
    call, without steps and seed. guidance: how the branches are evaluated: `two calls`, `one
    batch`, or `none`. unguided: arguments that take the guidance away. calm: changes weights, so
    that the indicator changes as little from step to step as a trained model's.
    """

    family: str
    build: Callable[[], Any]
    inputs: Callable[[], dict[str, Any]]
    guidance: str = "two calls"
    unguided: dict[str, Any] = field(default_factory=dict)
    calm: Callable[[Any], None] = lambda pipe: None
    flow: bool = True


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def image(size: int = 32) -> Any:
    from PIL import Image

    return Image.linear_gradient("L").resize((size, size)).convert("RGB")


def flow(**config: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**config)


def set_weights(module: nn.Module, seed: int = 0) -> None:
    """Seeded weights of a size that keeps the streams in range."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in module.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.6 / parameter[0].numel() ** 0.5)
            else:
                nn.init.normal_(parameter, std=0.05)


def build(name: str) -> Any:
    """The pipeline `name`, its weights set, silent."""
    tiny = TINY[name]
    pipe = tiny.build()
    for seed, module in enumerate(pipe.components.values()):
        if isinstance(module, nn.Module):
            set_weights(module.eval(), seed)
    tiny.calm(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe: Any, name: str, *, steps: int = STEPS, seed: int = 0, **changes: Any) -> Any:
    """The latents of one call."""
    inputs = {**TINY[name].inputs(), **changes}
    with small_images():
        out = pipe(
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
            **inputs,
        )
    return out[0] if isinstance(out, tuple) else next(iter(out.values()))


@contextmanager
def small_images() -> Iterator[None]:
    """Qwen's edit pipelines scale every image to a megapixel: here, to a thousand pixels."""
    with ExitStack() as stack:
        for module, found in (("edit", (32, 32, None)), ("edit_plus", (32, 32))):
            path = f"diffusers.pipelines.qwenimage.pipeline_qwenimage_{module}.calculate_dimensions"
            stack.enter_context(patch(path, return_value=found))
        yield


def transformers(pipe: Any) -> list[nn.Module]:
    found = [pipe.components.get(name) for name in ("transformer", "transformer_2")]
    return [module for module in found if module is not None]


def stack_blocks(transformer: nn.Module) -> list[nn.Module]:
    """The real blocks of the stack, found through the family's paths."""
    from teacache.families import find_family

    family = find_family(transformer)
    assert family is not None
    return [
        block
        for blocks in family.lists
        for block in transformer.get_submodule(blocks.path).children()
    ]


def prompts(width: int, pooled: int | None = None, mask: str | None = None) -> dict[str, Any]:
    """Embeddings of a prompt and a negative one. mask: name of their masks' argument."""
    inputs: dict[str, Any] = {}
    for seed, prefix in ((1, ""), (2, NEGATIVE)):
        inputs[f"{prefix}prompt_embeds"] = noise(seed, 1, TOKENS, width)
        if pooled is not None:
            inputs[f"{prefix}pooled_prompt_embeds"] = noise(seed + 10, 1, pooled)
        if mask is not None:
            inputs[f"{prefix}{mask}"] = torch.ones(1, TOKENS, dtype=torch.long)
    return inputs


def float_masks(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value.float() for name, value in inputs.items()}


def calm(layer: nn.Module) -> None:
    """A time embedding that changes as little from step to step as a trained one's."""
    layer.bias.data += 10.0


def positive(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if not name.startswith(NEGATIVE)}


def kl(channels: int = 4) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=[8, 8],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=channels,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=32,
        shift_factor=0.0,
        scaling_factor=1.0,
    )


def qwen_vae() -> Any:
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=16,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * 16,
        latents_std=[1.0] * 16,
    )


# --- images --------------------------------------------------------------------------------------


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
        scheduler=flow(), vae=kl(), text_encoder=None, tokenizer=None, text_encoder_2=None,
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
    pipe = HiDreamImagePipeline(scheduler=flow(), vae=kl(), transformer=transformer, **absent)
    pipe.default_sample_size = 8
    return pipe


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
        scheduler=flow(), vae=kl(), text_encoder=None, tokenizer=None, transformer=transformer
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


SMALL = {"height": 64, "width": 64}
GUIDED = {"guidance_scale": 3.0}
NO_GUIDANCE = {"guidance_scale": 1.0}
NO_CFG = {"true_cfg_scale": 1.0}

IMAGE: dict[str, TinyPipeline] = {
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
        calm=lambda pipe: calm(pipe.transformer.t_embedder.timestep_embedder.linear_2),
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

TINY: dict[str, TinyPipeline] = dict(IMAGE)

from tiny_video_pipelines import VIDEO  # noqa: E402  (it needs what is defined above)

TINY |= VIDEO
