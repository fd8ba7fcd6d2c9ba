"""Trains the demo model's transformer and text encoder together, on the autoencoder's latents.

python -m training.train_transformer --steps 4500
python -m training.train_transformer --steps 4500    # again: resumes from the checkpoint
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, SD3Transformer2DModel
from torch import Tensor, nn

from teacache.demo.model import TextEncoder, Tokenizer
from training.data import ROOT, Captioner, load_concepts, load_pictures
from training.flow import FlowTrainer, add_options, stratified_times, train

CHECKPOINTS = ROOT / "checkpoints"
LAYERS, TEXT_WIDTH = 5, 256
TRANSFORMER = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": LAYERS,
    "num_attention_heads": LAYERS,
    "attention_head_dim": 64,
    "caption_projection_dim": LAYERS * 64,
    "joint_attention_dim": TEXT_WIDTH,
    "pooled_projection_dim": TEXT_WIDTH,
    "pos_embed_max_size": 32,
    "qk_norm": "rms_norm",
}


def new_transformer() -> SD3Transformer2DModel:
    """A transformer with random weights, and zero modulation and output layers."""
    model = SD3Transformer2DModel(**TRANSFORMER)
    modulations = [m for n, m in model.named_modules() if n.endswith(("norm1.linear", "t.linear"))]
    for layer in [*modulations, model.proj_out]:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


@torch.no_grad()
def encode_latents(folder: Path, device: torch.device) -> Tensor:
    """The training pictures' latents [n, 16, 16, 16], not scaled: their variance is about 1."""
    autoencoder = AutoencoderTiny.from_pretrained(folder).to(device).eval()
    pictures = torch.from_numpy(load_pictures()).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.cat([autoencoder.encode(b.to(device)).latents for b in pictures.split(32)])


class Batches:
    """Training batches, functions of the seed and the step: latents, noise, times, caption words.

    Args:
        latents: of all pictures.
        captioner: draws captions.
        tokenizer: words -> indices.
        size: of a batch.
        seed: of all random numbers.
    """

    def __init__(
        self, latents: Tensor, captioner: Captioner, tokenizer: Tokenizer, size: int, seed: int
    ) -> None:
        self.latents, self.captioner, self.tokenizer = latents, captioner, tokenizer
        self.size, self.seed = size, seed

    def index(self, position: int) -> int:
        """Index of the picture at a position in the sequence of shuffled epochs."""
        epoch, offset = divmod(position, len(self.latents))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return int(torch.randperm(len(self.latents), generator=generator)[offset])

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 7_368_787 + step)
        rng = random.Random(self.seed * 15_485_863 + step)
        picks = [self.index(step * self.size + i) for i in range(self.size)]
        time = stratified_times(self.size, generator)
        noise = torch.randn(self.size, *self.latents.shape[1:], generator=generator)
        ids = torch.tensor([self.tokenizer(self.captioner(i, rng)) for i in picks])
        device = self.latents.device
        return self.latents[picks], noise.to(device), time.to(device), ids.to(device)


class Trainer(FlowTrainer):
    """Trains the demo model's transformer and text encoder."""

    def __init__(self, tokenizer: Tokenizer, args: argparse.Namespace) -> None:
        text = TextEncoder(len(tokenizer.words) + 2, TEXT_WIDTH, TEXT_WIDTH)
        model = nn.ModuleDict({"transformer": new_transformer(), "text": text})
        super().__init__(model, "transformer", tokenizer.words, "transformer_blocks", args)

    def prediction(self, noisy: Tensor, time: Tensor, *conditions: Tensor) -> Tensor:
        tokens, pooled = self.model["text"](*conditions)
        return self.network(
            hidden_states=noisy,
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            timestep=time * 1000,
            return_dict=False,
        )[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, steps=4500, out=CHECKPOINTS / "transformer.pt")
    parser.add_argument("--autoencoder", type=Path, default=CHECKPOINTS / "autoencoder")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    concepts = load_concepts()
    tokenizer = Tokenizer.from_texts(t for c in concepts for t in (c.label, *c.tags))
    trainer = Trainer(tokenizer, args)
    latents = encode_latents(args.autoencoder, trainer.device)
    train(trainer, Batches(latents, Captioner(concepts), tokenizer, args.batch, args.seed))


if __name__ == "__main__":
    main()
