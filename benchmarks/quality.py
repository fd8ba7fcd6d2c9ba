"""Similarity of pictures to a reference, and the converged references."""

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

from benchmarks.backbone import load_lpips_network
from benchmarks.sampling import sample
from benchmarks.testbeds import COMFYUI, Pair, Testbed
from benchmarks.variants import CONVERGED
from teacache.comparison.metrics import lpips, psnr, ssim
from teacache.files import write_atomically

MAX_PSNR = 100.0
"""PSNR in dB of identical pictures; higher values are cut to it."""
CONVERGED_STEPS = 400
CONVERGED_BATCH = 8
"""Converged references that are sampled in one batch."""
LPIPS_MIN_SIZE = 64
"""Smaller pictures are enlarged to this height and width for LPIPS."""


def decoded(testbed: Testbed, latents: Tensor) -> Tensor:
    """Frames [N, H, W, 3] in [0, 1]; NaN becomes black, so that a broken picture scores badly."""
    with torch.no_grad():
        return testbed.decode(latents).nan_to_num(0.0)


def similarity(a: Tensor, b: Tensor, network: nn.Module | None) -> dict[str, Any]:
    """PSNR in dB, SSIM and, with its network, LPIPS: the fields of a journal's record."""
    values = {"psnr": round(min(MAX_PSNR, psnr(a, b)), 3), "ssim": round(ssim(a, b), 6)}
    if network is not None:
        values["lpips"] = round(lpips(enlarged(a), enlarged(b), network=network), 6)
    return values


def enlarged(frames: Tensor) -> Tensor:
    if min(frames.shape[1:3]) >= LPIPS_MIN_SIZE:
        return frames
    large = interpolate(
        frames.movedim(-1, 1), size=(LPIPS_MIN_SIZE, LPIPS_MIN_SIZE), mode="nearest"
    )
    return large.movedim(1, -1)


def lpips_network() -> tuple[nn.Module | None, str | None]:
    """The network of LPIPS, or None and why it cannot be had."""
    try:
        return load_lpips_network(), None
    except ImportError as error:
        return None, str(error)


class ConvergedReferences:
    """Latents of `CONVERGED_STEPS` uncached steps of a second-order solver, stored in a folder.

    Args:
        testbed: the model.
        folder: where the folder of the latents is created.
        pairs: all pairs of the comparison; latents of several are sampled in one batch.
    """

    def __init__(self, testbed: Testbed, folder: Path, pairs: Sequence[Pair]) -> None:
        self.testbed, self.pairs = testbed, list(pairs)
        guidance = f"{testbed.ground.guidance:g}"
        identity = testbed.name, testbed.digest(), CONVERGED_STEPS, guidance
        self.folder = folder / "_".join(("converged", *map(str, identity)))
        self.folder.mkdir(parents=True, exist_ok=True)

    def file(self, pair: Pair) -> Path:
        """Of the latents of a pair."""
        name = hashlib.sha256(f"{pair.prompt}|{pair.seed}".encode()).hexdigest()[:16]
        return self.folder / f"{name}.safetensors"

    def latents(self, pair: Pair) -> Tensor:
        """[1, *latent_shape], sampled if they are not stored yet."""
        if not self.file(pair).is_file():
            self._sample_batch(pair)
        return load_file(str(self.file(pair)))["latents"]

    def _sample_batch(self, first: Pair) -> None:
        later = self.pairs[self.pairs.index(first) :]
        batch = [pair for pair in later if not self.file(pair).is_file()][:CONVERGED_BATCH]
        sigmas = self.testbed.exact_sigmas(CONVERGED_STEPS)
        samples = sample(
            self.testbed, COMFYUI, self.testbed.patcher, batch, sigmas, sampler=CONVERGED
        )
        for pair, latents in zip(batch, samples.latents, strict=True):
            write = partial(save_file, {"latents": latents[None].contiguous()})
            write_atomically(self.file(pair), write)
