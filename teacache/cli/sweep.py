"""`teacache sweep`: many settings of the cache on the user's own prompt, side by side."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..comparison import Axis, Point, grid_points, parse_axis
from ..comparison.axes import parse_values
from ..config import TeaCacheConfig
from ..errors import UserError
from ..hosts.comfyui.headless.boot import find_comfyui
from ..workflows.assignments import Assignment, apply_assignments, parse_assignments
from ..workflows.edits import only_picture, set_prompt, set_seed
from ..workflows.graph import Graph
from ..workflows.load import load_workflow
from ..workflows.selection import apply_nodes, find_picture
from .options import MAX_SEED, WORKFLOW_HELP, add_host_options, refuse_file, say, whole_number
from .pipeline_options import add_model_option, add_pipeline_options, open_pipeline, request_of
from .sweep_results import Task, carry_out

if TYPE_CHECKING:
    from ..hosts.comfyui.headless.session import Session

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
    add_host_options(parser, out="output/sweep")
    parser.set_defaults(run=run, only_workflow=[*only_workflow, "comfyui"], only_model=only_model)


def run(args: argparse.Namespace) -> int:
    x, y = chosen_axes(args)
    points = grid_points(x, y)
    check_options(args)
    refuse_file(args.out)
    if args.model:
        sweep_pipeline(args, x, y, points)
    else:
        sweep_workflow(args, x, y, points)
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


def sweep_workflow(args: argparse.Namespace, x: Axis, y: Axis | None, points: list[Point]) -> None:
    complete = load_workflow(args.workflow, partial(check_graph, args))
    comfyui = find_comfyui(args.comfyui)

    from ..hosts.comfyui.headless.backend import TIMED, WorkflowSamplingBackend
    from ..hosts.comfyui.headless.session import Session

    with tempfile.TemporaryDirectory(prefix="teacache-sweep-") as folder:
        say("loading ComfyUI …")
        session = Session(
            comfyui, Path(folder), verbose=args.verbose, custom_nodes=bool(args.custom_nodes)
        )
        checked = complete(session.catalog)
        graph = checked.graph
        fill_in(checked, args, session)
        link = find_picture(graph, checked.nodes, session.kind, args.picture)
        session.validate(only_picture(graph, link))
        backend = WorkflowSamplingBackend(session, graph, checked.nodes, link)
        about = {"workflow": args.workflow.name, "prompt": args.prompt, "seed": args.seed}
        carry_out(
            Task(backend, x, y, points, args.repeats, TIMED, about, args.out, args.fewer_steps)
        )


@dataclasses.dataclass(frozen=True)
class CheckedGraph:
    """A workflow's graph, the Apply TeaCache nodes to vary, and the inputs to set."""

    graph: Graph
    nodes: list[str]
    assignments: list[Assignment]


def check_graph(args: argparse.Namespace, graph: Graph, source: str) -> CheckedGraph:
    """Checks what needs no ComfyUI: the nodes that the options name, and Apply TeaCache."""
    nodes = apply_nodes(graph, args.nodes or [], source)
    return CheckedGraph(graph, nodes, parse_assignments(graph, args.settings or []))


def fill_in(checked: CheckedGraph, args: argparse.Namespace, session: Session) -> None:
    """Sets the prompt, the seed and the other inputs that the options give."""
    if args.prompt is not None:
        set_prompt(checked.graph, args.prompt)
    if args.seed is not None:
        set_seed(checked.graph, args.seed)
    apply_assignments(checked.graph, checked.assignments, session.input_types)


def sweep_pipeline(args: argparse.Namespace, x: Axis, y: Axis | None, points: list[Point]) -> None:
    pipe, device, image = open_pipeline(args)

    from ..hosts.diffusers import loading as pipelines
    from ..hosts.diffusers.backend import TIMED, PipelineSamplingBackend

    request = request_of(args, image)
    backend = PipelineSamplingBackend(pipe, request)
    about = {
        "model": str(args.model),
        "pipeline": type(pipe).__name__,
        "device": str(device),
        "prompt": request.prompt,
        "negative": request.negative,
        "seed": request.seed,
        "steps": request.steps,
    }
    with pipelines.placed(pipe, args.placement or "auto", device, None):
        carry_out(
            Task(backend, x, y, points, args.repeats, TIMED, about, args.out, args.fewer_steps)
        )
