"""Models of the stand-in for ComfyUI-WanVideoWrapper, and runs of its sampler."""

from __future__ import annotations

import asyncio
import importlib
import sys
from types import ModuleType
from typing import Any

import torch
from paths import TESTS

FOLDER = TESTS / "support" / "wan_video_pack"
FRAMES = 4


def load_pack() -> ModuleType:
    """The stand-in, loaded by ComfyUI's own loader as it loads the pack."""
    import nodes

    assert asyncio.run(nodes.load_custom_node(str(FOLDER), module_parent="custom_nodes"))
    return sys.modules[str(FOLDER).replace(".", "_x_")]


def model(seed: int = 0) -> Any:
    """A patcher as the pack's loader makes it, with random weights."""
    from comfy.model_patcher import ModelPatcher

    import nodes

    package = nodes.NODE_CLASS_MAPPINGS["WanVideoSampler"].__module__.rpartition(".")[0]
    classes = importlib.import_module(f"{package}.wanvideo.modules.model")
    torch.manual_seed(seed)
    transformer = classes.WanModel().eval().requires_grad_(False)
    made = classes.WanVideoModel(transformer)
    patcher = ModelPatcher(made, torch.device("cpu"), torch.device("cpu"))
    patcher.model_options["transformer_options"] = {"block_swap_args": None, "merge_loras": True}
    return patcher


def text(seed: int) -> torch.Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))


TEXTS = {"prompt_embeds": [text(1)], "negative_prompt_embeds": [text(2)]}


def sample(patcher: Any, sampler: Any = None, frames: int = FRAMES, **given: Any) -> torch.Tensor:
    """The latent that the sampler makes of 20 steps with guidance, unless `given` says otherwise.

    Args:
        sampler: the object of the node; None for a new one.
        frames: of the latent.
    """
    import nodes

    node = nodes.NODE_CLASS_MAPPINGS["WanVideoSampler"]() if sampler is None else sampler
    inputs = dict(
        model=patcher, image_embeds={"target_shape": (4, frames, 6, 6)}, shift=5.0, steps=20,
        cfg=4.0, seed=3, scheduler="euler", riflex_freq_index=0, text_embeds=TEXTS,
    )  # fmt: skip
    with torch.inference_mode():
        out, _ = node.process(**{**inputs, **given})
    return out["samples"]
