"""`teacache generate`: pictures from a diffusers pipeline, with the cache or without."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from ..environment import BACKEND_VARIABLE, CONFIG_VARIABLE, TEACACHE
from .generate_jobs import PipelineJobs, cache_of
from .generate_worker import PipelineSpec
from .job_plan import add_plan_options, opened_plan
from .job_runs import Work, run_work
from .options import refuse_file
from .pipeline_options import (
    add_cache_backend_options,
    add_model_option,
    add_pipeline_options,
    add_seed_option,
)
from .ray_options import add_ray_options, check_ray_options, opened_pool
from .run_results import check_report


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
    parser.add_argument("--prompt", help="what to draw, or how to edit")
    add_seed_option(parser)
    add_pipeline_options(parser)
    add_cache_backend_options(parser)
    parser.add_argument(
        "--compare", action="store_true", help="also without the cache: gain, PSNR, SSIM, LPIPS"
    )
    add_plan_options(parser, "the names of options, such as prompt and seed", "seed=1|2|3")
    add_ray_options(parser)
    parser.add_argument("--report", type=Path, metavar="FILE", help="write a report as JSON")
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
    check_report(args.report)
    check_ray_options(args)
    with opened_plan(args) as plan:
        jobs = PipelineJobs(args, plan)
        plan.check(jobs.check)
        refuse_file(args.out)
        spec = partial(PipelineSpec, options=jobs.options({}), cache=cache_of(vars(args)))
        with opened_pool(args, spec, args.verbose) as pool:
            work = Work(
                plan,
                payload=jobs.payload,
                models=jobs.models,
                store=jobs.store,
                admit=jobs.admit,
                report=args.report or (None if plan.single else args.out / "report.json"),
                about={"model": str(args.model)},
                key=jobs.key(),
                flat=plan.single,
            )
            return run_work(args, work, pool)
