"""Draws a grid of samples of the demo model.

python -m training.sample_grid models/samples.jpg
python -m training.sample_grid grid.png --prompts "red apple" "fox"
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from training.data import chosen_labels
from training.sampling import DemoPipeline

CAPTION_HEIGHT = 14


def captioned(picture: np.ndarray, caption: str) -> Image.Image:
    """A picture, uint8 [H, W, 3], with its caption below."""
    tile = Image.new("RGB", (picture.shape[1], picture.shape[0] + CAPTION_HEIGHT), "white")
    tile.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(tile)
    left = (tile.width - draw.textlength(caption)) / 2
    draw.text((max(left, 1), picture.shape[0] + 1), caption, fill="#444444")
    return tile


def grid(tiles: list[Image.Image], columns: int) -> Image.Image:
    """Tiles of one size in rows of `columns`."""
    width, height = tiles[0].size
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % columns * width, i // columns * height))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--prompts", nargs="+", help="default: every concept's label")
    parser.add_argument("--every", type=int, default=1, help="take every n-th concept only")
    parser.add_argument("--columns", type=int, default=12)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    prompts = args.prompts or [label.lower() for label in chosen_labels()][:: args.every]
    pipeline = DemoPipeline(device=args.device)
    pictures = pipeline(prompts, steps=args.steps, cfg=args.cfg, seed=args.seed)
    tiles = [captioned(p, c) for p, c in zip(pictures, prompts, strict=True)]
    grid(tiles, args.columns).save(args.path, quality=85)


if __name__ == "__main__":
    main()
