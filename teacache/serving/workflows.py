"""A ComfyUI workflow as a model of the server."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..comparison import Point
from ..config import TeaCacheConfig
from ..errors import UserError
from ..hosts.comfyui.headless.backend import load_pictures
from ..plots.pixels import to_pil
from ..workflows.definitions import NodeKind
from ..workflows.edits import only_picture, uncached, with_settings
from ..workflows.fields import Input, graph_fields, unaffected
from ..workflows.graph import Graph, Link
from ..workflows.insertion import insert_cache
from ..workflows.model_lines import line_type, samples
from ..workflows.selection import caches_in
from .errors import ApiError
from .models import Cancelled, IsCancelled, OnProgress, Pictures, SamplingProgress, seed_of
from .requests import ImageRequest

if TYPE_CHECKING:
    from ..hosts.comfyui.headless.session import Progress, Session

GIVEN = {
    "negative_prompt": "negative_prompt",
    "width": "size",
    "height": "size",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "seed": "seed",
    "n": "n",
    "strength": "strength",
}
"""{attribute of `ImageRequest`: the field of the request}."""
INPUTS = {"steps": "num_inference_steps", "guidance": "guidance_scale"}
"""{attribute: its name in `workflows.fields.FIELDS`, where that is another one}."""

PLACEHOLDER = Image.new("RGB", (64, 64))


@dataclass(frozen=True)
class WorkflowDescription:
    """A `ModelDescription` of a graph.

    Args:
        fields: of `workflows.fields.FIELDS`, those that the graph has an input for.
    """

    name: str
    about: dict[str, Any]
    lines: tuple[str, ...]
    fields: frozenset[str]

    @property
    def takes_images(self) -> bool:
        return "image" in self.fields

    def check(self, request: ImageRequest) -> None:
        for attribute, field in GIVEN.items():
            given = vars(request)[attribute] is not None
            if given and INPUTS.get(attribute, attribute) not in self.fields:
                if (attribute, request.n) == ("n", 1):
                    continue
                raise ApiError.field(
                    field,
                    "the workflow has no input that is recognised for it: leave it out, or serve "
                    f"with --map {INPUTS.get(attribute, attribute)}=NODE.INPUT",
                )
        if len(request.images) > 1:
            raise ApiError.field("image", f"one picture, not {len(request.images)}")
        request.cache_settings(None)


class WorkflowModel:
    """A `ServedModel` of a graph. Models and texts stay loaded between requests.

    Args:
        session: a booted ComfyUI, used from one thread at a time.
        graph: with the cache in it, if there is to be one.
        name: by which requests call it.
        picture: the link to the pictures.
        told: fields by `--map`.
        lines: sentences on what was done to the graph.

    Raises:
        UserError: the prompt is not clear, or the graph cannot run.
    """

    def __init__(
        self,
        session: Session,
        graph: Graph,
        name: str,
        picture: Link,
        told: Mapping[str, tuple[Input, ...]],
        lines: Sequence[str] = (),
    ) -> None:
        self._session = session
        self._fields = graph_fields(graph, picture, told, session.kind)
        self._graph = only_picture(graph, picture)
        self._definitions = session.catalog().classes
        with self._uploaded((PLACEHOLDER,)) as image:  # the file's own picture may be missing here
            graph = copy.deepcopy(self._graph)
            self._fields.put(graph, {"image": image})
            session.validate(graph)
        fields = frozenset(self._fields.inputs)
        about = {"fields": sorted(fields), "cache": bool(caches_in(self._graph))}
        lines = (*lines, *self._fields.describe(graph))
        self.description = WorkflowDescription(name, about, lines, fields)

    def sample(
        self, request: ImageRequest, on_progress: OnProgress, is_cancelled: IsCancelled
    ) -> Pictures:
        if is_cancelled():
            raise Cancelled
        seed = seed_of(request) if "seed" in self._fields else None
        previews = 0

        def listen(progress: Progress) -> None:
            if is_cancelled():
                self._session.interrupt()
            elif progress.total > 1:
                step, steps = int(progress.value), int(progress.total)
                picture = shown(progress.preview) if step in request.preview_steps(steps) else None
                on_progress(SamplingProgress(progress.title, step, steps, picture))

        def shown(preview: Image.Image | None) -> Image.Image | None:
            nonlocal previews
            if preview is None or previews == request.previews:  # a graph may sample twice
                return None
            previews += 1
            return preview.convert("RGB")

        try:
            with self._uploaded(request.images) as image:
                graph = self._graph_of(request, seed, image)
                valid = self._session.validate(graph)
                self._session.keep_only(valid.graph, self._independent(valid.graph))
                result = self._session.execute(valid, listen, previews=request.previews > 0)
        except KeyboardInterrupt:
            if is_cancelled():
                raise Cancelled from None
            raise
        pictures = [to_pil(picture) for picture in load_pictures(result)]
        return Pictures(pictures, result.seconds, seed, result.reports, result.notes)

    @contextmanager
    def _uploaded(self, images: Sequence[Image.Image]) -> Iterator[str | None]:
        """The picture to edit, as *Load Image* names it, while it lies in a folder of this process.

        Its file has a name of its own, and is removed at the end.
        """
        if not images or "image" not in self._fields:
            yield None
            return
        self._session.previews.mkdir(parents=True, exist_ok=True)
        file = self._session.previews / f"{secrets.token_hex(8)}.png"
        images[0].save(file)
        try:
            yield f"{file.name} [temp]"
        finally:
            file.unlink()

    def _graph_of(self, request: ImageRequest, seed: int | None, image: str | None) -> Graph:
        graph = self._cached(request)
        values = {INPUTS.get(attribute, attribute): vars(request)[attribute] for attribute in GIVEN}
        self._fields.put(graph, values | {"prompt": request.prompt, "seed": seed, "image": image})
        return graph

    def _independent(self, graph: Graph) -> list[str]:
        """The nodes whose results stay for the next request: models above all."""
        changed = {*self._fields.nodes(), *caches_in(graph)}
        return unaffected(graph, changed & graph.keys())

    def _cached(self, request: ImageRequest) -> Graph:
        """A copy of the graph with the cache as the request wants it."""
        if request.uncached:
            return uncached(self._graph)
        graph = copy.deepcopy(self._graph)
        if request.cache is None:
            return graph
        nodes = caches_in(graph)
        if nodes:
            point = Point(tuple(request.cache.items()))
            try:
                return with_settings(graph, nodes, point, self._session.kind)
            except UserError as error:
                raise ApiError.field("cache_config", str(error)) from None
        config = request.cache_settings(None)
        if config is not None and not insert_cache(graph, config, self._definitions):
            raise ApiError.field("cache_config", "no node of the workflow samples a model")
        return graph


def sampling_nodes(graph: Graph, kind: Callable[[str], NodeKind]) -> list[str]:
    """The nodes that sample a model; all nodes where none is known to."""
    kinds = {node: kind(graph[node]["class_type"]) for node in graph}
    found = [
        node
        for node, known in kinds.items()
        if any(map(line_type, known.inputs.values()))
        and samples(graph[node]["class_type"], known.inputs, known.outputs)
    ]
    return found or list(graph)


def put_server_cache(
    graph: Graph, cache: TeaCacheConfig, session: Session, source: str
) -> Sequence[str]:
    """Puts the server's own cache into `graph`, and returns what was done, in sentences.

    Raises:
        UserError: no node samples a model, or a setting is none of the node.
    """
    if cache.coefficients is not None:
        raise UserError(
            "--cache-config: coefficients are no setting of the node Apply TeaCache: keep them in "
            "a profile, and name it with profile"
        )
    outcome = insert_cache(graph, cache, session.catalog().classes)
    if not outcome:
        raise UserError(f"{source}: no node of the workflow samples a model: no cache can be on")
    return outcome.lines()
