"""The models: architectures of the published sizes, and tiny ones of the same classes.

Each is described once and built in ComfyUI and in diffusers (`benchmarks.gpu.building`). The
published sizes are those of the checkpoints' configuration files; a test compares the counted
parameters with the published counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.testbeds import COMFYUI, DIFFUSERS

PIXELS_PER_POSITION = 8
"""Pixels in a row for each position of a latent, with the autoencoders of all these models."""
FRAMES_PER_POSITION = 4
"""Frames of a film for each position of a latent, behind the first frame."""


@dataclass(frozen=True)
class Architecture:
    """A model on one host.

    Args:
        name: of the class in `comfy.supported_models`, or of diffusers' transformer.
        arguments: of its constructor.
        middle: path of a layer in the middle block, which runs where the block is computed.
        last: path of a layer behind the blocks.
        blocks: paths of the lists of blocks; none for a UNet.
    """

    name: str
    arguments: Mapping[str, Any]
    middle: str
    last: str
    blocks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Text:
    """The text of one prompt, as the model takes it.

    Args:
        tokens, width: of its embeddings.
        pooled: width of its pooled embedding; None for none.
        masked: whether diffusers' pipeline takes a mask of the tokens.
    """

    tokens: int
    width: int
    pooled: int | None = None
    masked: bool = False


@dataclass(frozen=True)
class ModelSize:
    """A model, and the size that it is sampled at.

    Args:
        name: short name.
        title: for tables.
        family: id in `docs/families.md`; empty for a UNet, whose residuals are not cached.
        parameters: of the denoiser.
        hosts: the architecture on each host.
        pipeline: name of diffusers' pipeline.
        latent: shape of a latent in ComfyUI, without the batch.
        size: the pipeline's arguments for that size.
        tokens, width: of the image at the input of the block stack.
        text: of a prompt.
        guidance: its strength.
        guidance_argument: what the pipeline calls it.
        distilled: whether guidance is an input of the model, which has one branch then.
        shift: of the noise levels of flow matching; None for Stable Diffusion's levels.
        packed: whether the pipeline takes latents as tokens of 2 x 2 positions.
        reads_input: whether the family's usual profile compares what enters the blocks, which is
            held then.
        step_seconds: a guess for one evaluation on a large accelerator, to plan the time with.
    """

    name: str
    title: str
    family: str
    parameters: int
    hosts: Mapping[str, Architecture]
    pipeline: str
    latent: tuple[int, ...]
    size: Mapping[str, int]
    tokens: int
    width: int
    text: Text
    guidance: float
    guidance_argument: str = "guidance_scale"
    distilled: bool = False
    shift: float | None = 3.0
    packed: bool = False
    reads_input: bool = True
    step_seconds: float = 0.01

    @property
    def branches(self) -> int:
        """Evaluations of the model in a step."""
        return 1 if self.distilled else 2

    @property
    def has_blocks(self) -> bool:
        """Whether residuals of the block stack can be cached."""
        return bool(self.family)


def flux(
    name: str, title: str, double: int, single: int, heads: int, text: Text, side: int, **more: Any
) -> ModelSize:
    """FLUX.1-dev (Black Forest Labs, `flux/util.py`): guidance is an input.

    Args:
        double, single: numbers of blocks of the two kinds. heads: of 128.
        side: of the picture, in pixels.
    """
    width, positions = 128 * heads, side // PIXELS_PER_POSITION
    comfyui = {
        "in_channels": 16, "out_channels": 16, "vec_in_dim": text.pooled,
        "context_in_dim": text.width, "hidden_size": width, "mlp_ratio": 4.0, "num_heads": heads,
        "depth": double, "depth_single_blocks": single, "axes_dim": [16, 56, 56], "theta": 10000,
        "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
    }  # fmt: skip
    diffusers = {
        "num_layers": double, "num_single_layers": single, "num_attention_heads": heads,
        "joint_attention_dim": text.width, "pooled_projection_dim": text.pooled,
        "guidance_embeds": True,
    }  # fmt: skip
    middle = single // 2
    return ModelSize(
        name, title, "flux1",
        hosts={
            COMFYUI: Architecture(
                "Flux", comfyui, f"single_blocks.{middle}.linear2", "final_layer.linear",
                ("double_blocks", "single_blocks"),
            ),
            DIFFUSERS: Architecture(
                "FluxTransformer2DModel", diffusers,
                f"single_transformer_blocks.{middle}.proj_out", "proj_out",
                ("transformer_blocks", "single_transformer_blocks"),
            ),
        },
        pipeline="FluxPipeline", latent=(16, positions, positions),
        size={"height": side, "width": side}, tokens=(positions // 2) ** 2, width=width,
        text=text, guidance=3.5, distilled=True, packed=True, **more,
    )  # fmt: skip


def qwen_image(
    name: str, title: str, layers: int, heads: int, text: Text, side: int, **more: Any
) -> ModelSize:
    """Qwen-Image (its `transformer/config.json`): two branches. Arguments: as those of `flux`."""
    positions = side // PIXELS_PER_POSITION
    shape = {
        "num_layers": layers, "attention_head_dim": 128, "num_attention_heads": heads,
        "joint_attention_dim": text.width, "in_channels": 64,
    }  # fmt: skip
    path, middle = "transformer_blocks", f"transformer_blocks.{layers // 2}.img_mlp"
    return ModelSize(
        name, title, "qwen_image",
        hosts={
            COMFYUI: Architecture("QwenImage", shape, middle, "proj_out", (path,)),
            DIFFUSERS: Architecture(
                "QwenImageTransformer2DModel", {**shape, "out_channels": 16}, middle, "proj_out",
                (path,),
            ),
        },
        pipeline="QwenImagePipeline", latent=(16, 1, positions, positions),
        size={"height": side, "width": side}, tokens=(positions // 2) ** 2, width=128 * heads,
        text=text, guidance=4.0, guidance_argument="true_cfg_scale", packed=True, **more,
    )  # fmt: skip


def wan(
    name: str,
    title: str,
    layers: int,
    heads: int,
    feed_forward: int,
    text: Text,
    film: tuple[int, int, int],
    **more: Any,
) -> ModelSize:
    """Wan 2.1, text to video (its `config.json`): two branches of guidance.

    Args:
        layers: number of blocks. heads: of 128. feed_forward: its width.
        film: width and height in pixels, and frames.
    """
    width, (across, down, frames) = 128 * heads, film
    positions = (
        (frames - 1) // FRAMES_PER_POSITION + 1,
        down // PIXELS_PER_POSITION,
        across // PIXELS_PER_POSITION,
    )
    comfyui = {
        "model_type": "t2v", "dim": width, "ffn_dim": feed_forward, "num_heads": heads,
        "num_layers": layers, "in_dim": 16, "out_dim": 16, "text_dim": text.width, "freq_dim": 256,
    }  # fmt: skip
    diffusers = {
        "num_attention_heads": heads, "attention_head_dim": 128, "ffn_dim": feed_forward,
        "num_layers": layers, "text_dim": text.width,
    }  # fmt: skip
    middle = f"blocks.{layers // 2}.ffn"
    return ModelSize(
        name, title, "wan21",
        hosts={
            COMFYUI: Architecture("WAN21_T2V", comfyui, middle, "head.head", ("blocks",)),
            DIFFUSERS: Architecture(
                "WanTransformer3DModel", diffusers, middle, "proj_out", ("blocks",)
            ),
        },
        pipeline="WanPipeline", latent=(16, *positions),
        size={"height": down, "width": across, "num_frames": frames},
        tokens=positions[0] * (positions[1] // 2) * (positions[2] // 2), width=width,
        text=text, guidance=5.0, reads_input=False, **more,
    )  # fmt: skip


def sdxl(
    name: str,
    title: str,
    channels: int,
    depths: tuple[int, int],
    text: Text,
    side: int,
    **more: Any,
) -> ModelSize:
    """SDXL's UNet (Stability AI, `sd_xl_base.yaml`): two branches of guidance, no list of blocks.

    Args:
        channels: of the first level; the others have twice and four times as many.
        depths: transformer blocks in each block of the second and the third level.
        side: of the picture, in pixels.
    """
    positions, (second, third) = side // PIXELS_PER_POSITION, depths
    pooled = text.pooled or 0
    heads = tuple(channels * factor // 64 for factor in (1, 2, 4))
    comfyui = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": channels,
        "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, second, second, third, third],
        "transformer_depth_output": [0, 0, 0, *3 * [second], *3 * [third]],
        "transformer_depth_middle": third, "use_spatial_transformer": True,
        "use_linear_in_transformer": True, "context_dim": text.width,
        "adm_in_channels": pooled + 6 * 256, "num_classes": "sequential", "num_heads": -1,
        "num_head_channels": 64, "legacy": False,
    }  # fmt: skip
    down = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
    diffusers = {
        "sample_size": positions, "block_out_channels": tuple(channels * f for f in (1, 2, 4)),
        "layers_per_block": 2, "down_block_types": down,
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": heads, "cross_attention_dim": text.width,
        "transformer_layers_per_block": (1, second, third), "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": pooled + 6 * 256,
    }  # fmt: skip
    return ModelSize(
        name, title, "",
        hosts={
            COMFYUI: Architecture("SDXL", comfyui, "middle_block.0", "out.2"),
            DIFFUSERS: Architecture(
                "UNet2DConditionModel", diffusers, "mid_block.resnets.0", "conv_out"
            ),
        },
        pipeline="StableDiffusionXLPipeline", latent=(4, positions, positions),
        size={"height": side, "width": side}, tokens=positions**2, width=channels,
        text=text, guidance=7.0, shift=None, reads_input=False, **more,
    )  # fmt: skip


T5, WAN_TEXT = Text(512, 4096, pooled=768), Text(512, 4096)
TINY_TEXT = Text(7, 64, pooled=16)
PLAIN = dataclasses.replace(TINY_TEXT, pooled=None)
MASKED = dataclasses.replace(PLAIN, masked=True)

REAL: dict[str, ModelSize] = {
    size.name: size
    for size in (
        flux(
            "flux1", "FLUX.1-dev 12B, 1024 x 1024", 19, 38, 24, T5, 1024,
            parameters=11_901_408_320, step_seconds=0.3,
        ),
        sdxl(
            "sdxl", "SDXL's UNet 2.6B, 1024 x 1024", 320, (2, 10), Text(77, 2048, pooled=1280),
            1024, parameters=2_567_463_684, step_seconds=0.1,
        ),
        wan(
            "wan21-1.3b", "Wan 2.1 1.3B, 832 x 480, 81 frames", 30, 12, 8960, WAN_TEXT,
            (832, 480, 81), parameters=1_418_996_800, step_seconds=1.6,
        ),
        qwen_image(
            "qwen_image", "Qwen-Image 20B, 1024 x 1024", 60, 24, Text(128, 3584, masked=True), 1024,
            parameters=20_430_401_088, step_seconds=0.9,
        ),
        wan(
            "wan21-14b", "Wan 2.1 14B, 832 x 480, 33 frames", 40, 40, 13824, WAN_TEXT,
            (832, 480, 33), parameters=14_288_491_584, step_seconds=2.6,
        ),
    )
}  # fmt: skip
"""The published sizes."""

TINY: dict[str, ModelSize] = {
    size.name: size
    for size in (
        flux("flux1", "FLUX.1, tiny", 1, 2, 1, TINY_TEXT, 64, parameters=0),
        sdxl("sdxl", "SDXL's UNet, tiny", 64, (1, 1), TINY_TEXT, 32, parameters=0),
        wan("wan21-1.3b", "Wan 2.1, tiny", 2, 1, 128, PLAIN, (64, 64, 9), parameters=0),
        qwen_image("qwen_image", "Qwen-Image, tiny", 2, 1, MASKED, 64, parameters=0),
        wan("wan21-14b", "Wan 2.1, tiny, wider", 2, 2, 256, PLAIN, (64, 64, 5), parameters=0),
    )
}
"""Tiny models of the same names and classes, for the rehearsal on a processor."""
