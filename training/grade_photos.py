"""Says how rough the photos model is: how far its pictures move if half the steps are taken.

    python -m training.grade_photos --weights models/photos/photos.safetensors --grid grid.png
    python -m training.grade_photos --weights DISTILLED --teacher models/photos/photos.safetensors

A model is rough if few steps lead it to other pictures than many. That is what a cache has to
cope with, so the figures say how hard a ground for caches the model is. Euler steps, float32. With
`--teacher` they also say how near a guidance-distilled model is to the model that it learned from,
at each noise level of the teacher's own sampling.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from training import photos
from training.train_photos import NAME, OUT, WEIGHTS

PAIRS = ((10, 20), (14, 28), (25, 50))
"""Steps whose pictures are compared."""
NEARNESS_STEPS = 28
"""Steps at which a model is compared with its teacher."""
GUIDANCES = (4.0, 7.0)
ENLARGED = 2


def noise_of(count: int, seed: int) -> Tensor:
    """The noise of `count` pictures, each from its own number: [count, *LATENT]."""
    generators = [torch.Generator().manual_seed(seed * 100_003 + i) for i in range(count)]
    return torch.stack([torch.randn(photos.LATENT, generator=g) for g in generators])


def psnr(found: Tensor, wanted: Tensor) -> Tensor:
    """Of each picture, in dB, for pixels in [-1, 1]."""
    error = ((found - wanted) / 2).square().flatten(1).mean(dim=1)
    return -10 * error.clamp_min(1e-10).log10()


class Grader:
    """Samples of one model, each made once."""

    def __init__(self, weights: Path, count: int, shift: float, seed: int, device: str) -> None:
        self.transformer, self.text = photos.load_model(weights)
        self.transformer.to(device)
        self.text.to(device)
        self.captions = [photos.CLASSES[i % len(photos.CLASSES)] for i in range(count)]
        self.noise, self.shift = noise_of(count, seed), shift
        self.made: dict[tuple[int, float], Tensor] = {}

    def pictures(self, steps: int, guidance: float) -> Tensor:
        """One picture of each caption.

        Args:
            steps: of Euler.
            guidance: its strength.

        Returns:
            [count, 3, SIZE, SIZE] in [-1, 1].
        """
        if (steps, guidance) not in self.made:
            levels = photos.schedule(steps, self.shift)
            latents = photos.sample(
                self.transformer, self.text, self.captions, self.noise, levels, guidance
            )
            self.made[steps, guidance] = photos.to_picture(latents).cpu()
        return self.made[steps, guidance]

    def roughness(self, few: int, many: int, guidance: float) -> tuple[float, float]:
        """How well `few` steps do in place of `many`.

        Returns:
            (mean PSNR in dB, its standard error).
        """
        found = psnr(self.pictures(few, guidance), self.pictures(many, guidance))
        return found.mean().item(), found.std().item() / len(found) ** 0.5


@torch.no_grad()
def velocity_errors(student: Grader, teacher: Grader, guidance: float) -> dict[str, float]:
    """How far velocities are from the teacher's, with guidance, along the teacher's sampling.

    Args:
        student, teacher: with the same captions and noise.
        guidance: its strength.

    Returns:
        Root of the summed squared error over that of the summed squared velocity, over all noise
        levels and pictures: of the `student`, and of the teacher's own velocity for the
        `caption alone`, without guidance.
    """
    device = teacher.text.table.weight.device
    x, rows = photos.pack(teacher.noise.to(device)), photos.numbers(teacher.captions).to(device)
    strength = torch.full((len(rows),), guidance, device=device)
    levels = photos.schedule(NEARNESS_STEPS, teacher.shift).tolist()
    errors, total = {"student": 0.0, "caption alone": 0.0}, 0.0

    def velocity(grader: Grader, strength: Tensor, level: float) -> Tensor:
        model, times = (grader.transformer, grader.text), torch.full_like(strength, level)
        return photos.guided_velocity(*model, rows, x, times, strength)

    for level, following in itertools.pairwise(levels):
        wanted = velocity(teacher, strength, level)
        found = {
            "student": velocity(student, strength, level),
            "caption alone": velocity(teacher, torch.ones_like(strength), level),
        }
        total += float(wanted.square().sum())
        for name, value in found.items():
            errors[name] += float((value - wanted).square().sum())
        x = x + (following - level) * wanted
    return {name: (error / total) ** 0.5 for name, error in errors.items()}


def grid(pictures: Tensor, columns: int) -> Image.Image:
    """Pictures beside each other, enlarged.

    Args:
        pictures: [n, 3, SIZE, SIZE] in [-1, 1].
        columns: how many in a row.
    """
    side = photos.SIZE * ENLARGED
    sheet = Image.new("RGB", (columns * side, -(-len(pictures) // columns) * side), "white")
    for i, picture in enumerate(pictures):
        values = ((picture + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
        tile = Image.fromarray(values).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(tile, (i % columns * side, i // columns * side))
    return sheet


def main() -> None:
    """Prints the figures and writes the grid."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=OUT / f"{NAME}{WEIGHTS}")
    parser.add_argument("--count", type=int, default=20, help="pictures, of the classes in turn")
    parser.add_argument("--shift", type=float, default=photos.SHIFT)
    parser.add_argument("--guidance", type=float, nargs="+", default=GUIDANCES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--teacher", type=Path, help="weights of a distilled model's teacher")
    parser.add_argument("--grid", type=Path, help="a picture file for samples of the most steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    settings = args.count, args.shift, args.seed, args.device
    grader = Grader(args.weights, *settings)
    teacher = None if args.teacher is None else Grader(args.teacher, *settings)
    about = photos.read_about(args.weights)
    print(f"step {about['step']}, {about['seconds']} s of training; shift {args.shift:g}")
    for guidance in args.guidance:
        for few, many in PAIRS:
            mean, error = grader.roughness(few, many, guidance)
            print(
                f"guidance {guidance:g}: {few} in place of {many} steps {mean:.1f} dB"
                f" (± {error:.1f}, {args.count} pictures)",
                flush=True,
            )
        if teacher is not None:
            errors = velocity_errors(grader, teacher, guidance)
            pictures = (each.pictures(NEARNESS_STEPS, guidance) for each in (grader, teacher))
            print(
                f"guidance {guidance:g}: relative error of the velocity {errors['student']:.4f}"
                f" (caption alone {errors['caption alone']:.4f}), pictures of {NEARNESS_STEPS}"
                f" steps {psnr(*pictures).mean().item():.1f} dB from the teacher's",
                flush=True,
            )
    if args.grid:
        columns = len(photos.CLASSES)
        shown = [grader.pictures(PAIRS[-1][1], guidance) for guidance in args.guidance]
        grid(torch.cat(shown), columns).save(args.grid)
        print(f"one row of classes after the other, one guidance after the other -> {args.grid}")


if __name__ == "__main__":
    main()
