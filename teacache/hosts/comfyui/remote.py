"""ComfyUI servers as hosts: graphs are sent by HTTP, progress is received by websocket."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import aiohttp

from ...errors import ExecutionError, UserError
from ...files import save_beside
from ...workflows.definitions import Catalog, Definitions
from ...workflows.graph import Graph, describe, title
from .headless.session import GraphResult, Progress

HISTORY_TRIES = 50
UNSAFE = re.compile(r"[:\x00-\x1f]")
FINISHED = ("execution_success", "execution_error", "execution_interrupted")


class ServerLost(Exception):
    """A server stopped answering; another server can run its graph."""


@dataclass
class RemoteHost:
    """A server, used as an async context manager.

    Attributes:
        url: of the server.
        client: the id of this client.
        running: the id of the prompt that is queued or running, if any.
    """

    url: str
    client: str = field(default_factory=lambda: str(uuid.uuid4()))
    running: str | None = None

    async def __aenter__(self) -> RemoteHost:
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"--server {self.url}: must start with http:// or https://")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        self.session = aiohttp.ClientSession(self.url.rstrip("/") + "/", timeout=timeout)
        try:
            await self._json("GET", "system_stats")
        except (aiohttp.ClientError, ValueError, ServerLost) as error:
            await self.session.close()
            raise UserError(f"--server {self.url}: no ComfyUI answers there: {error}") from None
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await self.session.close()

    async def definitions(self) -> Definitions:
        """The inputs of every node class of the server."""
        definitions: Definitions = await self._json("GET", "object_info")
        return definitions

    async def catalog(self) -> Catalog:
        """Every node class of the server, and what stands in for missing ones."""
        async with self.session.get("node_replacements") as answer:
            replacements = await answer.json() if answer.status == 200 else {}  # since 0.13
        return Catalog(await self.definitions(), replacements)

    async def upload(self, name: str, content: bytes) -> str:
        """Uploads a picture to the server's input folder; returns its name there."""
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("image", content, filename=name)
        form.add_field("overwrite", "true")
        answer = await self._json("POST", "upload/image", data=form)
        return str(answer["name"])

    async def run(
        self, graph: Graph, out: Path, on_progress: Callable[[Progress], None] | None = None
    ) -> GraphResult:
        """Executes `graph` on the server and downloads its files to `out`.

        Raises:
            UserError: the server refuses the graph.
            ExecutionError: a node fails.
            ServerLost: the connection breaks.
        """
        result, started = GraphResult(), time.perf_counter()
        try:
            async with self.session.ws_connect(
                f"ws?clientId={self.client}", max_msg_size=0, heartbeat=30
            ) as socket:
                self.running = await self._queue(graph)
                await self._follow(socket, graph, result, on_progress)
            entry = await self._history(self.running)
            result.seconds = time.perf_counter() - started
            result.files = await self._fetch(entry, out)
        except (aiohttp.ClientError, ConnectionError) as error:
            self.running = None
            raise ServerLost(f"{self.url}: {error or type(error).__name__}") from None
        self.running = None
        return result

    async def stop(self) -> None:
        """Cancels what is queued or running for this client."""
        if self.running is not None:
            await self._json("POST", "queue", json={"delete": [self.running]})
            await self._json("POST", "interrupt", json={"prompt_id": self.running})
            self.running = None

    async def _json(self, method: str, path: str, **named: Any) -> Any:
        async with self.session.request(method, path, **named) as answer:
            if answer.status != 200:
                raise ServerLost(f"{self.url}: {path} answered {answer.status}")
            text = await answer.text()
            return json.loads(text) if text else None

    async def _queue(self, graph: Graph) -> str:
        body = {"prompt": graph, "client_id": self.client}
        async with self.session.post("prompt", json=body) as answer:
            text = await answer.text()
            if answer.status == 200:
                return str(json.loads(text)["prompt_id"])
            raise UserError(f"{self.url}: {refusal(graph, text)}")

    async def _follow(
        self,
        socket: aiohttp.ClientWebSocketResponse[Any],
        graph: Graph,
        result: GraphResult,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        """Receives events until the prompt has ended."""
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            kind, data = event["type"], event["data"]
            if data.get("prompt_id", self.running) != self.running:
                continue
            if kind == "progress" and on_progress is not None and data["node"] in graph:
                node = data["node"]
                on_progress(Progress(node, title(graph, node), data["value"], data["max"]))
            elif kind == "teacache.end":
                result.reports.append({"node": data["node"], **data["report"]})
            elif kind in FINISHED:
                check_outcome(kind, data, graph)
                return
        raise ServerLost(f"{self.url}: the connection was closed")

    async def _history(self, prompt_id: str) -> dict[str, Any]:
        """The prompt's entry, which the server writes shortly after the last event."""
        for _ in range(HISTORY_TRIES):
            entries = await self._json("GET", f"history/{prompt_id}")
            if prompt_id in entries:
                entry: dict[str, Any] = entries[prompt_id]
                return entry
            await asyncio.sleep(0.1)
        raise ServerLost(f"{self.url}: kept no history of the prompt")

    async def _fetch(self, entry: dict[str, Any], out: Path) -> dict[str, list[Path]]:
        """Downloads the files of every node: results to `out`, previews to `out`/preview.

        A file that exists there is kept, and the new one gets another name.
        """
        files: dict[str, list[Path]] = {}
        for node, output in entry["outputs"].items():
            for item in (item for value in output.values() for item in value):
                if not isinstance(item, dict) or item.get("type") not in ("output", "temp"):
                    continue
                query = {key: item[key] for key in ("filename", "subfolder", "type")}
                async with self.session.get("view", params=query) as answer:
                    answer.raise_for_status()
                    content = await answer.read()
                folder = out if item["type"] == "output" else out / "preview"
                path = folder / safe_path(item["subfolder"], item["filename"])
                files.setdefault(node, []).append(save_beside(path, content))
        return files


def safe_path(subfolder: str, filename: str) -> PurePosixPath:
    """A path below the results' folder for a server's file, on every operating system.

    Only the last component of `filename` is taken. In it colons, which name drives and streams on
    Windows, and control characters become underscores; an empty name, "." and ".." become
    "unnamed". Such components of `subfolder` are left out. Dots and spaces at the end of a
    component, which Windows drops, are removed.
    """
    parts = [part.rstrip(" .") for part in subfolder.replace("\\", "/").split("/")]
    inside = [part for part in parts if part and not UNSAFE.search(part)]
    name = UNSAFE.sub("_", filename.replace("\\", "/").rpartition("/")[2]).rstrip(" .")
    return PurePosixPath(*inside, name or "unnamed")


def check_outcome(kind: str, data: dict[str, Any], graph: Graph) -> None:
    """`ExecutionError` unless the last event is that of a success."""
    if kind == "execution_interrupted":
        raise ExecutionError("interrupted on the server")
    if kind == "execution_error":
        node = str(data["node_id"])
        name = describe(graph, node) if node in graph else node
        error = data["exception_type"].rpartition(".")[2]
        message = " ".join(data["exception_message"].split())
        raise ExecutionError(f"node {name} failed: {error}: {message}", "".join(data["traceback"]))


def refusal(graph: Graph, text: str) -> str:
    """The first error in the server's answer to a graph that it refuses."""
    try:
        answer = json.loads(text)
        for node, entry in answer.get("node_errors", {}).items():
            first = entry["errors"][0]
            name = describe(graph, node) if node in graph else node
            return f"node {name}: {first['message']}: {first['details']}"
        error = answer["error"]
        message = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, IndexError, TypeError):
        message = text.strip()[:200] or "no reason given"
    return f"the graph was refused: {message}"
