"""Trains the UNet model, for pictures of four digits (see `training.unet`).

    python -m training.train_unet --batch 32 --decay 0.6
    python -m training.train_unet --export FILE    # the averaged weights of the checkpoint

Needs scikit-learn, which contains the digits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from training.data import ROOT
from training.digits import save_model
from training.flow import FlowTrainer, add_options, train
from training.unet import (
    LEVELS,
    TEXT_ROWS,
    TEXT_WIDTH,
    Pictures,
    new_unet,
    signal_shares,
)

CHECKPOINT = ROOT / "checkpoints" / "unet.pt"
MODEL = ROOT.parent / "models" / "unet" / "unet.safetensors"


class UNetTrainer(FlowTrainer):
    """Trains the UNet and the text table to predict the noise at a level of Stable Diffusion's."""

    def __init__(self, args: argparse.Namespace) -> None:
        parts = {"unet": new_unet(), "text": nn.Embedding(TEXT_ROWS, TEXT_WIDTH)}
        super().__init__(nn.ModuleDict(parts), "unet", [str(LEVELS)], "transformer_blocks.", args)
        self.shares = signal_shares().to(self.device)

    def noisy(self, latents: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        share = self.shares[time].view(-1, 1, 1, 1)
        return share.sqrt() * latents + (1 - share).sqrt() * noise

    def target(self, latents: Tensor, noise: Tensor) -> Tensor:
        return noise

    def prediction(self, noisy: Tensor, time: Tensor, *conditions: Tensor) -> Tensor:
        return self.network(noisy, time, self.model["text"](*conditions), return_dict=False)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, steps=1500, out=CHECKPOINT)
    parser.add_argument("--export", type=Path, nargs="?", const=MODEL, metavar="FILE")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    if args.export is None:
        train(UNetTrainer(args), Pictures(args.batch, args.seed))
        args.export = MODEL
    state = torch.load(args.out, map_location="cpu", weights_only=True)
    args.export.parent.mkdir(parents=True, exist_ok=True)
    save_model(args.export, {**state["model"], **state["ema"]})
    print(f"step {state['step']}, {state['seconds']:.0f} s of training -> {args.export}")


if __name__ == "__main__":
    main()
