"""ComfyUI in a worker's process: loaded once, for the jobs of a calibration or a comparison."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....comparison import Point
from ....comparison.jobs import BenchWorker
from ....workflows.assignments import Assignment, apply_assignments, parse_assignments
from ....workflows.edits import calibration_graph, only_picture, set_prompt, set_seed
from ....workflows.graph import Graph
from ....workflows.load import WorkflowFile
from ....workflows.selection import apply_nodes, find_picture
from .backend import TIMED, WorkflowSamplingBackend
from .boot import find_comfyui

if TYPE_CHECKING:
    from ....calibration.worker import ShardWorker
    from .session import Session


@dataclass(frozen=True)
class SessionSource:
    """A ComfyUI to load.

    Args:
        comfyui: its folder, as it is called where the worker runs; None to look for one.
        custom_nodes: load the other packs of that ComfyUI as well.
        verbose: show ComfyUI's log.
    """

    comfyui: Path | None = None
    custom_nodes: bool = False
    verbose: bool = False

    @contextmanager
    def opened(self) -> Iterator[Session]:
        """The session, with a folder of its own for the context.

        Raises:
            UserError: ComfyUI or this pack cannot be loaded.
        """
        comfyui = find_comfyui(self.comfyui)

        from .session import Session

        with tempfile.TemporaryDirectory(prefix="teacache-session-") as folder:
            yield Session(
                comfyui, Path(folder), verbose=self.verbose, custom_nodes=self.custom_nodes
            )


# --- calibrations --------------------------------------------------------------------------------


@dataclass(frozen=True)
class GraphCalibrationSpec:
    """A `jobs.WorkerSpec` for the runs of a calibration.

    Args:
        prompts, settings: as `workflows.edits.calibration_graph` takes them.
    """

    name: str
    source: SessionSource
    workflow: WorkflowFile
    prompts: tuple[str, ...]
    settings: dict[str, Any]
    computes: bool = True

    def start(self) -> ShardWorker:
        with ExitStack() as stack:
            session = stack.enter_context(self.source.opened())

            from ....calibration.worker import ShardWorker
            from .inputs import calibration_backend

            graph = self.graph(self.workflow.graph(session.catalog))
            session.validate(graph)
            backend = calibration_backend(session, graph)
            return ShardWorker(backend, stack.pop_all().close)

    def graph(self, graph: Graph) -> Graph:
        """The graph with Calibrate TeaCache in place of its sampler.

        Raises:
            UserError: there is not one KSampler, it lacks an input, or there is not one prompt.
        """
        return calibration_graph(graph, self.workflow.source, self.prompts, self.settings)


# --- comparisons ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ComparedGraph:
    """A workflow whose Apply TeaCache is varied, and what is set in it beforehand.

    Args:
        settings: `NODE.INPUT=VALUE`.
        nodes: the Apply TeaCache nodes to vary; empty for the only one.
        picture: the node whose picture is compared; None for the only one.
        prompt, seed: None for the workflow's own.
    """

    workflow: WorkflowFile
    settings: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    picture: str | None = None
    prompt: str | None = None
    seed: int | None = None

    def check(self, graph: Graph) -> tuple[list[str], list[Assignment]]:
        """The nodes to vary and the inputs to set, as far as that is known without ComfyUI.

        Raises:
            UserError: one of them is not there.
        """
        nodes = apply_nodes(graph, self.nodes, self.workflow.source)
        return nodes, parse_assignments(graph, self.settings)

    def check_file(self) -> None:
        """Checks a graph in API format, before ComfyUI is loaded; errors as `check`."""
        graph = self.workflow.graph_here()
        if graph is not None:
            self.check(graph)

    def backend(self, session: Session) -> WorkflowSamplingBackend:
        """What samples it.

        Raises:
            UserError: the workflow or a setting is unusable.
        """
        graph = self.workflow.graph(session.catalog)
        nodes, assignments = self.check(graph)
        if self.prompt is not None:
            set_prompt(graph, self.prompt)
        if self.seed is not None:
            set_seed(graph, self.seed)
        apply_assignments(graph, assignments, session.input_types)
        link = find_picture(graph, nodes, session.kind, self.picture)
        session.validate(only_picture(graph, link))
        return WorkflowSamplingBackend(session, graph, nodes, link)

    @property
    def about(self) -> dict[str, Any]:
        """What a report says of it."""
        return {"workflow": self.workflow.source, "prompt": self.prompt, "seed": self.seed}


@dataclass(frozen=True)
class GraphBenchSpec:
    """A `jobs.WorkerSpec` for the parts of a comparison.

    Args:
        points, repeats: of the comparison.
    """

    name: str
    source: SessionSource
    compared: ComparedGraph
    points: tuple[Point, ...]
    repeats: int
    computes: bool = True

    def start(self) -> BenchWorker:
        with ExitStack() as stack:
            session = stack.enter_context(self.source.opened())
            backend = self.compared.backend(session)
            about, close = self.compared.about, stack.pop_all().close
            return BenchWorker(backend, self.points, self.repeats, TIMED, about, close)
