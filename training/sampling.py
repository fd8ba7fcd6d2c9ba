"""Sampling the demo model without ComfyUI: Euler steps on ComfyUI's SD3 schedule (shift 3)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, SD3Transformer2DModel
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from teacache.demo.model import (
    AUTOENCODER_CONFIG,
    MODELS,
    TEXT_FILE,
    TRANSFORMER_FILE,
    VAE_FILE,
    DemoText,
    transformer_config,
    vae_to_diffusers,
)

SHIFT = 3.0


def schedule(steps: int) -> Tensor:
    """Noise levels [steps + 1], from 1 to 0."""
    t = torch.linspace(1, 0, steps + 1)
    return SHIFT * t / (1 + (SHIFT - 1) * t)


class DemoPipeline:
    """Text-to-image with the three files of the demo model.

    Args:
        models: folder of the files.
        device: for PyTorch.
        bfloat16: run the transformer under bfloat16 autocast; else in float32.
    """

    def __init__(self, models: Path = MODELS, device: str = "cpu", bfloat16: bool = True) -> None:
        self.device, self.bfloat16 = torch.device(device), bfloat16
        weights = load_file(models / TRANSFORMER_FILE)
        self.transformer = SD3Transformer2DModel.from_config(transformer_config(weights))
        self.transformer.load_state_dict(weights)
        self.vae = AutoencoderTiny.from_config(AUTOENCODER_CONFIG)
        self.vae.load_state_dict(vae_to_diffusers(load_file(models / VAE_FILE)))
        self.text = DemoText.load(models / TEXT_FILE)
        for module in (self.transformer, self.vae, self.text.encoder):
            module.float().eval().to(self.device)

    @torch.no_grad()
    def __call__(
        self,
        prompts: Sequence[str],
        *,
        steps: int = 30,
        cfg: float = 3.0,
        seed: int = 0,
        batch: int = 64,
    ) -> np.ndarray:
        """Sample a picture for each prompt.

        Args:
            prompts: n captions.
            steps: number of Euler steps.
            cfg: guidance scale.
            seed: of the noise; that of a prompt depends on its index, not on `batch`.
            batch: prompts that are sampled at once.

        Returns:
            uint8 [n, 128, 128, 3].
        """
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(prompts), 16, 16, 16, generator=generator)
        pictures = []
        progress = tqdm(total=len(prompts), unit="picture")
        for start in range(0, len(prompts), batch):
            chunk = list(prompts[start : start + batch])
            latents = self.denoise(chunk, noise[start : start + batch], steps, cfg)
            decoded = self.vae.decode(latents).sample
            pictures.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().cpu())
            progress.update(len(chunk))
        progress.close()
        return torch.cat(pictures).permute(0, 2, 3, 1).numpy()

    def denoise(self, prompts: list[str], noise: Tensor, steps: int, cfg: float) -> Tensor:
        """Latents [n, 16, 16, 16] of n prompts, from noise of that shape."""
        n, x = len(prompts), noise.to(self.device)
        text = self.text([*prompts, *[""] * n])
        sigmas = schedule(steps).tolist()
        for sigma, following in itertools.pairwise(sigmas):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                velocity = self.transformer(
                    hidden_states=torch.cat([x, x]),
                    encoder_hidden_states=text["prompt_embeds"],
                    pooled_projections=text["pooled_prompt_embeds"],
                    timestep=torch.full((2 * n,), sigma * 1000, device=self.device),
                    return_dict=False,
                )[0].float()
            conditional, unconditional = velocity.chunk(2)
            guided = unconditional + cfg * (conditional - unconditional)
            x = x + (following - sigma) * guided
        return x
