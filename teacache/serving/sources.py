"""How a served model is opened, told in values that can be sent to another process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..config import TeaCacheConfig
from ..workflows.fields import Input, parse_map
from ..workflows.graph import Graph, read_workflow
from ..workflows.load import Completion, prepare_workflow
from .models import ServedModel

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class ModelSource(Protocol):
    """What is served, before it is loaded. It can be pickled."""

    @property
    def what(self) -> str:
        """What is loaded, for the user."""

    def opened(self, folder: Path) -> AbstractContextManager[ServedModel]:
        """The model, loaded for the context.

        Args:
            folder: for temporary files.

        Raises:
            UserError, ConfigError: there is no such model, or a setting does not suit it.
        """


@dataclass(frozen=True)
class PipelineSource:
    """A `ModelSource` of a pipeline.

    Args:
        model: a folder, a repository in the local cache, or `demo`.
        name: by which requests call it.
        cache: settings of the cache; None for no cache.
        steps: of a request that names none.
        precision, placement: as in `hosts.diffusers.loading`.
        online: allow downloads.
        verbose: show the libraries' logs.
    """

    model: str
    name: str
    cache: TeaCacheConfig | None
    steps: int
    precision: str = "auto"
    placement: str = "auto"
    online: bool = False
    verbose: bool = False

    @property
    def what(self) -> str:
        return self.model

    @contextmanager
    def opened(self, folder: Path) -> Iterator[ServedModel]:
        from ..hosts.diffusers import worker
        from .pipelines import PipelineModel

        source = worker.PipelineSource(
            self.model,
            precision=self.precision,
            placement=self.placement,
            online=self.online,
            verbose=self.verbose,
        )
        with source.placed() as (pipe, _):
            yield PipelineModel(pipe, self.name, self.cache, self.steps)


@dataclass(frozen=True)
class WorkflowSource:
    """A `ModelSource` of a workflow.

    Args:
        data: what the workflow's file holds.
        file: its name, for messages.
        name: by which requests call it.
        cache: settings of a cache to put in; None for the graph as it is.
        comfyui: the folder of the ComfyUI to run in.
        told: `--map`.
        picture: `--picture`.
        custom_nodes: load the other packs of that ComfyUI as well.
        verbose: show ComfyUI's log.
    """

    data: dict[str, Any]
    file: str
    name: str
    cache: TeaCacheConfig | None
    comfyui: Path
    told: tuple[str, ...] = ()
    picture: str | None = None
    custom_nodes: bool = False
    verbose: bool = False

    @classmethod
    def read(cls, file: Path, name: str | None, **settings: Any) -> WorkflowSource:
        """The source of a file, which is checked as far as that needs no ComfyUI.

        Args:
            name: None for that of the file.
            settings: the further fields.

        Raises:
            UserError: it is no workflow, or `told` does not suit it.
        """
        source = cls(read_workflow(file), file.name, name or file.stem, **settings)
        source._completion()
        return source

    @property
    def what(self) -> str:
        return self.file

    @contextmanager
    def opened(self, folder: Path) -> Iterator[ServedModel]:
        from ..hosts.comfyui.headless.session import Session
        from ..workflows.selection import find_picture
        from .workflows import WorkflowModel, put_server_cache, sampling_nodes

        complete = self._completion()
        session = Session(
            self.comfyui, folder, verbose=self.verbose, custom_nodes=self.custom_nodes
        )
        graph, told = complete(session.catalog)
        done = [] if self.cache is None else put_server_cache(graph, self.cache, session, self.file)
        nodes = sampling_nodes(graph, session.kind)
        picture = find_picture(graph, nodes, session.kind, self.picture)
        yield WorkflowModel(session, graph, self.name, picture, told, done)

    def _completion(self) -> Completion[tuple[Graph, dict[str, tuple[Input, ...]]]]:
        def prepare(graph: Graph, source: str) -> tuple[Graph, dict[str, tuple[Input, ...]]]:
            return graph, parse_map(graph, self.told)

        return prepare_workflow(self.data, self.file, prepare)
