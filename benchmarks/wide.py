"""An SD3 model of full width whose blocks do almost nothing, for `benchmarks.costs`.

Everything around the blocks costs as much as in SD3.5 medium (Stability AI, `mmdit.py`: width
1536, 4,096 tokens at 1024 x 1024, 154 text tokens of width 4096). Weights are random.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.grounds import Ground
from benchmarks.testbeds import COMFYUI, GUIDANCE, STEPS, Testbed

DEPTH = 24
TEXT_TOKENS, TEXT_WIDTH, POOLED_WIDTH = 154, 4096, 2048


class LightBlock(nn.Module):
    """Scales the image by 1.01, so that there is a residual.

    Args:
        block: an SD3 block, whose modulation the indicator reads.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.x_block = block.x_block

    def forward(self, context: Tensor, x: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return context, x * 1.01


def wide_testbed() -> Testbed:
    """The testbed, in ComfyUI alone. ComfyUI must be booted."""
    import comfy.model_patcher
    import comfy.supported_models

    width = 64 * DEPTH
    model_config = comfy.supported_models.SD3
    text = {"in_features": TEXT_WIDTH, "out_features": width}
    config = model_config(
        {
            **model_config.unet_config,
            "patch_size": 2,
            "out_channels": 16,
            "depth": DEPTH,
            "input_size": None,
            "adm_in_channels": POOLED_WIDTH,
            "num_patches": 384 * 384,
            "pos_embed_max_size": 384,
            "qk_norm": "rms",
            "context_embedder_config": {"target": "torch.nn.Linear", "params": text},
            "x_block_self_attn_layers": [],
        }
    )
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=torch.device("meta")).eval()
    transformer = model.diffusion_model
    blocks = transformer.joint_blocks
    transformer.joint_blocks = nn.ModuleList(LightBlock(block) for block in blocks[:2])
    transformer.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in [*transformer.parameters(), *transformer.buffers()]:
            value.normal_(0, 0.02, generator=generator)
    transformer.requires_grad_(False)
    cpu = torch.device("cpu")

    def embed(captions: Sequence[str]) -> dict[str, Tensor]:
        rows = len(captions)
        return {
            "prompt_embeds": torch.randn(rows, TEXT_TOKENS, TEXT_WIDTH, generator=generator),
            "pooled_prompt_embeds": torch.randn(rows, POOLED_WIDTH, generator=generator),
        }

    return Testbed(
        Ground("wide", STEPS, GUIDANCE),
        "SD3.5 medium's width at 1024 x 1024, without its blocks' work",
        ("",),
        ("",),
        comfy.model_patcher.ModelPatcher(model, cpu, cpu),
        None,
        embed,
        {},
        (16, 128, 128),
        lambda latents: latents,
        {COMFYUI: transformer.joint_blocks[0]},
        is_video=False,
    )
