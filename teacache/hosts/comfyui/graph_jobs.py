"""Graphs as jobs of a pool: run by a ComfyUI that a worker loads once, or by a server."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config import TeaCacheConfig
from ...errors import UserError
from ...jobs import Job, WorkerLost
from ...jobs.job import OnProgress
from ...progress import Progress as JobProgress
from ...workflows.assignments import apply_assignments, parse_assignments
from ...workflows.definitions import Catalog, input_types
from ...workflows.graph import Graph, describe, downstream, title
from ...workflows.insertion import insert_cache
from ...workflows.load import WorkflowFile

if TYPE_CHECKING:
    from .headless.session import GraphResult, Progress, Session
    from .remote import RemoteHost


@dataclass(frozen=True)
class GraphTask:
    """The payload of a job.

    Attributes:
        graph: to execute.
        varied: the nodes with values of this job alone; what does not depend on them is kept.
        taken: names of files in the results' folder, by which ComfyUI numbers its own.
    """

    graph: Graph
    varied: tuple[str, ...]
    taken: tuple[str, ...] = ()


@dataclass(frozen=True)
class MadeFile:
    """A file that a node saved; `label` describes the node, `path` lies in the results' folder."""

    node: str
    label: str
    path: str
    content: bytes


@dataclass(frozen=True)
class GraphMade:
    """The result of a job.

    Attributes:
        seconds: of the whole graph.
        nodes: class, title and time of every node that ran, where that is known.
        files: in the order of the nodes.
        runs: the reports of the caches.
    """

    seconds: float
    nodes: dict[str, Any]
    files: list[MadeFile]
    runs: list[dict[str, Any]]


@dataclass(frozen=True)
class GraphSource:
    """The workflow that the jobs share, before it has the values of each.

    Attributes:
        settings: `NODE.INPUT=VALUE` for every job.
        cache: settings of the cache that is put into the graph; None leaves it as it is.
    """

    workflow: WorkflowFile
    settings: tuple[str, ...] = ()
    cache: TeaCacheConfig | None = None

    def about(self, catalog: Callable[[], Catalog]) -> dict[str, Any]:
        """What a worker tells: the graph, the types of its inputs, where the cache was put.

        Raises:
            UserError: the file or a setting is unusable.
        """
        graph = self.workflow.graph(catalog)
        classes = catalog().classes
        assignments = parse_assignments(graph, self.settings)
        for assignment in assignments:
            if graph[assignment.node]["class_type"] not in classes:
                node = describe(graph, assignment.node)
                raise UserError(f"node {node}: this ComfyUI does not know it")

        def types(kind: str) -> dict[str, str] | None:
            return input_types(classes[kind]["input"]) if kind in classes else None

        apply_assignments(graph, assignments, types)
        outcome = None if self.cache is None else insert_cache(graph, self.cache, classes)
        kinds = {node["class_type"] for node in graph.values()}
        return {
            "graph": graph,
            "types": {kind: types(kind) for kind in kinds},
            "cache": outcome,
        }


# --- a ComfyUI of the worker's own ---------------------------------------------------------------


@dataclass(frozen=True)
class SessionSpec:
    """A `WorkerSpec`: ComfyUI is loaded into the worker's process.

    Attributes:
        comfyui: its folder, as it is called where the worker runs; None to look for one.
    """

    name: str
    source: GraphSource
    comfyui: Path | None = None
    custom_nodes: bool = False
    verbose: bool = False
    computes: bool = True

    def start(self) -> SessionWorker:
        from .headless.boot import find_comfyui
        from .headless.session import Session

        comfyui = find_comfyui(self.comfyui)
        folder = Path(tempfile.mkdtemp(prefix="teacache-worker-")).resolve()
        try:
            session = Session(comfyui, folder, verbose=self.verbose, custom_nodes=self.custom_nodes)
            return SessionWorker(session, folder, self.source.about(session.catalog))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


class SessionWorker:
    """A `Worker` with a ComfyUI: a job finds the models loaded, and nothing else of earlier jobs.

    Args:
        folder: for files until they are sent; removed at the end.
    """

    def __init__(self, session: Session, folder: Path, about: dict[str, Any]) -> None:
        self.about = about
        self._session = session
        self._folder = folder
        self._samplers: set[str] = set()
        self._ran = False

    def run(self, job: Job, on_progress: OnProgress) -> GraphMade:
        task: GraphTask = job.payload
        valid = self._session.validate(task.graph)
        output = self._folder / str(job.number)
        self._session.write_to(output)
        for name in task.taken:
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            (output / name).touch()
        try:
            if self._ran:
                own = {*task.varied, *valid.outputs, *self._samplers} & valid.graph.keys()
                after = downstream(valid.graph, own)
                kept = [node for node in valid.graph if node not in after]
                self._session.keep_only(valid.graph, kept)
            self._ran = True
            result = self._session.execute(valid, _telling(on_progress))
            self._samplers |= {report["sampled_by"] for report in result.reports}
            return made(valid.graph, result, output)
        finally:
            shutil.rmtree(output, ignore_errors=True)

    def stop(self) -> None:
        self._session.interrupt()

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


# --- a server ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ServerSpec:
    """A `WorkerSpec`: a running ComfyUI server, called by its URL.

    Attributes:
        uploads: names and contents of pictures for its input folder.
    """

    name: str
    source: GraphSource
    uploads: tuple[tuple[str, bytes], ...] = ()
    computes: bool = False

    def start(self) -> ServerWorker:
        from .remote import RemoteHost, ServerLost

        loop = asyncio.new_event_loop()
        host = RemoteHost(self.name)
        try:
            loop.run_until_complete(host.__aenter__())
            try:
                catalog = loop.run_until_complete(host.catalog())
                return ServerWorker(loop, host, self.uploads, self.source.about(lambda: catalog))
            except BaseException:
                loop.run_until_complete(host.__aexit__())
                raise
        except ServerLost as error:
            loop.close()
            raise WorkerLost(str(error)) from None
        except BaseException:
            loop.close()
            raise


class ServerWorker:
    """A `Worker` that sends its jobs to a server and fetches the files."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        host: RemoteHost,
        uploads: tuple[tuple[str, bytes], ...],
        about: dict[str, Any],
    ) -> None:
        self.about = about
        self._loop = loop
        self._host = host
        self._uploads = list(uploads)
        self._task: asyncio.Task[Any] | None = None

    def run(self, job: Job, on_progress: OnProgress) -> GraphMade:
        from .remote import ServerLost

        task: GraphTask = job.payload
        with tempfile.TemporaryDirectory(prefix="teacache-server-") as folder:
            out = Path(folder).resolve()

            async def work() -> GraphResult:
                while self._uploads:
                    await self._host.upload(*self._uploads[0])
                    del self._uploads[0]
                return await self._host.run(task.graph, out, _telling(on_progress))

            try:
                result = self._until_complete(work())
            except ServerLost as error:
                raise WorkerLost(str(error)) from None
            return made(task.graph, result, out)

    def _until_complete(self, work: Coroutine[Any, Any, GraphResult]) -> GraphResult:
        """What `work` returns; where it is interrupted, the server stops as well."""
        task: asyncio.Task[GraphResult] = self._loop.create_task(work)
        self._task = task
        try:
            return self._loop.run_until_complete(task)
        except (KeyboardInterrupt, asyncio.CancelledError):
            task.cancel()
            self._loop.run_until_complete(asyncio.wait({task}))
            self._loop.run_until_complete(self._host.stop())
            raise KeyboardInterrupt from None
        finally:
            self._task = None

    def stop(self) -> None:
        task = self._task
        if task is not None:
            self._loop.call_soon_threadsafe(task.cancel)

    def close(self) -> None:
        self._loop.run_until_complete(self._host.__aexit__())
        self._loop.close()


# -------------------------------------------------------------------------------------------------


def made(graph: Graph, result: GraphResult, folder: Path) -> GraphMade:
    """The result with the contents of its files in `folder`; others stay where they are."""
    files = []
    for node, paths in result.files.items():
        label = describe(graph, node) if node in graph else ""
        for path in map(Path.resolve, paths):
            if path.is_relative_to(folder):
                name = path.relative_to(folder).as_posix()
                files.append(MadeFile(node, label, name, path.read_bytes()))
    return GraphMade(result.seconds, nodes_json(graph, result), files, result.reports)


def nodes_json(graph: Graph, result: GraphResult) -> dict[str, Any]:
    """The class, title and time of every node of `graph` that ran."""
    return {
        node: {
            "class_type": graph[node]["class_type"],
            "title": title(graph, node),
            "seconds": seconds,
        }
        for node, seconds in result.node_seconds.items()
        if node in graph
    }


def _telling(on_progress: OnProgress) -> Callable[[Progress], None]:
    """A listener for the progress of nodes that report more than one step."""

    def listen(progress: Progress) -> None:
        if progress.total > 1:
            on_progress(JobProgress(progress.value, progress.total, progress.title))

    return listen
