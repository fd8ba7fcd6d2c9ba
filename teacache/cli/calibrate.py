"""`teacache calibrate`: learn from a few runs what the cache should do on one model."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import write_atomically
from ..hosts.comfyui.headless.boot import find_comfyui
from ..progress import Progress, TimeLeft
from ..workflows.edits import calibration_graph
from ..workflows.load import load_workflow
from .options import MAX_SEED, WORKFLOW_HELP, add_host_options, refuse_file, say, whole_number
from .pipeline_options import add_model_option, add_pipeline_options, open_pipeline, request_of
from .progress import Step, task_bar

if TYPE_CHECKING:
    from ..profiles.calibrated import Calibration

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


# --- a diffusers pipeline --------------------------------------------------------------------


def calibrate_pipeline(args: argparse.Namespace) -> None:
    from ..profiles.store import ProfileStore, default_folder

    store = ProfileStore(default_folder())
    if args.name is not None:
        store.new_path(args.name, args.overwrite)
    args.prompt = args.prompts[0]
    pipe, device, image = open_pipeline(args)

    from ..calibration.calibrator import calibrate_and_save
    from ..calibration.shards import in_turn
    from ..hosts.diffusers import loading as pipelines
    from ..hosts.diffusers.backend import PipelineCalibrationBackend

    first = request_of(args, image)
    cases = [prompt for prompt in args.prompts for _ in range(args.seeds)]
    requests = [
        replace(first, prompt=prompt, seed=(args.seed + number) % (MAX_SEED + 1))
        for number, prompt in enumerate(cases)
    ]
    with pipelines.placed(pipe, args.placement or "auto", device, None):
        backend = PipelineCalibrationBackend(pipe, str(args.model), requests)
        with task_bar() as on_progress:
            calibration = calibrate_and_save(
                store,
                backend,
                in_turn(backend),
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


# --- a workflow ------------------------------------------------------------------------------


def calibrate_workflow(args: argparse.Namespace) -> None:
    complete = load_workflow(
        args.workflow,
        lambda graph, source: calibration_graph(
            graph, source, args.prompts or [], node_settings(args)
        ),
    )
    comfyui = find_comfyui(args.comfyui)

    from ..hosts.comfyui.headless.session import Session

    with tempfile.TemporaryDirectory(prefix="teacache-calibrate-") as folder:
        say("loading ComfyUI …")
        session = Session(comfyui, Path(folder), verbose=args.verbose)

        from ..hosts.comfyui.conditions import profile_store

        graph = complete(session.catalog)
        store = profile_store()
        before = set(store.names())
        time_left = TimeLeft()
        with task_bar() as on_progress:

            def step_ended(step: Step) -> None:
                left = time_left(step.value, step.total)
                on_progress(Progress(step.value, step.total, "calibrating", left))

            session.run(graph, step_ended)
        (name,) = [args.name] if args.name else set(store.names()) - before
        finish(store.load(name), store.path(name), args.out)


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
