"""`teacache calibrate`: learn from a few runs what the cache should do on one model."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import write_atomically
from ..hosts.comfyui.headless.boot import find_comfyui
from ..jobs import Watcher, WorkerSpec, kept_open
from ..workflows.load import WorkflowFile
from .job_bars import WorkerLines
from .options import MAX_SEED, WORKFLOW_HELP, add_host_options, refuse_file, say, whole_number
from .pipeline_options import (
    add_model_option,
    add_pipeline_options,
    image_of,
    pipeline_source,
    request_of,
)
from .progress import task_bar
from .ray_options import add_ray_options, check_ray_options, opened_pool, retries_of

if TYPE_CHECKING:
    from ..profiles.calibrated import Calibration
    from ..profiles.store import ProfileStore

TRIALS = 3
MOST_PROMPTS = 8


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "calibrate",
        help="learn from a few runs what the cache should do on your model",
        description="Samples a few prompts uncached and with trial plans, and keeps what it "
        "learned as a profile, which Apply TeaCache and enable_teacache find by themselves. Of a "
        "workflow file with a KSampler, or of a diffusers pipeline (--model). Interrupted, the "
        "same command goes on.",
    )
    parser.add_argument("workflow", type=Path, nargs="?", metavar="WORKFLOW", help=WORKFLOW_HELP)
    add_model_option(parser, required=False)
    parser.add_argument(
        "--prompt",
        action="append",
        dest="prompts",
        metavar="TEXT",
        help=f"repeatable, up to {MOST_PROMPTS}; three or more are best (default: the workflow's)",
    )
    parser.add_argument("--name", help="of the profile (default: family and a number)")
    parser.add_argument(
        "--seeds", type=whole_number(1, 32), default=1, help="runs with each prompt (default: 1)"
    )
    parser.add_argument(
        "--seed", type=whole_number(0, MAX_SEED), default=0, help="of the first run (default: 0)"
    )
    parser.add_argument(
        "--trials",
        type=whole_number(0, 50),
        help=f"further plans tried for each speed-up (default: {TRIALS})",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="learn from one uncached run of one prompt, and try no plans",
    )
    parser.add_argument("--overwrite", action="store_true", help="a profile of the same name")
    only_model = add_pipeline_options(parser.add_argument_group("diffusers pipelines"))
    add_ray_options(parser)
    add_host_options(parser, out="output/calibration")
    parser.set_defaults(run=run, only_model=only_model)


def run(args: argparse.Namespace) -> int:
    if bool(args.workflow) == bool(args.model):
        raise UserError("name either a workflow file or a pipeline with --model")
    if args.model and not args.prompts:
        raise UserError("--model: needs --prompt TEXT, once or more")
    if len(args.prompts or []) > MOST_PROMPTS:
        raise UserError(f"--prompt: at most {MOST_PROMPTS}, not {len(args.prompts)}")
    if args.quick:
        refuse_several_runs(args)
    for name in [] if args.model else args.only_model:
        if vars(args)[name] is not None:
            raise UserError(f"--{name.replace('_', '-')}: needs --model")
    check_ray_options(args)
    refuse_file(args.out)
    if args.model:
        calibrate_pipeline(args)
    else:
        calibrate_workflow(args)
    return 0


def refuse_several_runs(args: argparse.Namespace) -> None:
    """Refuses what --quick, which is one uncached run, has no use for."""
    if args.trials is not None:
        raise UserError("--quick: tries no plans: leave out --trials")
    if args.seeds > 1:
        raise UserError("--quick: takes one run: leave out --seeds")
    if len(args.prompts or []) > 1:
        raise UserError(f"--quick: takes one --prompt, not {len(args.prompts)}")


def trials_of(args: argparse.Namespace) -> int:
    trials: int = TRIALS if args.trials is None else args.trials
    return trials


def calibrate_pipeline(args: argparse.Namespace) -> None:
    from ..profiles.store import ProfileStore, default_folder

    store = ProfileStore(default_folder())
    check_name(args, store)
    image = image_of(args)
    source = pipeline_source(args, image is not None)

    from ..hosts.diffusers.worker import PipelineCalibrationSpec

    args.prompt = args.prompts[0]
    first = request_of(args, image)
    cases = [prompt for prompt in args.prompts for _ in range(args.seeds)]
    requests = tuple(
        replace(first, prompt=prompt, seed=(args.seed + number) % (MAX_SEED + 1))
        for number, prompt in enumerate(cases)
    )
    say(f"loading {args.model} …")
    calibrate(args, store, lambda name: PipelineCalibrationSpec(name, source, requests))


def calibrate_workflow(args: argparse.Namespace) -> None:
    from ..hosts.comfyui.headless.worker import GraphCalibrationSpec, SessionSource
    from ..profiles.store import ProfileStore

    workflow = WorkflowFile.read(args.workflow)
    comfyui = None if args.comfyui is None else args.comfyui.expanduser().absolute()
    source = SessionSource(comfyui, verbose=args.verbose)
    prompts = tuple(args.prompts or [])

    def spec(name: str) -> GraphCalibrationSpec:
        return GraphCalibrationSpec(name, source, workflow, prompts, node_settings(args))

    graph = workflow.graph_here()
    if graph is not None:
        spec("").graph(graph)
    store = ProfileStore.in_user_folder(find_comfyui(args.comfyui) / "user")
    check_name(args, store)
    say("loading ComfyUI …")
    calibrate(args, store, spec)


def node_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The inputs of Calibrate TeaCache that the options give."""
    return {
        "name": args.name or "auto",
        "seed": args.seed,
        "seeds": args.seeds,
        "trials": trials_of(args),
        "quick": args.quick,
        "overwrite": args.overwrite,
    }


def check_name(args: argparse.Namespace, store: ProfileStore) -> None:
    """`ConfigError` for a --name that is taken or unusable."""
    if args.name is not None:
        store.new_path(args.name, args.overwrite)


def calibrate(
    args: argparse.Namespace, store: ProfileStore, spec: Callable[[str], WorkerSpec]
) -> None:
    """Calibrates what the workers of `spec` have loaded, in this process or on Ray."""
    from ..calibration.jobs import SharedSampling

    with (
        opened_pool(args, spec, args.verbose) as pool,
        kept_open(pool) as rounds,
        WorkerLines() as lines,
    ):
        watcher = Watcher() if args.ray is None else lines
        sampling = SharedSampling(rounds, retries_of(args), watcher)
        model = sampling.describe()

        from ..calibration.calibrator import calibrate_and_save

        with task_bar() as on_progress:
            calibration = calibrate_and_save(
                store,
                model,
                sampling,
                args.name,
                trials=trials_of(args),
                quick=args.quick,
                overwrite=args.overwrite,
                on_progress=on_progress,
                on_resume=lambda: say("going on with what was interrupted"),
            )
    finish(calibration, store.path(calibration.name), args.out)


def finish(calibration: Calibration, path: Path, out: Path) -> None:
    from ..calibration.results import calibration_table
    from ..plots.calibration import calibration_plot

    picture = out / f"{calibration.name}.png"
    write_atomically(picture, calibration_plot(calibration.to_json()).save)
    print(calibration_table(calibration))
    print(f"\n{path}\n{picture}")
