"""Options of the commands that sample a diffusers pipeline, and what is made of them."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import MAX_THRESHOLD
from ..environment import BACKENDS
from ..errors import UserError
from .options import MAX_SEED, number, say, whole_number

if TYPE_CHECKING:
    from PIL import Image

    from ..hosts.diffusers.generation import Request
    from ..hosts.diffusers.worker import PipelineSource

STEPS = 50
LARGEST = 16_384


def add_pipeline_options(parser: Any) -> list[str]:
    """Adds what only pipelines take to a parser or group, all None unless given; their names."""
    before = {action.dest for action in parser._actions}
    parser.add_argument("--negative", help="what to keep away from")
    parser.add_argument("--image", type=Path, metavar="FILE", help="picture to edit or start from")
    parser.add_argument(
        "--strength", type=number(0, 1), help="how far to go from --image, where that applies"
    )
    parser.add_argument("--width", type=whole_number(16, LARGEST))
    parser.add_argument("--height", type=whole_number(16, LARGEST))
    parser.add_argument("--steps", type=whole_number(1, 10_000), help=f"(default: {STEPS})")
    parser.add_argument("--guidance", type=number(0, 1000), help="default: the pipeline's own")
    parser.add_argument("--batch", type=whole_number(1, 1000), help="pictures to make (default: 1)")
    add_loading_options(parser)
    return [action.dest for action in parser._actions if action.dest not in before]


def add_loading_options(parser: Any) -> None:
    """Adds how a pipeline is loaded: --precision, --placement, --download; None unless given."""
    parser.add_argument(
        "--precision", choices=("auto", "bf16", "fp16", "fp32"), help="of weights (default: auto)"
    )
    parser.add_argument(
        "--placement",
        choices=("auto", "device", "offload"),
        help="whole model on the device, or its parts in turn (default: auto, what fits)",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        default=None,
        help="allow network: fetch the repository --model",
    )


def add_cache_backend_options(parser: Any) -> None:
    """Adds the options that `environment.resolve_cache_config` takes."""
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


def add_model_option(parser: Any, required: bool) -> None:
    parser.add_argument(
        "--model",
        required=required,
        metavar="DIR",
        help="folder of a pipeline, a Hugging Face repository in the local cache, or 'demo'",
    )


def add_seed_option(parser: Any) -> None:
    parser.add_argument("--seed", type=whole_number(0, MAX_SEED), help="of the noise (default: 0)")


def load_model(args: argparse.Namespace) -> tuple[Any, Any]:
    """The pipeline of --model, not yet on its device; that device."""
    source = pipeline_source(args)
    say(f"loading {args.model} …")
    return source.load()


def pipeline_source(args: argparse.Namespace, with_image: bool = False) -> PipelineSource:
    """The pipeline of --model, as another process can load it."""
    from ..hosts.diffusers.worker import PipelineSource

    return PipelineSource(
        args.model,
        precision=args.precision or "auto",
        placement=args.placement or "auto",
        online=bool(args.download),
        with_image=with_image,
        verbose=args.verbose,
    )


def image_of(args: argparse.Namespace) -> Image.Image | None:
    """The picture of --image, if there is one."""
    return decode_image(read_image(args.image), args.image) if args.image else None


def request_of(args: argparse.Namespace, image: Image.Image | None) -> Request:
    from ..hosts.diffusers.generation import Request

    return Request(
        prompt=args.prompt,
        negative=args.negative or "",
        width=args.width,
        height=args.height,
        steps=args.steps or STEPS,
        guidance=args.guidance,
        seed=args.seed or 0,
        batch=args.batch or 1,
        image=image,
        strength=args.strength,
    )


def read_image(path: Path) -> bytes:
    """The content of a file that looks like a picture; `UserError` for another one."""
    from PIL import Image, UnidentifiedImageError

    try:
        content = path.read_bytes()
        Image.open(io.BytesIO(content)).close()
    except FileNotFoundError:
        raise UserError(f"--image {path}: no such file") from None
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise UserError(f"--image {path}: no picture that can be read: {error}") from None
    return content


def decode_image(content: bytes, path: Path) -> Image.Image:
    """The picture, upright; `UserError` where it is damaged."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as picture:
            upright = ImageOps.exif_transpose(picture)
            return upright.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise UserError(f"--image {path}: no picture that can be read: {error}") from None
