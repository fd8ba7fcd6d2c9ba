"""`teacache generate`: pictures from a diffusers pipeline, with the cache or without."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import MAX_THRESHOLD, ConfigError, TeaCacheConfig
from ..errors import GraphFailed, UserError
from ..switch import BACKEND_VARIABLE, BACKENDS, CONFIG_VARIABLE, TEACACHE, chosen_config
from .demo import MAX_SEED
from .options import number, say, usable_folder, whole_number
from .progress import LOG_INTERVAL

if TYPE_CHECKING:
    from PIL import Image

    from ..hosts.generation import Request, Result

WARM_UP_STEPS = 3
LARGEST = 16_384


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "generate",
        help="pictures from a diffusers pipeline, with the cache or without",
        description="Makes pictures from a diffusers pipeline (a folder with model_index.json): "
        "text to image, or from an image. ComfyUI is not needed.",
        epilog=f"{BACKEND_VARIABLE}={TEACACHE} and {CONFIG_VARIABLE} (JSON) turn the cache on "
        "without an option; an option wins.",
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="DIR",
        help="folder of a pipeline, a Hugging Face repository in the local cache, or 'demo'",
    )
    parser.add_argument("--prompt", required=True, help="what to draw, or how to edit")
    parser.add_argument("--negative", default="", help="what to keep away from")
    parser.add_argument("--image", type=Path, metavar="FILE", help="picture to edit or start from")
    parser.add_argument(
        "--strength", type=number(0, 1), help="how far to go from --image, where that applies"
    )
    parser.add_argument("--width", type=whole_number(16, LARGEST))
    parser.add_argument("--height", type=whole_number(16, LARGEST))
    parser.add_argument(
        "--steps", type=whole_number(1, 10_000), default=50, help="(default: %(default)s)"
    )
    parser.add_argument("--guidance", type=number(0, 1000), help="default: the pipeline's own")
    parser.add_argument("--seed", type=whole_number(0, MAX_SEED), default=0)
    parser.add_argument("--batch", type=whole_number(1, 1000), default=1, help="pictures to make")
    parser.add_argument(
        "--precision", choices=("auto", "bf16", "fp16", "fp32"), default="auto", help="of weights"
    )
    parser.add_argument(
        "--placement",
        choices=("auto", "device", "offload"),
        default="auto",
        help="whole model on the device, or its parts in turn (default: what fits)",
    )
    parser.add_argument(
        "--download", action="store_true", help="allow network: fetch the repository --model"
    )
    parser.add_argument("--cache-backend", metavar="|".join(BACKENDS), help="turn the cache on")
    parser.add_argument(
        "--cache-config", metavar="JSON", help='its settings, such as {"rel_l1_thresh": 0.2}'
    )
    parser.add_argument(
        "--tea-cache-rel-l1-thresh",
        type=number(0, MAX_THRESHOLD),
        metavar="X",
        help="its threshold: higher skips more, 0 is off (default: recommended for the model)",
    )
    parser.add_argument(
        "--compare", action="store_true", help="also without the cache: gain, PSNR, SSIM, LPIPS"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("output"),
        help="folder for the results (default: %(default)s)",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show diffusers' log, and tracebacks of failures"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    cache = chosen_config(
        os.environ, args.cache_backend, args.cache_config, args.tea_cache_rel_l1_thresh
    )
    if args.compare and (cache is None or cache.rel_l1_thresh == 0):
        raise UserError(f"--compare: no cache is on; add --cache-backend {TEACACHE}")
    image = read_image(args.image) if args.image else None
    refuse_file(args.out)

    from ..hosts import pipelines

    pipelines.require_diffusers()
    pipelines.quiet(args.verbose)
    say(f"loading {args.model} …")
    device = pipelines.default_device()
    pipe = pipelines.load_pipeline(
        args.model,
        source="--model",
        precision=args.precision,
        device=device,
        online=args.download,
    )

    from ..hosts.generation import Request, for_image

    pipe = for_image(pipe, image is not None)
    if cache is not None:
        line, problem = pipelines.recognise(pipe, cache)
        if problem and args.compare:
            raise UserError(f"--compare: {problem}")
        say(line or f"{problem} It runs without.")
        cache = cache if line else None
    request = Request(
        prompt=args.prompt,
        negative=args.negative,
        width=args.width,
        height=args.height,
        steps=args.steps,
        guidance=args.guidance,
        seed=args.seed,
        batch=args.batch,
        image=image,
        strength=args.strength,
    )
    started = time.time()
    with pipelines.placed(pipe, args.placement, device, None):
        reference = None
        if args.compare:
            warm_up(pipe, request)
            reference = make(pipe, request, None, "uncached")
        result = make(pipe, request, cache, "cached" if cache else "sampling")

    from .generate_results import describe_run, print_results, write_results

    out = usable_folder(args.out, "--out")
    about = describe_run(str(args.model), pipe, request, args.image, device, started)
    report = write_results(out, about, result, reference)
    print_results(report, out, result)
    return 0


def warm_up(pipe: Any, request: Request) -> None:
    """A few steps, so that what is timed starts alike."""
    from ..hosts.generation import generate

    say("warming up …")
    guarded(
        generate, pipe, replace(request, steps=min(WARM_UP_STEPS, request.steps), strength=None)
    )


def make(pipe: Any, request: Request, cache: TeaCacheConfig | None, label: str) -> Result:
    """One run with a bar of its steps."""
    from tqdm import tqdm

    from ..hosts.generation import Step, generate

    with tqdm(
        total=request.steps,
        desc=f"{label:>8}",
        unit="step",
        mininterval=0.1 if sys.stderr.isatty() else LOG_INTERVAL,
        file=sys.stderr,
        dynamic_ncols=True,
    ) as bar:

        def advance(step: Step) -> None:
            bar.total = step.total
            bar.update(step.done - bar.n)

        result: Result = guarded(generate, pipe, request, cache=cache, on_step=advance)
        return result


def guarded(call: Any, pipe: Any, *args: Any, **named: Any) -> Any:
    """The call's result; what diffusers raises meanwhile becomes one line, with details."""
    try:
        return call(pipe, *args, **named)
    except (UserError, ConfigError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise GraphFailed(
            f"{type(pipe).__name__} failed: {type(error).__name__}: {reason}",
            traceback.format_exc(),
        ) from error


def read_image(path: Path) -> Image.Image:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture)
            return upright.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"--image {path}: no such file") from None
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise UserError(f"--image {path}: no picture that can be read: {error}") from None


def refuse_file(out: Path) -> None:
    """`UserError` if --out cannot become a folder; it is made once there is something to write."""
    for folder in (out, *out.parents):
        if folder.exists():
            if not folder.is_dir():
                raise UserError(f"--out {out}: cannot be a folder: {folder} is a file")
            if not os.access(folder, os.W_OK):
                raise UserError(f"--out {out}: {folder} cannot be written to")
            return
