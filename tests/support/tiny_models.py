"""Tiny models of every family with seeded random weights, built from ComfyUI's own classes.

Gains are small, so that outputs are smooth in the noise level and thresholds behave as on trained
models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

WIDTH = 256
HEADS = 2
DEPTH = 4
CONTEXT = 7
"""Text tokens of a cond."""


@dataclass(frozen=True)
class TinyModel:
    """How to build one model.

    Attributes:
        config: Name of the class in `comfy.supported_models`.
        kwargs: Arguments of the transformer, added to the class's `unet_config`.
        latent: Shape of a latent without its batch dimension.
        text: Width of the context.
        pooled: Width of the pooled text, None for none.
        extra: Returns further conditioning entries.
        prepare: Changes the transformer after its weights are set.
        family: Id of the model family, if it is not the model's name.
        patches_replace: Whether the forward supports `patches_replace["dit"]`.
        control: Returns a ControlNet's residuals for a latent batch; None if not supported.
        weights: Returns the weights that must be in the checkpoint for the class to be built.
        trim: Makes the transformer smaller before its weights are set.
        splits: Whether the result is the same when ComfyUI evaluates the branches one by one.
        newer: Further arguments of the transformer in ComfyUI 0.30 and later.
    """

    config: str
    kwargs: dict[str, Any]
    latent: tuple[int, ...]
    text: int
    pooled: int | None = None
    extra: Callable[[], dict[str, Any]] = field(default=dict)
    prepare: Callable[[Any], None] | None = None
    family: str | None = None
    patches_replace: bool = True
    control: Callable[[torch.Tensor], dict[str, list[torch.Tensor | None]]] | None = None
    weights: Callable[[], dict[str, torch.Tensor]] = field(default=dict)
    trim: Callable[[Any], None] | None = None
    splits: bool = True
    newer: dict[str, Any] = field(default_factory=dict)

    def family_id(self, name: str) -> str:
        return self.family or name


def damp_time_embedding(transformer: Any) -> None:
    """Makes Wan's time embedding change as little from step to step as a trained one does."""
    transformer.time_embedding[-1].bias.data += 10.0


def control_residual(kind: str, tokens: int, width: int, blocks: int) -> Any:
    """Returns a function that makes residuals for every second block, counted from the last.

    Args:
        kind: `input` or `output`, the list of ComfyUI's control that holds them.
        tokens: Tokens of a residual.
        width: Width of a residual.
        blocks: Number of blocks.
    """

    def make(x: torch.Tensor) -> dict[str, list[torch.Tensor | None]]:
        generator = torch.Generator().manual_seed(7)
        adds = [torch.randn(1, tokens, width, generator=generator) * 0.5 for _ in range(blocks)]
        last = blocks - 1
        return {kind: [add if i % 2 == last % 2 else None for i, add in enumerate(adds)]}

    return make


FLUX = dict(
    in_channels=16,
    out_channels=16,
    vec_in_dim=768,
    context_in_dim=64,
    hidden_size=WIDTH,
    mlp_ratio=4.0,
    num_heads=HEADS,
    depth=2,
    depth_single_blocks=3,
    axes_dim=[16, 56, 56],
    theta=10000,
    patch_size=2,
    qkv_bias=True,
    guidance_embed=True,
)
WAN = dict(
    dim=WIDTH,
    ffn_dim=2 * WIDTH,
    num_heads=HEADS,
    num_layers=DEPTH,
    in_dim=16,
    out_dim=16,
    text_dim=64,
    freq_dim=64,
)

TINY: dict[str, TinyModel] = {
    "sd3": TinyModel(
        "SD3",
        dict(
            in_channels=16,
            patch_size=2,
            out_channels=16,
            depth=DEPTH,
            input_size=None,
            adm_in_channels=2048,
            num_patches=96 * 96,
            pos_embed_max_size=96,
            qk_norm="rms",
            context_embedder_config={
                "target": "torch.nn.Linear",
                "params": {"in_features": 64, "out_features": 64 * DEPTH},
            },
            pos_embed_scaling_factor=None,
            x_block_self_attn_layers=[],
        ),
        latent=(16, 8, 8),
        text=64,
        pooled=2048,
        control=control_residual("output", 16, 64 * DEPTH, DEPTH),
    ),
    "flux1": TinyModel(
        "Flux",
        FLUX,
        latent=(16, 8, 8),
        text=64,
        pooled=768,
        control=lambda x: {
            **control_residual("input", 16, WIDTH, 2)(x),
            **control_residual("output", 16, WIDTH, 3)(x),
        },
        newer=dict(txt_ids_dims=[]),
    ),
    "qwen_image": TinyModel(
        "QwenImage",
        dict(
            in_channels=64,
            num_layers=DEPTH,
            attention_head_dim=128,
            num_attention_heads=HEADS,
            joint_attention_dim=64,
        ),
        latent=(16, 1, 8, 8),
        text=64,
        control=control_residual("input", 16, WIDTH, DEPTH),
    ),
    "wan21": TinyModel(
        "WAN21_T2V", WAN, latent=(16, 2, 8, 8), text=64, prepare=damp_time_embedding
    ),
}

BASIC = dict(TINY)
"""The families whose entries others are derived from."""

from tiny_image import IMAGE  # noqa: E402  (they need what is defined above)
from tiny_recent import HAS_RECENT_MODELS, RECENT  # noqa: E402
from tiny_video import VIDEO  # noqa: E402

TINY |= IMAGE | VIDEO | (RECENT if HAS_RECENT_MODELS else {})

UNET = {
    "image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32,
    "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1,
    "use_spatial_transformer": True,
}  # fmt: skip


def build(name: str, seed: int = 0) -> Any:
    """A `ModelPatcher` around the tiny model `name`, in fp32 on the CPU."""
    import comfy.model_patcher
    import comfy.supported_models

    tiny = TINY[name]
    if not hasattr(comfy.supported_models, tiny.config):
        pytest.skip(f"this ComfyUI has no {tiny.config}")
    config_class = getattr(comfy.supported_models, tiny.config)
    newer = tiny.newer if hasattr(comfy.supported_models, "Kandinsky5") else {}
    sizes = {**tiny.kwargs, **newer}
    config = config_class({**config_class.unet_config, **sizes})
    config.unet_config.update(sizes)  # its `unet_extra_config` has put full sizes in
    config.set_inference_dtype(torch.float32, None)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = config.get_model(tiny.weights(), "")
        transformer = model.diffusion_model
        if tiny.trim is not None:
            tiny.trim(transformer)
        for parameter in transformer.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.6 / parameter[0].numel() ** 0.5)
            else:
                torch.nn.init.normal_(parameter, std=0.05)
        if "pos_embed" in transformer._buffers:  # SD3's waits for a checkpoint, uninitialised
            transformer.pos_embed.zero_()
        if tiny.prepare is not None:
            tiny.prepare(transformer)
    cpu = torch.device("cpu")
    model.eval()
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def left_alone() -> Any:
    """A tiny model under the name of one that is known and left as it is (SeedVR2)."""
    model = build("sd3")
    transformer = model.model.diffusion_model
    named = {"__module__": "comfy.ldm.seedvr.model"}
    transformer.__class__ = type("NaDiT", (type(transformer),), named)
    return model


def unet(config_name: str = "SD15", prediction: str = "EPS", context: int = 64) -> Any:
    """A `ModelPatcher` around a tiny UNet as ComfyUI builds SD 1.5's or SDXL's.

    Its blocks are not known to TeaCache; its output is small and smooth.

    Args:
        config_name: of the class in `comfy.supported_models`.
        prediction: of `comfy.model_base.ModelType`.
        context: width of the text's tokens.
    """
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    kind = getattr(comfy.supported_models, config_name)
    own: dict[str, Any] = {"num_heads": 2, "num_head_channels": -1}
    if config_name == "SDXL":
        own = {"num_heads": -1, "num_head_channels": 16, "num_classes": "sequential"}
        own["adm_in_channels"] = 2816
    made = kind({**kind.unet_config, **UNET, "context_dim": context})
    made.unet_config.update(own)
    made.set_inference_dtype(torch.float32, None)
    chosen = comfy.model_base.ModelType[prediction]
    made.model_type = lambda state_dict, prefix="": chosen
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = made.get_model({}, "")
        for parameter in model.diffusion_model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    model.diffusion_model.out[-1].weight.data *= 0.1
    if prediction == "EPS":  # most of the input is noise
        model.diffusion_model.register_forward_hook(lambda module, given, out: out + given[0])
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def cond(name: str, seed: int, tokens: int = CONTEXT) -> list[Any]:
    """Conditioning of one prompt, as CLIPTextEncode returns it."""
    tiny = TINY[name]
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(1, tokens, tiny.text, generator=generator)
    entries: dict[str, Any] = dict(tiny.extra())
    if tiny.pooled is not None:
        entries["pooled_output"] = torch.randn(1, tiny.pooled, generator=generator)
    return [[context, entries]]


def latent(name: str, batch: int = 1) -> torch.Tensor:
    """An empty latent for the model `name`."""
    return torch.zeros(batch, *TINY[name].latent)
