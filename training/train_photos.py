"""Trains the third test model, photographs of clothes (see `training.photos`).

    python -m training.train_photos --device cuda --minutes 4
    python -m training.train_photos --device cuda --minutes 4    # goes on
    python -m training.train_photos --device cuda --minutes 1 --decay

It starts from the weights that are there (`--start`), or with `--anew` from random ones, and writes
weights and checkpoints to a folder of its own, `--out`, from where it goes on. Weights that are not
of a training in that folder are overwritten with `--overwrite` alone.

The learning rate stays the same, so training can be ended and prolonged at any time. `--decay`
lets it fall to zero within `--minutes`, from where training stands: the last part before weights
are used. It keeps its own checkpoint, so that the training at the constant rate can still go on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from teacache.errors import UserError
from training import photos
from training.data import ROOT
from training.flow import new_optimizers, stratified_times

OUT, NAME = ROOT / "checkpoints", "photos"
COMMITTED = ROOT.parent / "models" / "photos" / "photos.safetensors"
CHECKPOINT, DECAYED, WEIGHTS, LOG = ".pt", "_decayed.pt", ".safetensors", ".jsonl"
"""How the names of a training's files end."""
STORED = 72
"""Pictures are kept at this size; a square of `photos.SIZE` of it is cut at random."""
CLOCK = ("step", "seconds", "constant", "decayed")
"""Steps, seconds of training, steps before the decay, seconds of the decay."""
WARMUP, EMPTY, AVERAGING = 50, 0.1, 0.998


def load_photos(archive: Path) -> tuple[Tensor, Tensor]:
    """Reads the photographs.

    Args:
        archive: a zip of `split/class/name.jpg`; of each, the middle square is taken.

    Returns:
        (pictures [n, 3, STORED, STORED] as bytes, their captions' numbers [n]).

    Raises:
        UserError: if it is not there, or holds no picture of the classes.
    """
    if not archive.is_file():
        raise UserError(
            f"--photos: there is no {archive}; models/photos/README.md says which zip of "
            "photographs is meant"
        )
    pictures, captions = [], []
    with zipfile.ZipFile(archive) as file:
        for name in sorted(file.namelist()):
            folder = Path(name).parent.name
            if folder in photos.CLASSES and name.endswith(".jpg"):
                picture = Image.open(io.BytesIO(file.read(name))).convert("RGB")
                small = ImageOps.fit(picture, (STORED, STORED), Image.Resampling.BOX)
                pictures.append(np.asarray(small))
                captions.append(folder)
    if not pictures:
        raise UserError(f"--photos: {archive} holds no split/class/name.jpg of the known classes")
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return stacked, photos.numbers(captions)


class Batches:
    """Batch number `step`, from the seed alone: latents, noise, times and caption numbers.

    Args:
        archive: the zip of photographs.
        size: pictures in a batch. Another one puts the row of pictures elsewhere on resuming.
        seed: another one gives other batches.
        device: where they are cut and kept.
    """

    def __init__(
        self, archive: Path, size: int, seed: int, device: torch.device | None = None
    ) -> None:
        pictures, self.captions = load_photos(archive)
        self.pictures = pictures.to(device)
        self.size, self.seed, self.epoch = size, seed, -1
        self.order = torch.empty(0)

    def index(self, position: int) -> int:
        """The picture at a place of the endless row of shuffled epochs."""
        epoch, offset = divmod(position, len(self.pictures))
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self.order = torch.randperm(len(self.pictures), generator=generator)
            self.epoch = epoch
        return int(self.order[offset])

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 7_368_787 + step)
        picks = [self.index(step * self.size + i) for i in range(self.size)]
        corners = torch.randint(STORED - photos.SIZE + 1, (self.size, 2), generator=generator)
        flips = torch.rand(self.size, generator=generator) < 0.5
        latents = photos.to_latent(self.cut(picks, corners, flips).float() / 127.5 - 1)
        captions = self.captions[picks].clone()
        captions[torch.rand(self.size, generator=generator) < EMPTY] = 0
        noise = torch.randn(latents.shape, generator=generator)
        return latents, noise, stratified_times(self.size, generator), captions

    def cut(self, picks: list[int], corners: Tensor, flips: Tensor) -> Tensor:
        """Squares of some pictures, as bytes [n, 3, SIZE, SIZE].

        Args:
            picks: the pictures' numbers. corners: upper and left ends of the squares, [n, 2].
            flips: which of them are mirrored, [n].
        """
        side = torch.arange(photos.SIZE)
        rows, columns = (corner[:, None] + side for corner in corners.unbind(1))
        columns = torch.where(flips[:, None], columns.flip(1), columns)
        places = torch.tensor(picks)[:, None, None], rows[:, :, None], columns[:, None, :]
        number, row, column = (place.to(self.pictures.device) for place in places)
        return self.pictures.movedim(1, -1)[number, row, column].movedim(-1, 1)


class Trainer:
    """Model, optimisers, averaged weights and the clock: all that a checkpoint holds.

    Args:
        name: how the names of the files begin.
        transformer, text: the parts of the model, both trained.
        device: where it is trained.
        averaging: share of the averaged weights that a step leaves.
    """

    def __init__(
        self,
        name: str,
        transformer: nn.Module,
        text: photos.TextTable,
        device: torch.device,
        averaging: float = AVERAGING,
    ) -> None:
        self.name, self.device, self.averaging = name, device, averaging
        self.model = nn.ModuleDict({"transformer": transformer, "text": text}).to(device).train()
        self.optimizers = new_optimizers(self.model, "muon")
        self.step, self.seconds, self.constant, self.decayed = 0, 0.0, 0, 0.0
        self.places = [ids.to(device) for ids in photos.positions()]
        self.reset_average()

    def reset_average(self) -> None:
        """Lets the averaged weights begin at the weights as they are."""
        self.ema = {k: v.detach().clone() for k, v in self.model.named_parameters()}

    def save(self, path: Path) -> None:
        """Writes a checkpoint, by way of a second file, so that none is ever incomplete."""
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema,
            "optimizers": [o.state_dict() for o in self.optimizers],
            "clock": {k: getattr(self, k) for k in CLOCK},
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Takes up a checkpoint."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.ema = state["ema"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for name in CLOCK:
            setattr(self, name, state["clock"][name])

    def load_weights(self, path: Path) -> None:
        """Starts from weights alone, the optimisers anew.

        Raises:
            ValueError: if the file is none of this model.
        """
        about = photos.read_about(path)
        weights = {k: v.float() for k, v in load_file(str(path)).items()}
        self.model.load_state_dict(weights)
        self.reset_average()
        self.step = self.constant = int(about["step"])
        self.seconds = float(about["seconds"])

    def export(self, path: Path) -> None:
        """Writes the averaged weights."""
        photos.save_model(
            path,
            self.ema,
            guidance_embeds=self.model["transformer"].config.guidance_embeds,
            step=self.step,
            seconds=round(self.seconds),
        )

    def loss(self, latents: Tensor, noise: Tensor, times: Tensor, captions: Tensor) -> Tensor:
        """The flow matching loss of a batch (see `Batches`)."""
        mix = times.view(-1, 1, 1, 1)
        tokens, pooled = self.model["text"](captions)
        velocity = self.model["transformer"](
            hidden_states=photos.pack((1 - mix) * latents + mix * noise),
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            timestep=times,
            img_ids=self.places[0],
            txt_ids=self.places[1],
            return_dict=False,
        )[0]
        return (velocity.float() - photos.pack(noise - latents)).square().mean()

    def advance(self, batches: Batches, share: float) -> float:
        """One optimiser step.

        Args:
            batches: where batch number `step` comes from.
            share: of the peak learning rate.

        Returns:
            The loss.
        """
        batch = [part.to(self.device) for part in batches(self.step)]
        with torch.autocast(self.device.type, torch.bfloat16), quick_attention(self.device):
            loss = self.loss(*batch)
            loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        keep = min(self.averaging, self.step / (self.step + 10))
        current = [weight.detach() for weight in self.model.parameters()]
        torch._foreach_lerp_(list(self.ema.values()), current, 1 - keep)
        return float(loss.item())


@contextlib.contextmanager
def quick_attention(device: torch.device) -> Iterator[None]:
    """On a CPU, attention in plain products: with 68 tokens a third faster than the fused one."""
    if device.type == "cpu":
        with sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        yield


def prepare(
    trainer: Trainer,
    out: Path,
    decay: bool,
    start: Path | None = None,
    overwrite: bool = False,
) -> str:
    """Takes up what there is in `out`.

    Args:
        start: weights to start from, where there is no checkpoint; None for random ones.
        overwrite: whether weights in `out` that no checkpoint belongs to may be overwritten.

    Returns:
        What it was, for the user.

    Raises:
        UserError: there are such weights, or none at `start`.
    """
    checkpoint, decayed, weights = (
        out / f"{trainer.name}{ending}" for ending in (CHECKPOINT, DECAYED, WEIGHTS)
    )
    if checkpoint.exists():
        trainer.load(checkpoint)
    reached = trainer.step
    if decay and decayed.exists():
        trainer.load(decayed)
        if trainer.constant == reached or not checkpoint.exists():
            return f"goes on with the decay of {decayed.name}"
        trainer.load(checkpoint)  # the decay is of an earlier state
    if checkpoint.exists():
        return f"goes on from {checkpoint.name}"
    if weights.exists() and not decayed.exists() and not overwrite:
        raise UserError(
            f"--out: {weights} is there, and no checkpoint of a training beside it; choose another "
            "folder, or add --overwrite"
        )
    if start is None:
        return "starts anew"
    if not start.is_file():
        raise UserError(f"--start: there is no {start}; --anew starts from random weights")
    trainer.load_weights(start)
    return f"starts from the weights in {start.name}"


def train(
    trainer: Trainer, batches: Batches, minutes: float, decay: bool, args: argparse.Namespace
) -> None:
    """Trains and writes as it goes.

    Args:
        trainer: as `prepare` left it.
        batches: what it learns from.
        minutes: of the decay, or of this run at the constant rate.
        decay: whether the rate falls to zero.
        args: options of the command (`add_options`).
    """
    limit, log_path = minutes * 60, args.out / f"{trainer.name}{LOG}"
    started, before, decayed = time.perf_counter(), trainer.seconds, trainer.decayed
    first, written, smooth = trainer.step, 0.0, 0.0
    with log_path.open("a", encoding="utf-8") as log:
        while True:
            spent = time.perf_counter() - started
            used = spent + decayed if decay else spent
            finished = used >= limit
            if finished or spent - written > args.save_every:
                trainer.save(args.out / f"{trainer.name}{DECAYED if decay else CHECKPOINT}")
                trainer.export(args.out / f"{trainer.name}{WEIGHTS}")
                written = spent
            if finished:
                return
            warm = min(1.0, (trainer.step - first + 1) / WARMUP)
            share = (1 - used / limit) if decay else warm
            loss = trainer.advance(batches, args.rate * share)
            spent = time.perf_counter() - started
            trainer.seconds = before + spent
            trainer.decayed = decayed + spent if decay else 0.0
            if not decay:
                trainer.constant = trainer.step
            done = trainer.step - first
            smooth += (loss - smooth) / min(done, 50)
            if trainer.step % 20 == 0:
                record: dict[str, Any] = {
                    "step": trainer.step,
                    "loss": round(smooth, 4),
                    "pictures_per_s": round(done * args.batch / spent, 1),
                    "seconds": round(trainer.seconds),
                    "minutes_left": round((limit - used) / 60, 1),
                }
                print(json.dumps(record), flush=True)
                print(json.dumps(record), file=log, flush=True)


def add_options(parser: argparse.ArgumentParser, minutes: float, batch: int) -> None:
    """Adds the options of a training command; `minutes` and `batch` are defaults."""
    parser.add_argument(
        "--photos",
        type=Path,
        default=photos.ARCHIVE,
        help="the zip of photographs; default: %(default)s",
    )
    parser.add_argument("--out", type=Path, default=OUT, help="where checkpoints and weights go")
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the learning rates")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--overwrite", action="store_true", help="overwrite weights in --out")
    parser.add_argument("--threads", type=int, help="of the processor; default: PyTorch's choice")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    """Runs the training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, minutes=60.0, batch=64)
    parser.add_argument("--decay", action="store_true", help="let the rate fall to zero")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--start", type=Path, default=COMMITTED, help="weights to start from; default: %(default)s"
    )
    start.add_argument("--anew", action="store_true", help="start from random weights")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    torch.manual_seed(args.seed)
    trainer = Trainer(NAME, photos.new_transformer(), photos.TextTable(), device)
    try:
        batches = Batches(args.photos, args.batch, args.seed, device)
        start_at = None if args.anew else args.start
        found = prepare(trainer, args.out, args.decay, start_at, args.overwrite)
    except UserError as problem:
        parser.error(str(problem))
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"{len(batches.pictures)} photographs; {found}, step {trainer.step}", flush=True)
    train(trainer, batches, args.minutes, args.decay, args)
    print(f"step {trainer.step}, {trainer.seconds:.0f} s -> {args.out / NAME}{WEIGHTS}")


if __name__ == "__main__":
    main()
