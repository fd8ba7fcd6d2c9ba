"""Exports the averaged weights of a checkpoint as the three files of the demo model in models/.

python -m training.export_model
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from teacache.demo.model import (
    MODELS,
    TEXT_FILE,
    TRANSFORMER_FILE,
    VAE_FILE,
    DemoText,
    TextEncoder,
    Tokenizer,
    vae_to_comfyui,
)
from training.train_transformer import CHECKPOINTS, TEXT_WIDTH


def export(checkpoint: Path, autoencoder: Path, models: Path) -> None:
    """Write transformer, autoencoder and text encoder, in float16.

    Args:
        checkpoint: of `training.train_transformer`.
        autoencoder: folder that `training.train_autoencoder` writes.
        models: folder of the demo model.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    weights = {**state["model"], **state["ema"]}
    parts: dict[str, dict[str, torch.Tensor]] = {"transformer": {}, "text": {}}
    for key, weight in weights.items():
        part, name = key.split(".", 1)
        parts[part][name] = weight

    for file in (TRANSFORMER_FILE, VAE_FILE, TEXT_FILE):
        (models / file).parent.mkdir(parents=True, exist_ok=True)
    transformer = {k: v.half().contiguous() for k, v in parts["transformer"].items()}
    save_file(transformer, models / TRANSFORMER_FILE, {"format": "pt"})
    vae = load_file(autoencoder / "diffusion_pytorch_model.safetensors")
    half = {k: v.half().contiguous() for k, v in vae.items()}
    save_file(vae_to_comfyui(half), models / VAE_FILE, {"format": "pt"})
    tokenizer = Tokenizer(state["words"])
    text = TextEncoder(len(tokenizer.words) + 2, TEXT_WIDTH, TEXT_WIDTH)
    text.load_state_dict(parts["text"])
    DemoText(text, tokenizer).save(models / TEXT_FILE)
    print(f"step {state['step']}, {state['seconds']:.0f} s of training -> {models}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINTS / "transformer.pt")
    parser.add_argument("--autoencoder", type=Path, default=CHECKPOINTS / "autoencoder")
    parser.add_argument("--models", type=Path, default=MODELS)
    args = parser.parse_args()
    export(args.checkpoint, args.autoencoder, args.models)


if __name__ == "__main__":
    main()
