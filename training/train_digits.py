"""Trains the digits model, for films of moving digits (see `training.digits`).

    python -m training.train_digits --steps 1600 --compile
    python -m training.train_digits --export FILE    # the averaged weights of the checkpoint

Needs scikit-learn, which contains the digits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from training.data import ROOT
from training.digits import TEXT_WIDTH, WORDS, Films, new_transformer, save_model
from training.flow import FlowTrainer, add_options, stratified_times, train

CHECKPOINT = ROOT / "checkpoints" / "digits.pt"
MODEL = ROOT.parent / "models" / "digits" / "digits.safetensors"


class DigitsTrainer(FlowTrainer):
    """Trains the transformer and the embedding of caption words."""

    def __init__(self, args: argparse.Namespace) -> None:
        parts = {"transformer": new_transformer(), "text": nn.Embedding(len(WORDS), TEXT_WIDTH)}
        super().__init__(nn.ModuleDict(parts), "transformer", WORDS, "transformer.blocks.", args)

    def prediction(self, noisy: Tensor, time: Tensor, *conditions: Tensor) -> Tensor:
        return self.network(
            hidden_states=noisy,
            timestep=time * 1000,
            encoder_hidden_states=self.model["text"](*conditions),
            return_dict=False,
        )[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, steps=1600, out=CHECKPOINT)
    parser.add_argument("--export", type=Path, nargs="?", const=MODEL, metavar="FILE")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    if args.export is None:
        train(DigitsTrainer(args), Films(args.batch, args.seed, stratified_times))
        args.export = MODEL
    state = torch.load(args.out, map_location="cpu", weights_only=True)
    save_model(args.export, {**state["model"], **state["ema"]})
    print(f"step {state['step']}, {state['seconds']:.0f} s of training -> {args.export}")


if __name__ == "__main__":
    main()
