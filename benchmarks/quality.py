"""How near a picture is to a reference, as a record; and the converged references."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks.backbone import perceptual_network
from benchmarks.sampling import sample
from benchmarks.testbeds import COMFYUI, Pair, Testbed
from benchmarks.variants import CONVERGED
from teacache.comparison.metrics import lpips, psnr, ssim
from teacache.files import write_atomically

IDENTICAL = 100.0
"""What identical pictures count as, in dB, and the most that any do."""
CONVERGED_STEPS = 400
TOGETHER = 8
"""Pairs in a batch of converged references."""
LPIPS_SIDE = 64
"""The smallest picture that its network takes; smaller ones are enlarged."""


def picture(bed: Testbed, latents: Tensor) -> Tensor:
    """Decoded; what is not a number becomes black, so that a broken picture counts as one."""
    with torch.no_grad():
        return bed.decode(latents).nan_to_num(0.0)


def compared(a: Tensor, b: Tensor, network: nn.Module | None) -> dict[str, Any]:
    """{"psnr", "ssim"} and, with the network of LPIPS, {"lpips"}."""
    found = {"psnr": round(min(IDENTICAL, psnr(a, b)), 3), "ssim": round(ssim(a, b), 6)}
    if network is not None:
        found["lpips"] = round(lpips(enlarged(a), enlarged(b), network=network), 6)
    return found


def enlarged(frames: Tensor) -> Tensor:
    if min(frames.shape[1:3]) >= LPIPS_SIDE:
        return frames
    large = interpolate(frames.movedim(-1, 1), size=(LPIPS_SIDE, LPIPS_SIDE), mode="nearest")
    return large.movedim(1, -1)


def perceptual() -> tuple[nn.Module | None, str | None]:
    """The network of LPIPS, or None and why it cannot be had."""
    try:
        return perceptual_network(), None
    except ImportError as error:
        return None, str(error)


class Converged:
    """Pictures of `CONVERGED_STEPS` uncached steps, made in batches and kept in a folder."""

    def __init__(self, bed: Testbed, folder: Path, pairs: Sequence[Pair]) -> None:
        self.bed, self.pairs = bed, list(pairs)
        made_of = bed.name, bed.digest(), CONVERGED_STEPS, f"{bed.guidance:g}"
        self.folder = folder / "_".join(("converged", *map(str, made_of)))
        self.folder.mkdir(parents=True, exist_ok=True)

    def file(self, pair: Pair) -> Path:
        name = hashlib.sha256(f"{pair.prompt}|{pair.seed}".encode()).hexdigest()[:16]
        return self.folder / f"{name}.safetensors"

    def latents(self, pair: Pair) -> Tensor:
        if not self.file(pair).is_file():
            self._make(pair)
        return load_file(str(self.file(pair)))["latents"]

    def _make(self, first: Pair) -> None:
        later = self.pairs[self.pairs.index(first) :]
        batch = [pair for pair in later if not self.file(pair).is_file()][:TOGETHER]
        levels = self.bed.exact_levels(CONVERGED_STEPS)
        made = sample(self.bed, COMFYUI, self.bed.patcher, batch, levels, sampler=CONVERGED)
        for pair, latents in zip(batch, made.latents, strict=True):
            write = partial(save_file, {"latents": latents[None].contiguous()})
            write_atomically(self.file(pair), write)
