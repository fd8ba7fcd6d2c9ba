"""`teacache generate`: pictures from a diffusers pipeline, with the cache or without."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import TeaCacheConfig
from ..environment import (
    BACKEND_VARIABLE,
    CONFIG_VARIABLE,
    TEACACHE,
    resolve_cache_config,
)
from ..errors import UserError
from .generate_results import Generation, describe_run, print_results, write_results
from .options import refuse_file, say, usable_folder
from .pipeline_options import (
    add_cache_backend_options,
    add_model_option,
    add_pipeline_options,
    add_seed_option,
    open_pipeline,
    request_of,
)
from .progress import RunBars, step_bar

if TYPE_CHECKING:
    from ..hosts.diffusers.generation import Request


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "generate",
        help="pictures from a diffusers pipeline, with the cache or without",
        description="Makes pictures from a diffusers pipeline (a folder with model_index.json): "
        "text to image, or from an image. ComfyUI is not needed.",
        epilog=f"{BACKEND_VARIABLE}={TEACACHE} and {CONFIG_VARIABLE} (JSON) turn the cache on "
        "without an option; an option wins.",
    )
    add_model_option(parser, required=True)
    parser.add_argument("--prompt", required=True, help="what to draw, or how to edit")
    add_seed_option(parser)
    add_pipeline_options(parser)
    add_cache_backend_options(parser)
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
    cache = resolve_cache_config(
        os.environ, args.cache_backend, args.cache_config, args.tea_cache_rel_l1_thresh
    )
    if args.compare and (cache is None or cache.rel_l1_thresh == 0):
        raise UserError(f"--compare: no cache is on; add --cache-backend {TEACACHE}")
    refuse_file(args.out)
    pipe, device, image = open_pipeline(args)

    from ..hosts.diffusers import loading as pipelines

    if cache is not None:
        line, problem = pipelines.recognise(pipe, cache)
        if problem and args.compare:
            raise UserError(f"--compare: {problem}")
        say(line or f"{problem} It runs without.")
        cache = cache if line else None
    request = request_of(args, image)
    started = time.time()
    with pipelines.placed(pipe, args.placement, device, None):
        generation = sample(pipe, request, cache, args.compare)
    out = usable_folder(args.out, "--out")
    about = describe_run(str(args.model), pipe, request, args.image, device, started)
    report = write_results(out, about, generation)
    print_results(report, out, generation)
    return 0


def sample(pipe: Any, request: Request, cache: TeaCacheConfig | None, compare: bool) -> Generation:
    """The pictures of one run, and those without the cache if they are to be compared."""
    from ..comparison import Point, compare_with_uncached
    from ..hosts.diffusers.backend import PipelineSamplingBackend

    if cache is None:
        with step_bar(request.steps, "sampling") as on_step:
            return Generation.of(PipelineSamplingBackend(pipe, request).sample(None, on_step))
    backend = PipelineSamplingBackend(pipe, request, cache)
    if not compare:
        with step_bar(request.steps, "cached") as on_step:
            return Generation.of(backend.sample(Point(()), on_step))
    say("warming up …")
    with RunBars() as bars:
        comparison, pictures = compare_with_uncached(backend, 1, bars)
    return Generation.compared(comparison, pictures)
