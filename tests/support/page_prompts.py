"""The prompts that the real editor would queue for workflow files."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_server import Server
from editing import open_editor

if TYPE_CHECKING:
    from editing import Editor
    from playwright.sync_api import Browser

NOW = "2026-01-02T03:04:05"
"""The page's clock, so that `%date:...%` in file names has one value."""
FILES_PER_PAGE = 60
"""Every file opens a tab in the editor; a page with hundreds becomes slow."""
SMALL = {"width": 300, "height": 200}
"""Of the page, which draws the canvas without a graphics card."""
PROMPT = """async ([graph, wait]) => {
    const random = Math.random;
    try {
        await app.loadGraphData(graph);
        await new Promise(resolve => setTimeout(resolve, wait));
        Math.random = () => 0;
        return { prompt: (await app.graphToPrompt()).output };
    } catch (error) {
        return { error: String(error) };
    } finally {
        Math.random = random;
    }
}"""
"""Loads a workflow and takes its prompt; a random choice in it takes the first alternative."""
REGISTERED = "names => names.every(name => name in LiteGraph.registered_node_types)"
SETTINGS = {
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.Workflow.ShowMissingNodesWarning": False,
    "Comfy.Workflow.Persist": False,
}


@dataclass(frozen=True)
class PagePrompt:
    """What the page makes of one workflow file.

    Attributes:
        path: The file.
        graph: Its JSON.
        prompt: In the API format; None if the page failed.
        error: Of the page, if it failed.
    """

    path: Path
    graph: dict[str, Any]
    prompt: dict[str, Any] | None = None
    error: str = ""


def package_workflows(package: str) -> list[Path]:
    """The workflow files of an installed package; none if it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return []
    return workflow_files(Path(spec.origin).parent)


def workflow_files(folder: Path) -> list[Path]:
    """The JSON files in the editor's format in a folder and those below it."""
    return [path for path in sorted(folder.rglob("*.json")) if is_workflow(path)]


def is_workflow(path: Path) -> bool:
    data = json.loads(path.read_text(encoding="utf-8"))
    return isinstance(data, dict) and isinstance(data.get("nodes"), list)


@contextmanager
def complete_editor(browser: Browser, server: Server, classes: Collection[str]) -> Iterator[Editor]:
    """An editor that knows the node classes of the server: it registers them while it opens."""
    with open_editor(browser, server, "classic", **SETTINGS) as editor:
        editor.page.wait_for_function(REGISTERED, arg=list(classes), timeout=120_000)
        yield editor


def page_prompts(
    browser: Browser,
    server: Server,
    classes: Collection[str],
    files: Iterable[Path],
    wait_ms: int = 50,
) -> Iterator[PagePrompt]:
    """Opens each file in the editor and takes the prompt that its Run button would queue.

    Args:
        classes: The server's node classes.
        wait_ms: Between loading and taking the prompt, for what nodes do after they are loaded.
    """
    files = list(files)
    for start in range(0, len(files), FILES_PER_PAGE):
        with complete_editor(browser, server, classes) as editor:
            editor.page.clock.set_fixed_time(NOW)
            editor.page.set_viewport_size(SMALL)
            for path in files[start : start + FILES_PER_PAGE]:
                graph = json.loads(path.read_text(encoding="utf-8"))
                yield PagePrompt(path, graph, **editor.page.evaluate(PROMPT, [graph, wait_ms]))


def page_classes(browser: Browser, server: Server, classes: Collection[str]) -> set[str]:
    """The node classes that the page knows: those of the server, `classes`, and its own."""
    with complete_editor(browser, server, classes) as editor:
        return set(editor.page.evaluate("() => Object.keys(LiteGraph.registered_node_types)"))


def unknown_classes(path: Path, known: set[str]) -> set[str]:
    """The classes in a workflow, its subgraphs included, that are not among `known` ones."""
    graph = json.loads(path.read_text(encoding="utf-8"))
    subgraphs = (graph.get("definitions") or {}).get("subgraphs") or []
    used = {node["type"] for part in (graph, *subgraphs) for node in part["nodes"]}
    return used - known - {part["id"] for part in subgraphs}
