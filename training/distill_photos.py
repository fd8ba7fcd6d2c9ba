"""Distils the guidance of the photos model into one branch (see `training.photos`).

    python -m training.distill_photos --photos FILE.zip --out DIR --minutes 40 --decay-minutes 15

The student is the teacher's transformer with a guidance embedder, as FLUX.1-dev has one. It learns
the teacher's guided velocity v(empty) + g (v(caption) - v(empty)) for guidance g of 1 to 8, on
noised photographs. The learning rate is constant, then falls linearly to zero within the last
`--decay-minutes`. The same command goes on where training was interrupted. Without a checkpoint,
but with weights in DIR, training starts from those weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from teacache.errors import UserError
from training import photos
from training.data import ROOT
from training.train_photos import WEIGHTS, Batches, Trainer, add_options, prepare, train

TEACHER = ROOT.parent / "models" / "photos" / "photos.safetensors"
NAME = "photos_distilled"
GUIDANCES = 1.0, 8.0
"""Least and greatest guidance that the student learns."""
AVERAGING, SEED = 0.99, 15_485_863


def new_student(teacher: nn.Module) -> Any:
    """The teacher's transformer with a guidance embedder, which adds nothing yet.

    Args:
        teacher: diffusers' FLUX transformer without a guidance embedder.

    Returns:
        A transformer that predicts for each guidance what the teacher does for the caption.
    """
    from diffusers import FluxTransformer2DModel

    student = FluxTransformer2DModel(**{**photos.TRANSFORMER, "guidance_embeds": True})
    embedder = student.time_text_embed.guidance_embedder
    nn.init.zeros_(embedder.linear_2.weight)
    nn.init.zeros_(embedder.linear_2.bias)
    student.load_state_dict({**student.state_dict(), **teacher.state_dict()})
    return student


class Distiller(Trainer):
    """The training of a student.

    Args:
        teacher, text: as `photos.load_model` returns them.
        device: where it is trained.
    """

    def __init__(self, teacher: Any, text: photos.TextTable, device: torch.device) -> None:
        own = photos.TextTable()
        own.load_state_dict(text.state_dict())
        super().__init__(NAME, new_student(teacher), own, device, AVERAGING)
        self.teacher, self.teacher_text = teacher.to(device), text.to(device)

    def loss(self, latents: Tensor, noise: Tensor, times: Tensor, captions: Tensor) -> Tensor:
        """The squared error of the student's velocity, at a random guidance for each picture."""
        generator = torch.Generator().manual_seed(SEED + self.step)
        least, greatest = GUIDANCES
        drawn = least + (greatest - least) * torch.rand(len(times), generator=generator)
        mix = times.view(-1, 1, 1, 1)
        x = photos.pack((1 - mix) * latents + mix * noise)
        given = captions, x, times, drawn.to(times)
        with torch.no_grad():
            wanted = photos.guided_velocity(self.teacher, self.teacher_text, *given)
        found = photos.guided_velocity(self.model["transformer"], self.model["text"], *given)
        return (found.float() - wanted.float()).square().mean()


def main() -> None:
    """Runs the training."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser, minutes=40.0, batch=32)
    parser.add_argument("--decay-minutes", type=float, default=15.0, help="the last of --minutes")
    parser.add_argument("--teacher", type=Path, default=TEACHER)
    args = parser.parse_args()
    constant = args.minutes - args.decay_minutes
    if args.decay_minutes <= 0 or constant < 0:
        parser.error(
            f"--decay-minutes must be above 0 and at most --minutes, {args.minutes:g}, "
            f"not {args.decay_minutes:g}"
        )
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    torch.manual_seed(args.seed)
    trainer = Distiller(*photos.load_model(args.teacher), device)
    try:
        batches = Batches(args.photos, args.batch, args.seed, device)
        found = prepare(trainer, args.out, decay=False, overwrite=args.overwrite)
    except UserError as problem:
        parser.error(str(problem))
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"{len(batches.pictures)} photographs; {found}, step {trainer.step}", flush=True)
    if (left := constant - trainer.seconds / 60) > 0:
        train(trainer, batches, left, False, args)
    found = prepare(trainer, args.out, decay=True)
    print(f"{found}, step {trainer.step}", flush=True)
    train(trainer, batches, args.decay_minutes, True, args)
    print(f"step {trainer.step}, {trainer.seconds:.0f} s -> {args.out / NAME}{WEIGHTS}")


if __name__ == "__main__":
    main()
