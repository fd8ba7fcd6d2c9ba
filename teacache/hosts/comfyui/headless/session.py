"""Graphs validated and executed by ComfyUI's own executor, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from PIL import Image

from ....errors import ConfigError, ExecutionError, UserError
from ....workflows.definitions import Catalog, Definitions, NodeKind, input_types
from ....workflows.graph import Graph, describe, title
from .boot import Comfy, boot
from .validation import REQUEST_DATA, ValidGraph, validated


@dataclass(frozen=True)
class Progress:
    """A node's progress: `value` of `total`, such as sampling steps.

    Attributes:
        preview: the picture so far, still noisy, where previews are on and the model has them.
    """

    node: str
    title: str
    value: float
    total: float
    preview: Image.Image | None = None


@dataclass
class GraphResult:
    """What came of one execution.

    Attributes:
        seconds: wall time of the whole graph.
        node_seconds: time in each node that ran; a node whose result was cached did not.
        files: saved pictures and other files by node.
        reports: one RunReport as JSON for each sampling run with a cache, with the ids of the node
            that applied the cache and of the one that sampled.
        notes: messages of the Apply TeaCache nodes.
    """

    seconds: float = 0.0
    node_seconds: dict[str, float] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)
    reports: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class NodeClock:
    """Measures the time between one node's start and the next one's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.current: str | None = None
        self.since = 0.0

    def switch(self, node: str | None) -> None:
        now = time.perf_counter()
        if self.current is not None:
            spent = self.seconds.get(self.current, 0.0)
            self.seconds[self.current] = spent + now - self.since
        self.current, self.since = node, now


class Session:
    """A booted ComfyUI that runs graph after graph; loaded models stay between graphs.

    One per process, since ComfyUI's state is global. Only one thread may run graphs.

    Args:
        comfyui: the folder of ComfyUI.
        output: the folder for saved pictures; previews are saved in its `preview`.
        verbose: show ComfyUI's log.
        custom_nodes: load the other packs of that ComfyUI as well.
    """

    def __init__(
        self, comfyui: Path, output: Path, *, verbose: bool = False, custom_nodes: bool = False
    ) -> None:
        self.output = output.resolve()
        self.comfy: Comfy = boot(comfyui, self.output, verbose=verbose, custom_nodes=custom_nodes)
        execution = self.comfy.execution
        self.executor = execution.PromptExecutor(
            self.comfy.server,
            cache_type=execution.CacheType.CLASSIC,
            cache_args={"lru": 0, "ram": 0, "ram_inactive": 0},
        )

    def input_types(self, class_type: str) -> dict[str, str] | None:
        """Every input of a node class and its type; None for an unknown class."""
        classes = self.comfy.nodes.NODE_CLASS_MAPPINGS
        return input_types(classes[class_type].INPUT_TYPES()) if class_type in classes else None

    def kind(self, class_type: str) -> NodeKind:
        """The inputs and outputs of a node class; empty for an unknown class."""
        inputs = self.input_types(class_type)
        if inputs is None:
            return NodeKind({}, ())
        node_class = self.comfy.nodes.NODE_CLASS_MAPPINGS[class_type]
        outputs = tuple(map(str, node_class.RETURN_TYPES))
        shows = hasattr(node_class, "OUTPUT_NODE") and bool(node_class.OUTPUT_NODE)
        return NodeKind(inputs, outputs, shows)

    def definitions(self) -> Definitions:
        """What the editor knows of every node class, but one that fails to tell its inputs."""
        titles = self.comfy.nodes.NODE_DISPLAY_NAME_MAPPINGS
        known: Definitions = {}
        for name, node_class in self.comfy.nodes.NODE_CLASS_MAPPINGS.items():
            with contextlib.suppress(Exception):  # as the server does for the editor
                inputs = node_class.INPUT_TYPES()
                known[name] = {
                    "input": inputs,
                    "input_order": {group: list(names) for group, names in inputs.items()},
                    "output": list(node_class.RETURN_TYPES),
                    "display_name": titles.get(name) or name,
                    "python_module": node_class.RELATIVE_PYTHON_MODULE
                    if hasattr(node_class, "RELATIVE_PYTHON_MODULE")
                    else "nodes",
                }
        return known

    def catalog(self) -> Catalog:
        """Every node class, and what stands in for missing ones."""
        server = self.comfy.server
        manager = server.node_replace_manager if hasattr(server, "node_replace_manager") else None
        return Catalog(self.definitions(), manager.as_dict() if manager is not None else {})

    def validate(self, graph: Graph) -> ValidGraph:
        """A copy of `graph` that can be executed.

        Raises:
            UserError: something is wrong with it; the message names node and input.
        """
        return validated(self.comfy, graph)

    def run(
        self, graph: Graph, on_progress: Callable[[Progress], None] | None = None
    ) -> GraphResult:
        """Validates and executes `graph`; raises as `validate` and `execute` do."""
        return self.execute(self.validate(graph), on_progress)

    def execute(
        self,
        valid: ValidGraph,
        on_progress: Callable[[Progress], None] | None = None,
        *,
        previews: bool = False,
    ) -> GraphResult:
        """Executes a validated graph; the session can be used again after each error.

        Args:
            previews: whether samplers show what they have so far, for `on_progress`.

        Raises:
            UserError: a node refuses its settings.
            ExecutionError: a node fails.
            KeyboardInterrupt: the run was interrupted.
        """
        graph = copy.deepcopy(valid.graph)  # the executor writes into it
        clock, result = NodeClock(), GraphResult()

        def listen(event: str, data: Any) -> None:
            if not isinstance(data, dict) or "node" not in data:
                return  # another pack's
            if event == "executing":
                clock.switch(data["node"])
            elif event == "progress" and on_progress is not None and data["node"] in graph:
                node = data["node"]
                done, preview = (data["value"], data["max"]), shown(data.get("preview"))
                on_progress(Progress(node, title(graph, node), *done, preview))
            elif event == "teacache.end":
                report = {"node": data["node"], "sampled_by": clock.current, **data["report"]}
                result.reports.append(report)
            elif event == "teacache.ready":
                result.notes += data["notes"]

        started = time.perf_counter()
        with previewing(self.comfy, previews) as asked:
            self._execute(graph, valid.outputs, {**valid.extra_data, **asked}, listen)
        clock.switch(None)
        result.seconds = time.perf_counter() - started
        result.node_seconds = clock.seconds
        self._raise_failure(graph)
        result.files = self._files()
        return result

    def write_to(self, output: Path) -> None:
        """From now on files are saved in the folder `output`, and previews in its `preview`."""
        self.output = output.resolve()
        self.comfy.folder_paths.set_output_directory(str(self.output))
        self.comfy.folder_paths.set_temp_directory(str(self.output / "preview"))

    @property
    def previews(self) -> Path:
        """The folder for files that are not kept; nodes find them as `NAME [temp]`."""
        return Path(self.comfy.folder_paths.get_temp_directory())

    def interrupt(self) -> None:
        """Makes the running graph end at its next step; `execute` raises KeyboardInterrupt then."""
        self.comfy.nodes.interrupt_processing()

    def keep_only(self, graph: Graph, node_ids: list[str]) -> None:
        """Drops all cached results but those of `node_ids`, which must depend on no other nodes."""
        kept = {node: copy.deepcopy(graph[node]) for node in node_ids}
        self._execute(kept, node_ids, REQUEST_DATA, None)
        self._raise_failure(kept)

    def _execute(
        self,
        graph: Graph,
        outputs: list[str],
        extra_data: dict[str, Any],
        listen: Callable[[str, Any], None] | None,
    ) -> None:
        self.comfy.server.listener = listen
        prompt_id = str(uuid.uuid4())
        self.comfy.server.last_prompt_id = prompt_id
        try:
            with interruptible(self.comfy):
                asyncio.run(
                    self.executor.execute_async(
                        graph, prompt_id, copy.deepcopy(extra_data), outputs
                    )
                )
        finally:
            self.comfy.server.listener = None

    def _raise_failure(self, graph: Graph) -> None:
        event, data = self.executor.status_messages[-1]
        if event == "execution_success":
            return
        if event == "execution_interrupted":
            raise KeyboardInterrupt
        node = data["node_id"]
        kind = data["exception_type"].rpartition(".")[2]
        message = " ".join(data["exception_message"].split())
        if kind in (ConfigError.__name__, UserError.__name__):
            raise UserError(f"node {describe(graph, node)}: {message}")
        raise ExecutionError(
            f"node {describe(graph, node)} failed: {kind}: {message}", "".join(data["traceback"])
        )

    def _files(self) -> dict[str, list[Path]]:
        folders = {
            "output": Path(self.comfy.folder_paths.get_output_directory()),
            "temp": Path(self.comfy.folder_paths.get_temp_directory()),
        }
        files: dict[str, list[Path]] = {}
        for node, output in self.executor.history_result["outputs"].items():
            entries = [item for value in output.values() for item in value]
            for item in entries:
                if isinstance(item, dict) and "filename" in item and item["type"] in folders:
                    path = folders[item["type"]] / item["subfolder"] / item["filename"]
                    files.setdefault(node, []).append(path)
        return files


def shown(preview: Any) -> Image.Image | None:
    """The picture of a preview as ComfyUI's samplers send it; packs may send anything."""
    if isinstance(preview, tuple) and len(preview) > 1 and isinstance(preview[1], Image.Image):
        return preview[1]
    return None


@contextlib.contextmanager
def previewing(comfy: Comfy, wanted: bool) -> Iterator[dict[str, str]]:
    """Turns ComfyUI's previews on for the context, if they are wanted.

    Returns:
        What newer versions, which ask each request for it, are to be told beside the graph.
    """
    if not wanted:
        yield {}
        return
    before = comfy.arguments.preview_method
    comfy.arguments.preview_method = type(before).Auto
    try:
        yield {"preview_method": type(before).Auto.value}
    finally:
        comfy.arguments.preview_method = before


@contextlib.contextmanager
def interruptible(comfy: Comfy) -> Iterator[None]:
    """Makes Ctrl-C stop the graph at its next step, and a second Ctrl-C stop it at once.

    Raises:
        KeyboardInterrupt: at the end, also if Ctrl-C was pressed after the last step.
    """
    asked = False
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        comfy.nodes.interrupt_processing()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        comfy.nodes.interrupt_processing(False)
    if asked:
        raise KeyboardInterrupt
