"""Training by flow matching: optimisers, averaged weights, checkpoints, the loop.

A run can be ended early or prolonged by starting it again with another `--steps`: the learning
rate is constant after a short warm-up and falls to nothing over the last part. Batches are
functions of the seed and the step alone, so an interrupted run continues as if it had not been.
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
"""Batch number `step`: clean latents first, then noise and times, then what conditions them."""


def stratified_times(size: int, generator: torch.Generator) -> Tensor:
    """Logit-normal times (0.3, 1.2), one from each of `size` equal shares of the distribution."""
    share = torch.randperm(size, generator=generator)
    u = (share + torch.rand(size, generator=generator)) / size
    return torch.sigmoid(0.3 + 1.2 * torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4)))


def new_optimizers(
    model: nn.Module, name: str, blocks: str = "transformer_blocks"
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of `blocks` and AdamW for the rest, or AdamW alone."""
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
    """Share of the peak learning rate at `step`."""
    left = (steps - step) / (decay * steps)
    return min(1.0, (step + 1) / warmup, max(left, 0.0))


class FlowTrainer(ABC):
    """Models, optimisers, averaged weights and the clock: all that a checkpoint holds.

    words: what the conditioning's numbers stand for; a checkpoint made with others is refused.
    """

    def __init__(
        self, model: nn.ModuleDict, words: Sequence[str], blocks: str, args: argparse.Namespace
    ) -> None:
        self.device, self.args, self.words = torch.device(args.device), args, list(words)
        self.model = model.to(self.device)
        self.network = self.model["transformer"]
        if args.compile:
            self.network = torch.compile(self.network)
        self.ema = {k: v.detach().clone() for k, v in self.model.named_parameters()}
        self.optimizers = new_optimizers(self.model, args.optimizer, blocks)
        self.step, self.seconds = 0, 0.0

    @abstractmethod
    def velocity(self, noisy: Tensor, time: Tensor, *conditions: Tensor) -> Tensor:
        """What the network predicts for noise - picture."""

    def save(self, path: Path) -> None:
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
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["words"] != self.words:
            raise SystemExit(f"{path} was trained on other captions; choose another --out")
        self.model.load_state_dict(state["model"])
        self.ema = state["ema"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]

    def advance(self, batches: Batches) -> float:
        """One optimiser step; the loss."""
        latents, noise, time, *conditions = batches(self.step)
        mix = time.view(-1, *(1,) * (latents.ndim - 1))
        with torch.autocast(self.device.type, torch.bfloat16):
            velocity = self.velocity((1 - mix) * latents + mix * noise, time, *conditions)
        loss = (velocity.float() - (noise - latents)).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        share = rate(self.step, self.args.steps, self.args.decay)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        keep = min(0.996, self.step / (self.step + 10))
        averaged, current = list(self.ema.values()), list(self.model.parameters())
        torch._foreach_lerp_(averaged, [p.detach() for p in current], 1 - keep)
        return loss.item()


def add_options(parser: argparse.ArgumentParser, steps: int, out: Path) -> None:
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
    """Goes on from the checkpoint, if there is one, to the last step."""
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
