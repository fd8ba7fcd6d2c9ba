"""Trains the demo model's transformer and text encoder together, on the autoencoder's latents.

    python -m training.train_transformer --steps 4500
    python -m training.train_transformer --steps 4500    # again: goes on from the checkpoint

Flow matching (the network predicts noise - picture). The learning rate is constant after a
short warm-up and falls to nothing over the last part of `--steps`, so a run can be ended early
or prolonged by starting it again with another `--steps`. Every batch is a function of the seed
and the step alone: an interrupted run continues as if it had not been.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, SD3Transformer2DModel
from torch import Tensor, nn
from tqdm import tqdm

from teacache.demo_model import TextEncoder, Tokenizer
from training.data import ROOT, Captioner, load_concepts, load_pictures

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
    """Random weights, with every modulation and the output starting from zero."""
    model = SD3Transformer2DModel(**TRANSFORMER)
    modulations = [m for n, m in model.named_modules() if n.endswith(("norm1.linear", "t.linear"))]
    for layer in [*modulations, model.proj_out]:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


@torch.no_grad()
def encode_latents(folder: Path, device: torch.device) -> Tensor:
    """The pictures' latents as the autoencoder gives them: near unit variance already."""
    autoencoder = AutoencoderTiny.from_pretrained(folder).to(device).eval()
    pictures = torch.from_numpy(load_pictures()).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.cat([autoencoder.encode(b.to(device)).latents for b in pictures.split(32)])


class Batches:
    """Batch number `step`: latents, noise, times and caption numbers, from the seed alone."""

    def __init__(
        self, latents: Tensor, captioner: Captioner, tokenizer: Tokenizer, size: int, seed: int
    ) -> None:
        self.latents, self.captioner, self.tokenizer = latents, captioner, tokenizer
        self.size, self.seed = size, seed

    def index(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.latents))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return int(torch.randperm(len(self.latents), generator=generator)[offset])

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 7_368_787 + step)
        rng = random.Random(self.seed * 15_485_863 + step)
        picks = [self.index(step * self.size + i) for i in range(self.size)]
        # Logit-normal times, one from each of `size` equal shares of the distribution.
        share = torch.randperm(self.size, generator=generator)
        u = (share + torch.rand(self.size, generator=generator)) / self.size
        time = torch.sigmoid(0.3 + 1.2 * torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4)))
        noise = torch.randn(self.size, *self.latents.shape[1:], generator=generator)
        ids = torch.tensor([self.tokenizer(self.captioner(i, rng)) for i in picks])
        device = self.latents.device
        return self.latents[picks], noise.to(device), time.to(device), ids.to(device)


def new_optimizers(model: nn.Module, name: str) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices and AdamW for the rest, or AdamW alone."""
    matrices, rest = [], []
    for key, weight in model.named_parameters():
        hidden = "transformer_blocks" in key and "norm" not in key and weight.ndim == 2
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


MUON_LR = 4e-3


def rate(step: int, steps: int, decay: float = 0.4, warmup: int = 40) -> float:
    """Share of the peak learning rate at `step`."""
    left = (steps - step) / (decay * steps)
    return min(1.0, (step + 1) / warmup, max(left, 0.0))


class Trainer:
    """Models, optimisers, averaged weights and the clock: all that a checkpoint holds."""

    def __init__(self, tokenizer: Tokenizer, args: argparse.Namespace) -> None:
        self.device, self.args, self.tokenizer = torch.device(args.device), args, tokenizer
        transformer = new_transformer()
        text = TextEncoder(len(tokenizer.words) + 2, TEXT_WIDTH, TEXT_WIDTH)
        self.model = nn.ModuleDict({"transformer": transformer, "text": text}).to(self.device)
        self.network = self.model["transformer"]
        if args.compile:
            self.network = torch.compile(self.network)
        self.ema = {k: v.detach().clone() for k, v in self.model.named_parameters()}
        self.optimizers = new_optimizers(self.model, args.optimizer)
        self.step, self.seconds = 0, 0.0

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema,
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "words": self.tokenizer.words,
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["words"] != self.tokenizer.words:
            raise SystemExit(f"{path} was trained on other captions; choose another --out")
        self.model.load_state_dict(state["model"])
        self.ema = state["ema"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]

    def advance(self, batches: Batches) -> float:
        """One optimiser step; the loss."""
        latents, noise, time, ids = batches(self.step)
        mix = time.view(-1, 1, 1, 1)
        with torch.autocast(self.device.type, torch.bfloat16):
            tokens, pooled = self.model["text"](ids)
            velocity = self.network(
                hidden_states=(1 - mix) * latents + mix * noise,
                encoder_hidden_states=tokens,
                pooled_projections=pooled,
                timestep=time * 1000,
                return_dict=False,
            )[0]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--decay", type=float, default=0.4, help="share of --steps at the end")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    parser.add_argument("--compile", action="store_true", help="about a third faster on a CPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--autoencoder", type=Path, default=CHECKPOINTS / "autoencoder")
    parser.add_argument("--out", type=Path, default=CHECKPOINTS / "transformer.pt")
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default_device)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    concepts = load_concepts()
    tokenizer = Tokenizer.from_texts(t for c in concepts for t in (c.label, *c.tags))
    trainer = Trainer(tokenizer, args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.out.exists():
        trainer.load(args.out)
    latents = encode_latents(args.autoencoder, trainer.device)
    batches = Batches(latents, Captioner(concepts), tokenizer, args.batch, args.seed)
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


if __name__ == "__main__":
    main()
