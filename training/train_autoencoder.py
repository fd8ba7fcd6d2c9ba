"""Trains the demo model's autoencoder (TAESD's architecture with 16 latent channels).

    python -m training.train_autoencoder
    python -m training.train_autoencoder      # again: resumes from the checkpoint

It is trained on random crops of the 3D renderings. A few renderings are held out to measure PSNR.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from teacache.demo.model import AUTOENCODER_CONFIG
from training.data import ROOT, load_pictures

CHECKPOINTS = ROOT / "checkpoints"
HELD_OUT = 50
LATENT_NOISE = 0.03


def to_tensor(pictures: np.ndarray, device: torch.device) -> Tensor:
    """uint8 [n, H, W, 3] -> [n, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def crops(pictures: np.ndarray, count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """`count` random square crops of `pictures` [n, H, W, 3]; half of them are mirrored."""
    positions = pictures.shape[1] - size + 1
    chosen = []
    for index in rng.integers(len(pictures), size=count):
        top, left = rng.integers(positions, size=2)
        crop = pictures[index, top : top + size, left : left + size]
        chosen.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
    return np.stack(chosen)


def latent_penalty(z: Tensor) -> Tensor:
    """Penalty for latents away from zero mean and unit variance, or beyond the clamp at 3."""
    return z.mean().square() + (z.std() - 1).square() + functional.relu(z.abs() - 3).mean()


def reconstruction_loss(decoded: Tensor, target: Tensor) -> Tensor:
    return functional.l1_loss(decoded, target) + 2 * functional.mse_loss(decoded, target)


@torch.no_grad()
def psnr(autoencoder: AutoencoderTiny, pictures: np.ndarray, device: torch.device) -> float:
    """Mean PSNR of the reconstructed pictures, in dB."""
    values = []
    for start in range(0, len(pictures), 16):
        x = to_tensor(pictures[start : start + 16], device)
        y = autoencoder.decode(autoencoder.encode(x).latents).sample.clamp(-1, 1)
        error = ((x - y) / 2).square().mean((1, 2, 3))
        values += (-10 * error.log10()).tolist()
    return float(np.mean(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3800)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--out", type=Path, default=CHECKPOINTS / "autoencoder")
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default_device)
    args = parser.parse_args()

    device = torch.device(args.device)
    torch.manual_seed(args.seed)
    renders = load_pictures("renders")
    shuffled = np.random.default_rng(0).permutation(len(renders))
    train, held_out = renders[shuffled[HELD_OUT:]], renders[shuffled[:HELD_OUT]]
    autoencoder = AutoencoderTiny.from_config(AUTOENCODER_CONFIG)
    state_path = args.out / "training.pt"
    autoencoder.to(device).float()
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=args.rate, fused=True)
    ema = [p.detach().clone() for p in autoencoder.parameters()]
    step, seconds = 0, 0.0
    args.out.mkdir(parents=True, exist_ok=True)
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        autoencoder.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema, step, seconds = state["ema"], state["step"], state["seconds"]

    started, before = time.perf_counter(), seconds
    progress = tqdm(total=args.steps, initial=step, unit="step", mininterval=5)
    while step < args.steps:
        rng = np.random.default_rng((args.seed, step))
        x = to_tensor(crops(train, args.batch, args.crop, rng), device)
        generator = torch.Generator().manual_seed(args.seed * 7_368_787 + step)
        with torch.autocast(device.type, torch.bfloat16):
            z = autoencoder.encode(x).latents
            noise = torch.randn(z.shape, generator=generator).to(device)
            decoded = autoencoder.decode(z + LATENT_NOISE * noise).sample
        loss = reconstruction_loss(decoded.float(), x) + 0.02 * latent_penalty(z.float())
        loss.backward()
        warmup, decay = min(1.0, (step + 1) / 50), 0.5 + 0.5 * np.cos(np.pi * step / args.steps)
        for group in optimizer.param_groups:
            group["lr"] = args.rate * warmup * decay
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        momentum = min(0.998, step / (step + 10))
        torch._foreach_lerp_(ema, [p.detach() for p in autoencoder.parameters()], 1 - momentum)
        progress.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
        progress.update()
        if step % args.save_every == 0 or step == args.steps:
            seconds = before + time.perf_counter() - started
            state = {
                "model": autoencoder.state_dict(),
                "optimizer": optimizer.state_dict(),
                "ema": ema,
                "step": step,
                "seconds": seconds,
            }
            torch.save(state, state_path.with_suffix(".partial"))
            state_path.with_suffix(".partial").replace(state_path)
    progress.close()

    for weight, averaged in zip(autoencoder.parameters(), ema, strict=True):
        weight.data.copy_(averaged)
    autoencoder.half().save_pretrained(args.out)
    quality = psnr(autoencoder.float(), held_out, device)
    print(f"{quality:.2f} dB on {HELD_OUT} held-out pictures, {seconds:.0f} s")


if __name__ == "__main__":
    main()
