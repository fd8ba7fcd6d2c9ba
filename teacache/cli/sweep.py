"""`teacache sweep`: many settings of the cache on the user's own prompt, side by side."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..comparison import Axis, grid_points, parse_axis
from ..comparison.axes import parse_values
from ..comparison.jobs import SharedComparison
from ..config import TeaCacheConfig
from ..errors import UserError
from ..hosts.comfyui.headless.boot import find_comfyui
from ..hosts.comfyui.headless.worker import ComparedGraph, GraphBenchSpec, SessionSource
from ..jobs import WorkerSpec, kept_open
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
from .ray_options import add_ray_options, check_ray_options, opened_pool, retries_of
from .sweep_results import InTurn, Task, carry_out

REPEATS = 3
DEFAULT = "0.1,0.2,0.4"
SHORT = {"presets": "preset", "thresholds": "rel_l1_thresh", "modes": "mode"}
"""Options that stand for an axis of one setting."""
MOST_AXES = 2


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "sweep",
        help="compare thresholds, modes or other settings on your own prompt",
        description="Samples without the cache, then with each setting, same seed, and writes a "
        "table, every picture, one picture of all, and a report. Of a workflow file with Apply "
        "TeaCache in it, or of a diffusers pipeline (--model).",
        epilog=f"Without an axis: --thresholds {DEFAULT}. Two axes give every combination.",
    )
    parser.add_argument("workflow", type=Path, nargs="?", metavar="WORKFLOW", help=WORKFLOW_HELP)
    add_model_option(parser, required=False)
    axes = parser.add_argument_group("what is varied (one or two)")
    known = [field.name for field in dataclasses.fields(TeaCacheConfig)]
    axes.add_argument(
        "--x", metavar="SETTING=A,B,…", help=f"a setting and its values: {', '.join(known)}"
    )
    axes.add_argument("--y", metavar="SETTING=A,B,…", help="a second one, as rows")
    for option, setting in SHORT.items():
        if setting in known:
            axes.add_argument(f"--{option}", metavar="A,B,…", help=f"the same as --x {setting}=A,B")
    parser.add_argument(
        "--repeats",
        type=whole_number(1, 100),
        default=REPEATS,
        help="timed runs of each point, in turn (default: %(default)s)",
    )
    parser.add_argument(
        "--fewer-steps",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="sample as well what takes as long without the cache: for each point as many steps "
        "as it computed (default: yes)",
    )
    parser.add_argument("--prompt", help="what to draw (default: the workflow's)")
    parser.add_argument(
        "--seed", type=whole_number(0, MAX_SEED), help="of the noise (default: the workflow's, 0)"
    )
    workflow = parser.add_argument_group("workflows")
    before = {action.dest for action in parser._actions}
    workflow.add_argument(
        "--set",
        action="append",
        dest="settings",
        metavar="NODE.INPUT=VALUE",
        help="set an input, as 'run' does; repeatable",
    )
    workflow.add_argument(
        "--node",
        action="append",
        dest="nodes",
        metavar="NODE",
        help="the Apply TeaCache to vary, where there are several; repeatable",
    )
    workflow.add_argument(
        "--picture", metavar="NODE", help="the node whose picture is compared, likewise"
    )
    workflow.add_argument(
        "--custom-nodes",
        action="store_true",
        default=None,
        help="load the other packs of that ComfyUI as well",
    )
    only_workflow = [action.dest for action in parser._actions if action.dest not in before]
    only_model = add_pipeline_options(parser.add_argument_group("diffusers pipelines"))
    add_ray_options(parser)
    add_host_options(parser, out="output/sweep")
    parser.set_defaults(run=run, only_workflow=[*only_workflow, "comfyui"], only_model=only_model)


def run(args: argparse.Namespace) -> int:
    x, y = chosen_axes(args)
    points = grid_points(x, y)
    check_options(args)
    check_ray_options(args)
    refuse_file(args.out)
    task = Task(x, y, points, args.repeats, args.out, args.fewer_steps)
    if args.model:
        sweep_pipeline(args, task)
    else:
        sweep_workflow(args, task)
    return 0


def chosen_axes(args: argparse.Namespace) -> tuple[Axis, Axis | None]:
    """The axes that the options name, --x first and --y last."""
    given = vars(args)
    axes = [parse_axis(args.x, "--x")] if args.x is not None else []
    for option, setting in SHORT.items():
        listed = given.get(option)
        if listed is not None:
            axes.append(Axis(setting, parse_values(setting, listed, f"--{option}")))
    if args.y is not None:
        axes.append(parse_axis(args.y, "--y"))
    if not axes:
        axes.append(Axis("rel_l1_thresh", parse_values("rel_l1_thresh", DEFAULT, "")))
    if len(axes) > MOST_AXES:
        named = ", ".join(axis.setting for axis in axes)
        raise UserError(f"at most {MOST_AXES} settings can be varied at once, not {named}")
    return axes[0], axes[1] if len(axes) > 1 else None


def check_options(args: argparse.Namespace) -> None:
    """`UserError` unless there is one thing to sample, and only options that go with it."""
    if bool(args.workflow) == bool(args.model):
        raise UserError("name either a workflow file or a pipeline with --model")
    if args.model and args.prompt is None:
        raise UserError("--model: needs --prompt TEXT")
    wrong, needed = (
        (args.only_workflow, "a workflow file") if args.model else (args.only_model, "--model")
    )
    names = {"settings": "set", "nodes": "node"}
    for name in wrong:
        if vars(args)[name] is not None:
            option = names.get(name, name).replace("_", "-")
            raise UserError(f"--{option}: needs {needed}")


def sweep_workflow(args: argparse.Namespace, task: Task) -> None:
    compared = ComparedGraph(
        WorkflowFile.read(args.workflow),
        settings=tuple(args.settings or []),
        nodes=tuple(args.nodes or []),
        picture=args.picture,
        prompt=args.prompt,
        seed=args.seed,
    )
    compared.check_file()
    comfyui = None if args.comfyui is None else args.comfyui.expanduser().absolute()
    source = SessionSource(comfyui, bool(args.custom_nodes), args.verbose)
    if args.ray is not None:
        points, repeats = tuple(task.points), task.repeats
        say("loading ComfyUI …")
        sweep_on_workers(
            args, task, lambda name: GraphBenchSpec(name, source, compared, points, repeats)
        )
        return
    find_comfyui(args.comfyui)
    say("loading ComfyUI …")
    with source.opened() as session:
        from ..hosts.comfyui.headless.backend import TIMED

        carry_out(task, InTurn(compared.backend(session)), TIMED, compared.about)


def sweep_pipeline(args: argparse.Namespace, task: Task) -> None:
    image = image_of(args)
    source = pipeline_source(args, image is not None)
    request = request_of(args, image)

    from ..hosts.diffusers.worker import PipelineBenchSpec, opened_backend

    say(f"loading {args.model} …")
    if args.ray is not None:
        points, repeats = tuple(task.points), task.repeats
        sweep_on_workers(
            args, task, lambda name: PipelineBenchSpec(name, source, request, points, repeats)
        )
        return
    with opened_backend(source, request) as (backend, about):
        from ..hosts.diffusers.backend import TIMED

        carry_out(task, InTurn(backend), TIMED, about)


def sweep_on_workers(
    args: argparse.Namespace, task: Task, spec: Callable[[str], WorkerSpec]
) -> None:
    """The points as jobs of the workers of `spec`."""
    with (
        opened_pool(args, spec, args.verbose) as pool,
        kept_open(pool) as rounds,
        WorkerLines() as lines,
    ):
        shared = SharedComparison(rounds, retries_of(args), lines)
        described = shared.describe()
        carry_out(task, shared, described.what, described.about)
