"""A workflow sampled again and again with other settings, by ComfyUI's own executor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ....comparison import Point, Sample
from ....errors import UserError
from ....workflows.edits import PICTURE, only_picture, shortened, uncached, with_settings
from ....workflows.graph import Graph, Link, describe, downstream

if TYPE_CHECKING:
    from .session import GraphResult, Progress, Session
    from .validation import ValidGraph

TIMED = "the sampler nodes' own time: models loaded, without text encoding and decoding"


class WorkflowHost:
    """Samples what `link` of a graph needs, the Apply TeaCache nodes `nodes` set to each point.

    Between runs nothing is kept but what does not depend on these nodes: models and texts.
    """

    def __init__(self, session: Session, graph: Graph, nodes: Sequence[str], link: Link) -> None:
        self._session = session
        self._graph = only_picture(graph, link)
        self._nodes = [node for node in nodes if node in self._graph]
        after = downstream(self._graph, self._nodes)
        self._kept = [node for node in self._graph if node not in after]
        self._samplers: set[str] = set()
        self._valid: dict[Point | None, ValidGraph] = {}

    def check(self, point: Point) -> None:
        self._valid_graph(point)

    def sample(
        self, point: Point | None, tell: Callable[[float], None], short: bool = False
    ) -> Sample:
        valid = self._valid_graph(point)
        if short:
            result = self._session.run(shortened(valid.graph), self._listener(tell))
        else:
            kept = [node for node in self._kept if node in valid.graph]
            self._session.keep_only(valid.graph, kept)
            result = self._session.execute(valid, self._listener(tell))
        if short and point is not None:
            self._learn_samplers(result)
        return Sample(
            load_pictures(result),
            sum(result.node_seconds[node] for node in self._samplers if not short),
            result.reports,
        )

    def _valid_graph(self, point: Point | None) -> ValidGraph:
        """The validated graph of a point, or of the reference without the cache."""
        if point not in self._valid:
            if point is None:
                graph = uncached(self._graph)
            else:
                graph = with_settings(self._graph, self._nodes, point, self._session.kind)
            self._valid[point] = self._session.validate(graph)
        return self._valid[point]

    def _learn_samplers(self, result: GraphResult) -> None:
        """Which nodes sample with the cache: their time is what is compared."""
        self._samplers = {report["sampled_by"] for report in result.reports}
        if not self._samplers:
            nodes = ", ".join(describe(self._graph, node) for node in self._nodes)
            reason = " ".join(result.notes) or "no sampler uses its output."
            raise UserError(f"nothing is cached by {nodes}: {reason}")

    def _listener(self, tell: Callable[[float], None]) -> Callable[[Progress], None]:
        seen: dict[str, float] = {}

        def listen(progress: Progress) -> None:
            if progress.node in self._samplers or not self._samplers:
                seen[progress.node] = progress.value / progress.total
                tell(sum(seen.values()) / max(1, len(self._samplers)))

        return listen


def load_pictures(result: GraphResult) -> Any:
    """[B, H, W, 3] in 0 to 1; the files are removed."""
    import torch
    from PIL import Image

    from ....plots.pixels import to_tensor_image

    found = []
    for path in result.files[PICTURE]:
        with Image.open(path) as picture:
            found.append(to_tensor_image(picture))
        path.unlink()
    return torch.stack(found)
