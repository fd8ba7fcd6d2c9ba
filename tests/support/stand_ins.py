"""The command `teacache` with tiny models in place of the weights that a workflow loads.

    python stand_ins.py MODEL WORKFLOW ARGUMENTS ...

runs `teacache run WORKFLOW ARGUMENTS ...`; every loader of a diffusion model returns the tiny model
MODEL (`tiny_models.TINY`), those of text encoders and decoders return what fits to it. Nothing else
is replaced: conversion, validation, execution and the samplers are ComfyUI's and this pack's own.
"""

from __future__ import annotations

import re
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_models
import torch
from PIL import Image

from teacache.cli.main import main
from teacache.hosts.comfyui.headless import session

SCALE = 64
"""Pixels for one cell of a latent when a picture is encoded: more than usual, for speed."""


class TextEncoder:
    """Turns a text into a conditioning that is random but always the same for it."""

    def __init__(self, model: str) -> None:
        self.model = model

    def tokenize(self, text: str, **settings: Any) -> dict[str, list[Any]]:
        return {"l": [text], "t5xxl": [text]}

    def encode_from_tokens_scheduled(self, tokens: Any, add_dict: Any = None) -> list[Any]:
        made = tiny_models.cond(self.model, zlib.crc32(repr(tokens).encode()))
        for _, entries in made:
            entries |= add_dict or {}
        return made


class Decoder:
    """A VAE in shape only."""

    def __init__(self, model: str) -> None:
        self.latent = tiny_models.TINY[model].latent

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        height, width = (max(2, size // SCALE // 2 * 2) for size in pixels.shape[1:3])
        still = (1,) * (len(self.latent) - 3)
        return torch.zeros(len(pixels), self.latent[0], *still, height, width)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        frames = latent.movedim(1, -1).flatten(0, -4)[..., :3]
        large = frames.repeat_interleave(8, 1).repeat_interleave(8, 2)
        return large.sigmoid()


def replace_loaders(comfy: Any, model: str) -> None:
    """Puts the stand-ins behind the loaders of the loaded ComfyUI."""
    made: dict[str, Callable[..., Any]] = {
        "UNETLoader": lambda self, *args, **inputs: (tiny_models.build(model),),
        "CLIPLoader": lambda self, *args, **inputs: (TextEncoder(model),),
        "DualCLIPLoader": lambda self, *args, **inputs: (TextEncoder(model),),
        "VAELoader": lambda self, *args, **inputs: (Decoder(model),),
        "LoraLoaderModelOnly": lambda self, model, lora_name, strength_model: (model,),
    }
    for name, load in made.items():
        kind = comfy.nodes.NODE_CLASS_MAPPINGS[name]
        setattr(kind, kind.FUNCTION, load)


def offer_files(comfy: Any, workflow: str, inputs: Path) -> None:
    """Offers every file that the workflow names, and makes its pictures."""
    names = set(re.findall(r'"([^"\\/]+\.(?:safetensors|png|jpg|webp))"', workflow))
    pictures = {name for name in names if not name.endswith(".safetensors")}
    for name in pictures:
        Image.new("RGB", (256, 256), "orange").save(inputs / name)
    paths = comfy.folder_paths
    paths.set_input_directory(str(inputs))
    known = paths.get_filename_list
    paths.get_filename_list = lambda folder: sorted({*known(folder), *(names - pictures)})


def run(model: str, workflow: Path, arguments: list[str]) -> int:
    """Runs the command; returns its exit status."""
    boot = session.boot
    with tempfile.TemporaryDirectory() as inputs:

        def prepared(*given: Any, **options: Any) -> Any:
            comfy = boot(*given, **options)
            replace_loaders(comfy, model)
            offer_files(comfy, workflow.read_text(encoding="utf-8"), Path(inputs))
            return comfy

        session.boot = prepared
        return main(["run", str(workflow), *arguments])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
