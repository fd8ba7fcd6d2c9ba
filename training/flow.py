"""Training a denoiser: optimisers, averaged weights, checkpoints and the loop.

The objective is flow matching, unless a trainer says otherwise.

The learning rate is constant after a short warm-up and decays to zero over the last part of the
run. A run can be shortened or prolonged by starting it again with another `--steps`. Batches are
functions of the seed and the step, so an interrupted run gives the same weights when resumed.
"""

from __future__ import annotations

import argparse
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

MUON_LR = 4e-3
Batches = Callable[[int], tuple[Tensor, ...]]
"""step -> (clean latents, noise of the same shape, times [n], conditioning...)."""


def stratified_times(size: int, generator: torch.Generator) -> Tensor:
    """Logit-normal times (mean 0.3, deviation 1.2) [size], one from each of `size` quantiles."""
    quantile = torch.randperm(size, generator=generator)
    u = (quantile + torch.rand(size, generator=generator)) / size
    return torch.sigmoid(0.3 + 1.2 * torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4)))


def new_optimizers(
    model: nn.Module, name: str, blocks: str = "transformer_blocks"
) -> list[torch.optim.Optimizer]:
    """The optimisers of a model.

    Args:
        model: the model.
        name: `muon` for Muon on the matrices of `blocks` and AdamW on the rest, or `adamw`.
        blocks: part of the names of the blocks' parameters.
    """
    matrices, rest = [], []
    for key, weight in model.named_parameters():
        hidden = blocks in key and "norm" not in key and weight.ndim == 2
        (matrices if hidden and name == "muon" else rest).append(weight)
    settings: dict[str, Any] = {"betas": (0.9, 0.98), "weight_decay": 0.0}
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=1e-3, fused=True, **settings)
    ]
    if matrices:
        muon = torch.optim.Muon(
            matrices, lr=MUON_LR, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        )
        optimizers.append(muon)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def rate(step: int, steps: int, decay: float = 0.4, warmup: int = 40) -> float:
    """Learning rate at `step`, as a fraction of the peak.

    Args:
        decay: the last fraction of `steps`, in which the rate decays linearly to zero.
        warmup: first steps, in which it rises linearly.
    """
    remaining = (steps - step) / (decay * steps)
    return min(1.0, (step + 1) / warmup, max(remaining, 0.0))


class FlowTrainer(ABC):
    """The state of a training run, which a checkpoint stores.

    Args:
        model: its parts, all of which are trained.
        network: name of the part that denoises.
        words: vocabulary of the captions; a checkpoint with another one is refused.
        blocks: as in `new_optimizers`.
        args: options of the command (`add_options`).
    """

    def __init__(
        self,
        model: nn.ModuleDict,
        network: str,
        words: Sequence[str],
        blocks: str,
        args: argparse.Namespace,
    ) -> None:
        self.device, self.args, self.words = torch.device(args.device), args, list(words)
        self.model = model.to(self.device)
        self.network = self.model[network]
        if args.compile:
            self.network = torch.compile(self.network)
        self.ema = {k: v.detach().clone() for k, v in self.model.named_parameters()}
        self.optimizers = new_optimizers(self.model, args.optimizer, blocks)
        self.step, self.seconds = 0, 0.0

    @abstractmethod
    def prediction(self, noisy: Tensor, time: Tensor, *conditions: Tensor) -> Tensor:
        """What the network makes of noisy latents: its estimate of `target`.

        Args:
            noisy: noisy latents.
            time: [n], the batch's.
            conditions: the conditioning of the batch.
        """

    def noisy(self, latents: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Noisy latents: by default from clean ones at time 0 to noise at time 1 in a line."""
        mix = time.view(-1, *(1,) * (latents.ndim - 1))
        return (1 - mix) * latents + mix * noise

    def target(self, latents: Tensor, noise: Tensor) -> Tensor:
        """What the network learns, in the shape of `latents`: by default that line's velocity."""
        return noise - latents

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema,
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "words": self.words,
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Resume from a checkpoint; SystemExit if it has another vocabulary."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["words"] != self.words:
            raise SystemExit(f"{path} was trained on other captions; choose another --out")
        self.model.load_state_dict(state["model"])
        self.ema = state["ema"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]

    def advance(self, batches: Batches) -> float:
        """Take one optimiser step.

        Returns:
            The loss.
        """
        latents, noise, time, *conditions = batches(self.step)
        noisy = self.noisy(latents, noise, time)
        with torch.autocast(self.device.type, torch.bfloat16):
            prediction = self.prediction(noisy, time, *conditions)
        loss = (prediction.float() - self.target(latents, noise)).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        scale = rate(self.step, self.args.steps, self.args.decay)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * scale
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        momentum = min(0.996, self.step / (self.step + 10))
        averaged, current = list(self.ema.values()), list(self.model.parameters())
        torch._foreach_lerp_(averaged, [p.detach() for p in current], 1 - momentum)
        return loss.item()


def add_options(parser: argparse.ArgumentParser, steps: int, out: Path) -> None:
    """Add the options of a training command; `steps` and `out` are defaults."""
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--decay", type=float, default=0.4, help="share of --steps at the end")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    parser.add_argument("--compile", action="store_true", help="about a third faster on a CPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--out", type=Path, default=out)
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default_device)


def train(trainer: FlowTrainer, batches: Batches) -> None:
    """Train to the last step, from the checkpoint `--out` if it exists."""
    args = trainer.args
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.out.exists():
        trainer.load(args.out)
    log = args.out.with_suffix(".jsonl").open("a")
    smooth, started, before = 0.0, time.perf_counter(), trainer.seconds
    progress = tqdm(total=args.steps, initial=trainer.step, unit="step", mininterval=5)
    first = trainer.step
    while trainer.step < args.steps:
        loss = trainer.advance(batches)
        done = trainer.step - first
        smooth += (loss - smooth) / min(done, 50)
        trainer.seconds = before + time.perf_counter() - started
        progress.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        progress.update()
        if trainer.step % 20 == 0:
            record = {"step": trainer.step, "loss": smooth, "seconds": round(trainer.seconds)}
            print(json.dumps(record), file=log, flush=True)
        if trainer.step % args.save_every == 0 or trainer.step == args.steps:
            trainer.save(args.out)
