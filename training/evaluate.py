"""Measures whether samples of the demo model match their prompts.

Each concept's label is sampled once. The nearest training picture is determined by colour (pixels
at 32 px) and by shape (edges of the grey picture at 32 px). A sample is recognised if both are the
concept's own picture. As a control, the same samples are scored against the next concept's picture.

    python -m training.evaluate --grid models/samples.jpg   # also draw the samples
    python -m training.evaluate --tags      # prompts of one tag each, without words of the label
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from teacache.demo.model import Tokenizer
from training.data import Concept, load_concepts, load_pictures
from training.sample_grid import captioned, grid
from training.sampling import DemoPipeline


def colour_features(pictures: np.ndarray) -> Tensor:
    """uint8 [n, 128, 128, 3] -> pixels at 32 px, [n, features]."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return functional.avg_pool2d(x, 4).flatten(1)


def shape_features(pictures: np.ndarray) -> Tensor:
    """uint8 [n, 128, 128, 3] -> normalised edges at 32 px, [n, features]."""
    x = torch.from_numpy(pictures).float().mean(-1).unsqueeze(1) / 255
    x = functional.avg_pool2d(x, 4)
    horizontal, vertical = x.diff(dim=3)[:, :, 1:], x.diff(dim=2)[:, :, :, 1:]
    strength = functional.avg_pool2d((horizontal.square() + vertical.square()).sqrt(), 3, 1, 1)
    return functional.normalize(strength.flatten(1))


def nearest(samples: np.ndarray, pictures: np.ndarray) -> tuple[Tensor, Tensor]:
    """For each sample, the index of the nearest picture by colour and by shape."""

    def by(features: Callable[[np.ndarray], Tensor]) -> Tensor:
        return torch.cdist(features(samples), features(pictures)).argmin(1)

    return by(colour_features), by(shape_features)


def recognised(samples: np.ndarray, pictures: np.ndarray, own: Tensor) -> Tensor:
    """Whether each sample is nearest to its own picture, of index `own`, by colour and shape."""
    by_colour, by_shape = nearest(samples, pictures)
    return (by_colour == own) & (by_shape == own)


def psnr(samples: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """In dB, of each sample."""
    error = np.square((samples.astype(np.float64) - pictures) / 255).mean((1, 2, 3))
    return -10 * np.log10(error)


def rarest_tag(concept: Concept, concepts: list[Concept]) -> str | None:
    """The tag that the fewest concepts have, of those without a word of the label; None if none."""
    label = set(Tokenizer.split(concept.label))
    tags = [t for t in concept.tags if not label & set(Tokenizer.split(t))]
    return min(tags, key=lambda tag: sum(tag in c.tags for c in concepts), default=None)


def evaluate_labels(pipeline: DemoPipeline, args: argparse.Namespace) -> dict[str, object]:
    concepts, pictures = load_concepts(), load_pictures()
    labels = [c.label for c in concepts]
    samples = pipeline(labels, steps=args.steps, cfg=args.cfg, seed=args.seed)
    if args.grid:
        tiles = [captioned(p, label) for p, label in zip(samples, labels, strict=True)]
        grid(tiles, columns=20).save(args.grid, quality=85)
    own = torch.arange(len(concepts))
    by_colour, by_shape = nearest(samples, pictures)
    both = (by_colour == own) & (by_shape == own)
    control = recognised(samples, pictures, own.roll(1))
    return {
        "concepts": len(concepts),
        "recognised": int(both.sum()),
        "by colour": int((by_colour == own).sum()),
        "by shape": int((by_shape == own).sum()),
        "control (must be near 0)": int(control.sum()),
        "median PSNR to the training picture, dB": round(
            float(np.median(psnr(samples, pictures))), 2
        ),
        "missed": [label for label, hit in zip(labels, both.tolist(), strict=True) if not hit],
    }


def evaluate_tags(pipeline: DemoPipeline, args: argparse.Namespace) -> dict[str, object]:
    """Sample one tag of each concept. A hit is recognised as any concept that has the tag."""
    concepts, pictures = load_concepts(), load_pictures()
    tags = [t for c in concepts if (t := rarest_tag(c, concepts)) is not None]
    samples = pipeline(tags, steps=args.steps, cfg=args.cfg, seed=args.seed)
    by_colour, by_shape = nearest(samples, pictures)
    agreed = zip(tags, by_colour.tolist(), by_shape.tolist(), strict=True)
    hits = [a == b and tag in concepts[a].tags for tag, a, b in agreed]
    missed = [tag for tag, hit in zip(tags, hits, strict=True) if not hit]
    return {"tags": len(tags), "hits": sum(hits), "missed": missed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tags", action="store_true", help="prompt with tags, not labels")
    parser.add_argument("--grid", type=Path, help="also draw the samples, with their captions")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    pipeline = DemoPipeline(device=args.device)
    figures = (evaluate_tags if args.tags else evaluate_labels)(pipeline, args)
    text = json.dumps(figures, indent=1, ensure_ascii=False)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
