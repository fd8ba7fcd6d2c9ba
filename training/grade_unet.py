"""Says how many digits of the UNet model's pictures are those of their captions.

    python -m training.grade_unet --grid grid.png

A classifier (nearest neighbours among pictures that were drawn as for the training) reads the digit
in each quarter of samples. It also reads pictures drawn from scans that it has not seen, which says
how good it is, and the samples are scored against the captions moved by one, a control that must
give about a tenth. Needs scikit-learn, which contains the digits.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from training import unet
from training.digits import SIZE, load_digits
from training.train_unet import MODEL
from training.unet import PLACES

DRAWN, HELD_OUT = 4000, 360
"""Pictures that the classifier knows, and scans that it does not."""
ENLARGED = 3


def quarters(pictures: Tensor) -> Tensor:
    """Pictures [n, 1, SIZE, SIZE] -> pixels of their quarters [n * PLACES, features]."""
    side = SIZE // 2
    cut = pictures[:, 0].unfold(1, side, side).unfold(2, side, side)
    return cut.reshape(len(pictures) * PLACES, side * side)


def read(scans: Tensor, labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Quarters of `count` pictures drawn from scans, and their digits."""
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(scans), (count, PLACES), generator=generator)
    pictures = unet.draw_at_random(scans[picks], generator)
    return quarters(pictures), labels[picks].flatten()


def new_classifier(scans: Tensor, labels: Tensor) -> Any:
    """A classifier of quarters that knows pictures drawn from the scans."""
    from sklearn.neighbors import KNeighborsClassifier

    pixels, digits = read(scans, labels, DRAWN, seed=1)
    return KNeighborsClassifier(5).fit(pixels.numpy(), digits.numpy())


def share_right(classifier: Any, pixels: Tensor, digits: Tensor) -> float:
    """How many quarters are read as the digits."""
    return float((torch.from_numpy(classifier.predict(pixels.numpy())) == digits).float().mean())


def grid(pictures: Tensor, columns: int) -> Image.Image:
    """Pictures [n, 1, SIZE, SIZE] in [-1, 1] beside each other, enlarged."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("L", (columns * (SIZE + 2), rows * (SIZE + 2)), "grey")
    for i, picture in enumerate(pictures):
        values = ((picture[0] + 1) * 127.5).round().byte().numpy()
        place = (i % columns * (SIZE + 2) + 1, i // columns * (SIZE + 2) + 1)
        sheet.paste(Image.fromarray(values), place)
    return sheet.resize((sheet.width * ENLARGED, sheet.height * ENLARGED), Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=MODEL)
    parser.add_argument("--count", type=int, default=96, help="pictures")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=unet.GUIDANCE)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--grid", type=Path, help="a picture file for the samples")
    args = parser.parse_args()
    scans, labels = load_digits()
    classifier = new_classifier(scans[HELD_OUT:], labels[HELD_OUT:])
    unseen = share_right(classifier, *read(scans[:HELD_OUT], labels[:HELD_OUT], 400, seed=2))

    captions = random.Random(args.seed).sample(unet.CAPTIONS, args.count)
    noise = torch.randn(
        args.count, *unet.LATENT, generator=torch.Generator().manual_seed(args.seed)
    )
    model, text = unet.load_model(args.weights)
    latents = unet.sample(model, text, captions, noise, args.steps, args.guidance)
    pictures = unet.to_picture(latents)
    wanted = torch.tensor([[int(word) for word in caption.split()] for caption in captions])
    right, control = (
        share_right(classifier, quarters(pictures), digits.flatten())
        for digits in (wanted, wanted.roll(1, dims=0))
    )
    print(
        f"{args.count} pictures, {args.steps} steps, guidance {args.guidance:g}: {right:.1%} of "
        f"the digits are those of the caption (captions moved by one: {control:.1%}; drawn from "
        f"scans that the classifier has not seen: {unseen:.1%})"
    )
    if args.grid:
        grid(pictures, columns=12).save(args.grid)


if __name__ == "__main__":
    main()
