"""Events of runs: sent to the prompt's own client, and kept for pages that did not hear them.

A page hears nothing while it loads, and nothing of the prompts of other tabs. It asks for the runs
of the graph that it shows (`ROUTE`) and replays their events.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from aiohttp import web
from server import PromptServer

from ..teacache.engine.run import RunListener

ROUTE = "/teacache/runs/{graph}"
KEPT_RUNS = 32
"""Nodes whose last run is kept, of all graphs together."""
STORE = "teacache_runs"
"""The attribute of the server that holds its `RunStore`."""

Event = tuple[str, dict[str, Any]]


class RunStore:
    """The events of the last run of each node, by graph and node.

    One belongs to each server and is kept on the server object, as ComfyUI's own queue and history
    are: it ends with the server. Of a run that has ended, only the events `ready` and `end` are
    kept, since `end` brings the whole report.
    """

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], list[Event]] = {}
        self._lock = threading.Lock()
        """Runs are made in the thread of the prompts and read in the server's own."""

    def add(self, graph: str, node: str, event: str, data: dict[str, Any]) -> None:
        """Keep an event; of the oldest runs only `KEPT_RUNS` remain."""
        with self._lock:
            before = self._runs.pop((graph, node), [])
            kept = [known for known in before if known[0] == "ready" and event != "ready"]
            if event == "step":
                kept = before
            kept.append((event, data))
            self._runs[graph, node] = kept
            while len(self._runs) > KEPT_RUNS:
                del self._runs[next(iter(self._runs))]

    def runs_of(self, graph: str) -> dict[str, list[Event]]:
        """The events of the last run of each node of a graph, by the node's id."""
        with self._lock:
            return {node: list(run) for (known, node), run in self._runs.items() if known == graph}


class NodeEvents:
    """The events of the node `node_id`.

    With each go the graph that the prompt was made from, the prompt, and when the run began, in
    milliseconds since the epoch: they tell runs apart.
    """

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._origin: dict[str, Any] = {"graph": None, "prompt": None, "began": None}

    def send(self, event: str, data: dict[str, Any]) -> None:
        """Send `teacache.EVENT` to the client of the running prompt, and keep it."""
        server = PromptServer.instance
        if event != "step":
            graph, prompt = _running_prompt(server)
            began = self._origin["began"] if event == "end" else time.time_ns() // 1_000_000
            self._origin = {"graph": graph, "prompt": prompt, "began": began}
        data = {"node": self._node_id, **self._origin, **data}
        if self._origin["graph"] is not None:
            store_of(server).add(self._origin["graph"], self._node_id, event, data)
        if server.client_id is not None:  # None would send it to every client
            server.send_sync(f"teacache.{event}", data, server.client_id)

    def ready(self, line: str, notes: list[str]) -> None:
        """Show on the node's strip what the cache will do.

        Args:
            line: The recognised family and the settings, empty if the model is left as it is.
            notes: Sentences that the user should know.
        """
        self.send("ready", {"cached": bool(line), "line": line, "notes": notes})


def event_listener(node_id: str) -> RunListener:
    """A listener that sends a run's events, with the node's id, as `teacache.*`."""
    return NodeEvents(node_id).send


def store_of(server: Any) -> RunStore:
    """The server's own store."""
    store: RunStore = vars(server).setdefault(STORE, RunStore())
    return store


def add_route(server: Any) -> None:
    """Add the route that answers with the runs of a graph, and with the prompt that is running.

    What stands in for the server in scripts may have no routes.
    """
    routes = vars(server).get("routes")
    if routes is None:
        return

    async def runs(request: web.Request) -> web.Response:
        _, running = _running_prompt(server)
        kept = store_of(server).runs_of(request.match_info["graph"])
        return web.json_response({"running": running, "runs": kept})

    routes.get(ROUTE)(runs)


def _running_prompt(server: Any) -> tuple[str | None, str | None]:
    """The ids of the graph that the running prompt was made from, and of the prompt.

    None where nothing runs, and for the graph of a prompt that did not come from an editor.
    """
    queue = vars(server).get("prompt_queue")
    if queue is None:
        return None, None
    running, _ = queue.get_current_queue_volatile()
    if not running:
        return None, None
    _, prompt_id, _, extra_data, *_ = running[0]
    workflow: Any = extra_data
    for key in ("extra_pnginfo", "workflow", "id"):
        workflow = workflow.get(key) if isinstance(workflow, dict) else None
    return workflow if isinstance(workflow, str) else None, prompt_id
