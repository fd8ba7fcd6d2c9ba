"""Measures whether the shipped files draw what a prompt asks for.

One sample per concept, from its label. Its nearest training picture is then looked for among
all of them, once by colour (pixels at 32 px) and once by shape (edges at 32 px, of grey).
A sample counts as recognised only if both find the concept's own picture.
As a control that must fail, the same samples are scored against captions moved by one place.

    python -m training.evaluate --grid models/samples.jpg   # and show the samples it judged
    python -m training.evaluate --tags      # prompts of one tag each, never the label's words
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from teacache.demo.model import Tokenizer
from training.data import Concept, load_concepts, load_pictures
from training.sample_grid import captioned, grid
from training.sampling import DemoPipeline


def colour(pictures: np.ndarray) -> Tensor:
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return functional.avg_pool2d(x, 4).flatten(1)


def shape(pictures: np.ndarray) -> Tensor:
    x = torch.from_numpy(pictures).float().mean(-1).unsqueeze(1) / 255
    x = functional.avg_pool2d(x, 4)
    across, down = x.diff(dim=3)[:, :, 1:], x.diff(dim=2)[:, :, :, 1:]
    strength = functional.avg_pool2d((across.square() + down.square()).sqrt(), 3, 1, 1)
    return functional.normalize(strength.flatten(1))


def nearest(samples: np.ndarray, pictures: np.ndarray) -> tuple[Tensor, Tensor]:
    """For each sample, the number of the nearest picture by colour and by shape."""
    found = [torch.cdist(f(samples), f(pictures)).argmin(1) for f in (colour, shape)]
    return found[0], found[1]


def recognised(samples: np.ndarray, pictures: np.ndarray, wanted: Tensor) -> Tensor:
    by_colour, by_shape = nearest(samples, pictures)
    return (by_colour == wanted) & (by_shape == wanted)


def psnr(samples: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    error = np.square((samples.astype(np.float64) - pictures) / 255).mean((1, 2, 3))
    return -10 * np.log10(error)


def rarest_tag(concept: Concept, concepts: list[Concept]) -> str | None:
    """The concept's tag that fewest others have, leaving out words of its own label."""
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
    """A hit: the sample is recognised as a concept that has the tag (there may be several)."""
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
