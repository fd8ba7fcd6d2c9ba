"""Models of the stand-in for ComfyUI-WanVideoWrapper, and runs of its sampler."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from paths import TESTS

from teacache.config import TeaCacheConfig
from teacache.report import RunReport

FOLDER = TESTS / "support" / "wan_video_pack"
FRAMES = 4
SKIP_ALL = 90.0
FAITHFUL = {"mode": "faithful", "coefficients": (1.0, 0.0)}
"""The change of the embedding as it is: the stand-in's is not what the profiles were fitted to."""
REUSE = {"predictor": "reuse", "indicator": "rate"}


def load_pack() -> ModuleType:
    """The stand-in, loaded by ComfyUI's own loader as it loads the pack."""
    import nodes

    assert asyncio.run(nodes.load_custom_node(str(FOLDER), module_parent="custom_nodes"))
    return sys.modules[str(FOLDER).replace(".", "_x_")]


def _package() -> str:
    import nodes

    name: str = nodes.NODE_CLASS_MAPPINGS["WanVideoSampler"].__module__
    return name.rpartition(".")[0]


def model(seed: int = 0) -> Any:
    """A patcher as the pack's loader makes it, with random weights."""
    from comfy.model_patcher import ModelPatcher

    classes = importlib.import_module(f"{_package()}.wanvideo.modules.model")
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


@contextmanager
def pack_loaded() -> Iterator[ModuleType]:
    """The stand-in is among ComfyUI's nodes; afterwards they are what they were."""
    import nodes

    before = set(nodes.NODE_CLASS_MAPPINGS)
    yield load_pack()
    for name in nodes.NODE_CLASS_MAPPINGS.keys() - before:
        del nodes.NODE_CLASS_MAPPINGS[name]


def cached(model: Any, threshold: float | None = None, **config: Any) -> tuple[Any, Any]:
    """`model` with the cache, and its handle."""
    from teacache.hosts.comfyui.wan_video import apply_to_wan_video

    settings = TeaCacheConfig(rel_l1_thresh=threshold, **config)
    clone, handle = apply_to_wan_video(model, settings)
    assert handle is not None
    return clone, handle


def scheduler_class(name: str) -> Any:
    """The class of the stand-in's scheduler that the sampler calls `name`."""
    module = importlib.import_module(f"{_package()}.schedulers")
    made, *_ = module.get_scheduler(name, 20, 0, -1, 5.0)
    return type(made)


def transformer(model: Any) -> Any:
    return model.model.diffusion_model


def blocks_run(model: Any) -> int:
    """How often the first block has run since this was asked last."""
    block = transformer(model).blocks[0]
    calls, block.calls = block.calls, 0
    return calls


def error(out: torch.Tensor, native: torch.Tensor) -> float:
    return float((out - native).norm() / native.norm())


def newest(handle: Any) -> RunReport:
    return handle.reports[-1]
