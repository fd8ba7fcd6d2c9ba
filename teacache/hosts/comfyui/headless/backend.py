"""A workflow sampled by ComfyUI's own executor, for comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ....comparison import Point, Sample, StepListener
from ....errors import UserError
from ....workflows.edits import (
    PICTURE,
    only_picture,
    shortened,
    uncached,
    with_settings,
    with_steps,
)
from ....workflows.graph import Graph, Link, describe, downstream

if TYPE_CHECKING:
    from .session import GraphResult, Progress, Session
    from .validation import ValidGraph

TIMED = "the sampler nodes' own time: models loaded, without text encoding and decoding"


class WorkflowSamplingBackend:
    """A `comparison.SamplingBackend`: runs what one picture of a workflow needs.

    Between runs only the results that do not depend on the varied nodes stay: models and texts.

    Args:
        nodes: the Apply TeaCache nodes that each point's settings are written to.
        link: the picture.
    """

    def __init__(self, session: Session, graph: Graph, nodes: Sequence[str], link: Link) -> None:
        self._session = session
        self._graph = only_picture(graph, link)
        self._nodes = [node for node in nodes if node in self._graph]
        after = downstream(self._graph, self._nodes)
        self._independent = [node for node in self._graph if node not in after]
        self._samplers: set[str] = set()
        self._valid_graphs: dict[tuple[Point | None, int | None], ValidGraph] = {}

    def check(self, point: Point) -> None:
        self._valid_graph(point)

    def sample(
        self,
        point: Point | None,
        on_step: StepListener,
        short: bool = False,
        steps: int | None = None,
    ) -> Sample:
        if short:
            result = self._session.run(shortened(self._graph_at(point)), self._listener(on_step))
            if point is not None:
                self._learn_samplers(result)
        else:
            valid = self._valid_graph(point, steps)
            independent = [node for node in self._independent if node in valid.graph]
            self._session.keep_only(valid.graph, independent)
            result = self._session.execute(valid, self._listener(on_step))
        return Sample(
            load_pictures(result),
            sum(result.node_seconds[node] for node in self._samplers if not short),
            result.reports,
        )

    def _valid_graph(self, point: Point | None, steps: int | None = None) -> ValidGraph:
        """The graph of a point, or of the reference, validated once."""
        key = point, steps
        if key not in self._valid_graphs:
            self._valid_graphs[key] = self._session.validate(self._graph_at(point, steps))
        return self._valid_graphs[key]

    def _graph_at(self, point: Point | None, steps: int | None = None) -> Graph:
        if point is None:
            graph = uncached(self._graph)
        else:
            graph = with_settings(self._graph, self._nodes, point, self._session.kind)
        return graph if steps is None else with_steps(graph, steps)

    def _learn_samplers(self, result: GraphResult) -> None:
        """Which nodes sample with the cache: their time is what is compared."""
        self._samplers = {report["sampled_by"] for report in result.reports}
        if not self._samplers:
            nodes = ", ".join(describe(self._graph, node) for node in self._nodes)
            reason = " ".join(result.notes) or "no sampler uses its output."
            raise UserError(f"nothing is cached by {nodes}: {reason}")

    def _listener(self, on_step: StepListener) -> Callable[[Progress], None]:
        """Adds up the steps of the samplers; those to come count as many as those so far."""
        latest: dict[str, Progress] = {}

        def listen(progress: Progress) -> None:
            if progress.node in self._samplers or not self._samplers:
                latest[progress.node] = progress
                samplers = max(len(self._samplers), len(latest))
                steps = sum(each.total for each in latest.values()) * samplers / len(latest)
                on_step(sum(each.value for each in latest.values()), round(steps))

        return listen


def load_pictures(result: GraphResult) -> Any:
    """[B, H, W, 3] in 0 to 1; the files are removed."""
    import torch
    from PIL import Image

    from ....plots.pixels import to_tensor_image

    pictures = []
    for path in result.files[PICTURE]:
        with Image.open(path) as picture:
            pictures.append(to_tensor_image(picture))
        path.unlink()
    return torch.stack(pictures)
