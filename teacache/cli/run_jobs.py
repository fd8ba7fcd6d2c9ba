"""`teacache run` more than once, on Ray, or on running servers: the jobs of a workflow."""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import save_beside
from ..hosts.comfyui.graph_jobs import (
    GraphMade,
    GraphSource,
    GraphTask,
    ServerSpec,
    SessionSpec,
)
from ..workflows.assignments import (
    Assignment,
    apply_assignments,
    is_target,
    parse_assignments,
    parse_target,
)
from ..workflows.graph import Graph, describe
from ..workflows.load import WorkflowFile
from .caching import cache_entry
from .job_plan import Entry, Plan, as_text, opened_plan
from .job_runs import Work, digest_of, run_work
from .options import refuse_file, say
from .ray_options import check_ray_options, opened_pool
from .run_results import check_report, result_text

if TYPE_CHECKING:
    from ..config import TeaCacheConfig
    from ..jobs import WorkerSpec


def run_jobs(args: argparse.Namespace, cache: TeaCacheConfig | None) -> int:
    """Runs the workflow once for each job; returns the exit status."""
    check_options(args)
    source = GraphSource(WorkflowFile.read(args.workflow), tuple(args.settings), cache)
    with opened_plan(args) as plan:
        jobs = WorkflowJobs(args, plan)
        if source.workflow.is_graph:
            graph = source.workflow.graph(_no_catalog)
            parse_assignments(graph, args.settings)
            plan.check(lambda entry: jobs.check_nodes(graph, entry))
        else:
            plan.check(jobs.check_names)
        refuse_file(args.out)
        with opened_pool(args, spec_of(args, source), args.verbose, args.servers) as pool:
            if not args.servers:
                say("loading ComfyUI …")
            work = Work(
                plan,
                payload=jobs.payload,
                models=models_of,
                store=jobs.store,
                admit=jobs.admit,
                report=args.report,
                about=jobs.about,
                key=key_of(args, source),
                flat=plan.single and not args.servers,
            )
            return run_work(args, work, pool)


def check_options(args: argparse.Namespace) -> None:
    """`UserError` for options that do not go together."""
    check_report(args.report)
    check_ray_options(args)
    if args.upload and not args.servers:
        raise UserError("--upload: needs --server URL")
    for file in args.upload:
        if not file.is_file():
            raise UserError(f"--upload {file}: no such file")
    if len(args.servers) > 1 and args.ray is None:
        raise UserError("--server: several share the work with --ray, such as --ray local")
    for option in ("workers", "gpus_per_worker"):
        if args.servers and vars(args)[option] is not None:
            raise UserError(f"--{option.replace('_', '-')}: not with --server, which is a worker")
    if args.servers:
        try:
            import aiohttp  # noqa: F401
        except ImportError:
            raise UserError("--server needs aiohttp: pip install aiohttp") from None


def spec_of(args: argparse.Namespace, source: GraphSource) -> Any:
    """What makes the description of a worker from its name."""
    uploads = tuple((file.name, file.read_bytes()) for file in args.upload)

    def spec(name: str) -> WorkerSpec:
        if args.servers:
            return ServerSpec(name, source, uploads)
        return SessionSpec(name, source, args.comfyui, args.custom_nodes, args.verbose)

    return spec


def key_of(args: argparse.Namespace, source: GraphSource) -> dict[str, Any]:
    """What the results depend on beside the jobs."""
    return {
        "command": "run",
        "workflow": digest_of(source.workflow.data),
        "settings": list(source.settings),
        "cache": None if source.cache is None else repr(source.cache),
        "custom_nodes": args.custom_nodes,
    }


def models_of(entry: Entry) -> str:
    """Jobs differ in the models they need where they set the name of a file."""
    return "\n".join(
        setting
        for setting, name in zip(entry.settings, entry.values, strict=True)
        if name.endswith("_name") and not name.endswith(".sampler_name")
    )


def _no_catalog() -> Any:
    raise AssertionError("a graph needs no node definitions")


@dataclass
class WorkflowJobs:
    """The jobs of a workflow, once a worker has told what its graph and its inputs are."""

    args: argparse.Namespace
    plan: Plan
    about: dict[str, Any] = field(default_factory=dict)
    _graph: Graph = field(default_factory=dict)
    _types: dict[str, dict[str, str] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.about["workflow"] = self.args.workflow.name

    # --- what is checked -------------------------------------------------------------------------

    def check_names(self, entry: Entry) -> None:
        for name in entry.values:
            if not is_target(name):
                raise entry.error(f"{name}: a job's inputs are called NODE.INPUT")

    def check_nodes(self, graph: Graph, entry: Entry) -> None:
        self.check_names(entry)
        self._assignments(graph, entry)

    def admit(self, about: dict[str, Any]) -> None:
        """Checks every job against what the first worker tells, before anything runs."""
        if self._graph:
            return
        graph, self._types = about["graph"], about["types"]
        scratch = copy.deepcopy(graph)
        self.plan.check(lambda entry: self._assign(scratch, entry))
        if about["cache"] is not None:
            self.about |= cache_entry(about["cache"], self.args)
        self._graph = graph

    # --- what is run -----------------------------------------------------------------------------

    def payload(self, entry: Entry) -> GraphTask:
        graph = copy.deepcopy(self._graph)
        varied = self._assign(graph, entry)
        return GraphTask(graph, tuple(dict.fromkeys(varied)), self._taken())

    def _taken(self) -> tuple[str, ...]:
        """Names in the results' folder, which ComfyUI numbers its files by; of the single job
        alone, since the others have folders of their own."""
        out: Path = self.args.out
        if not self.plan.single or self.args.servers:
            return ()
        files = (path for path in out.rglob("*") if path.is_file())
        return tuple(path.relative_to(out).as_posix() for path in files)

    def store(self, entry: Entry, made: GraphMade) -> tuple[dict[str, Any], str]:
        """Writes the files of a job; none is overwritten with another content."""
        out: Path = self.args.out
        names: dict[str, list[str]] = {}
        shown = []
        for file in made.files:
            path = save_beside(out / entry.folder / file.path, file.content)
            names.setdefault(file.node, []).append(path.relative_to(out).as_posix())
            shown.append((file.label, path))
        told = {"seconds": made.seconds, "nodes": made.nodes, "files": names, "runs": made.runs}
        return told, result_text(made.runs, shown, made.seconds)

    # ---------------------------------------------------------------------------------------------

    def _assignments(self, graph: Graph, entry: Entry) -> list[Assignment]:
        found = []
        for name, value in entry.values.items():
            try:
                node, key = parse_target(graph, name)
            except UserError as error:
                raise entry.error(f"{name}: {error}") from None
            text = value if not self.plan.is_json else _json_text(value)
            found.append(Assignment(node, key, text))
        return found

    def _assign(self, graph: Graph, entry: Entry) -> list[str]:
        """Puts a job's values into `graph`; the nodes that have them."""
        assignments = self._assignments(graph, entry)
        for assignment in assignments:
            if self._types[graph[assignment.node]["class_type"]] is None:
                node = describe(graph, assignment.node)
                raise entry.error(f"node {node}: this ComfyUI does not know it")
        apply_assignments(graph, assignments, self._types.__getitem__, entry.source)
        return [assignment.node for assignment in assignments]


def _json_text(value: Any) -> str:
    """A JSON value as --set takes it: a text stays one, even if it reads like a number."""
    return as_text([value])[1:-1]
