"""Drives the editor in a browser."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

from comfy_server import ROOT, Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
]  # fmt: skip
ARTIFACTS = ROOT / "tests" / "artifacts"
RUN_BUTTON = '[data-testid="queue-button"] button, button[data-testid="queue-button"]'
"""Within the element of this name, or the element itself, depending on the version."""
SEEDS = itertools.count(1000)
STEPS = 40
FILLED = '.teacache-cells rect:not([data-kind="open"])'
"""The cells of evaluations that have been made."""


@dataclass
class Editor:
    """A page with the editor open in it.

    Attributes:
        mode: How nodes are drawn: `classic` on a canvas, or `nodes2` as DOM elements.
        url: Of the server.
        page: The browser's page.
        errors: Console errors and warnings of the pack so far.
    """

    mode: str
    url: str
    page: Page
    errors: list[str] = field(default_factory=list)

    def open(self) -> None:
        """Opens the editor and waits until it is ready."""
        self.page.goto(self.url)
        self.page.wait_for_function("() => window.app?.graph && window.app.extensionManager")
        self.page.wait_for_selector('[data-testid="queue-button"]')

    def load(self, graph: dict[str, Any]) -> None:
        """Loads a workflow in the editor's format."""
        self.page.evaluate("graph => app.loadGraphData(graph)", graph)
        self.page.wait_for_function(
            "count => app.graph.nodes.length === count", arg=len(graph["nodes"])
        )

    def load_api(self, prompt: dict[str, Any]) -> None:
        """Loads a workflow in the API format."""
        self.page.evaluate("prompt => app.loadApiJson(prompt, 'test')", prompt)
        self.page.wait_for_function("count => app.graph.nodes.length === count", arg=len(prompt))

    def run(self) -> None:
        """Presses the Run button."""
        self.page.evaluate(
            """() => {
                window.seen = [];
                window.reports = {};
                window.finished = false;
                app.api.addEventListener("teacache.end", ({ detail }) => {
                    window.reports[detail.node] = detail.report;
                });
                app.api.addEventListener("execution_success", () => (window.finished = true));
            }"""
        )
        self.page.locator(RUN_BUTTON).first.click()

    def finish(self) -> dict[str, dict[str, Any]]:
        """Waits for the end of the run and returns the reports by node id."""
        self.page.wait_for_function("() => window.finished", timeout=60_000)
        self.page.wait_for_function("() => Object.keys(window.reports).length > 0")
        return self.page.evaluate("() => window.reports")

    def lines(self) -> list[str]:
        """The summaries on all strips."""
        return self.page.locator(".teacache-line").all_inner_texts()

    def fit(self) -> None:
        """Fits the graph into the view."""
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.page.wait_for_timeout(700)

    def show(self, scale: float, offset: tuple[float, float]) -> None:
        """Sets the zoom and the position of the canvas."""
        self.page.evaluate(
            """([scale, offset]) => {
                app.canvas.ds.scale = scale;
                app.canvas.ds.offset = offset;
                app.canvas.setDirty(true, true);
            }""",
            [scale, offset],
        )
        self.page.wait_for_timeout(500)

    def screenshot(self, name: str) -> None:
        """Saves a screenshot to tests/artifacts."""
        ARTIFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=str(ARTIFACTS / f"{name}_{self.mode}.png"))


@contextmanager
def open_editor(browser: Browser, server: Server, mode: str, **settings: Any) -> Iterator[Editor]:
    """An editor in a new page, with these settings of ComfyUI's."""
    wanted = {
        "Comfy.TutorialCompleted": True,
        "Comfy.VueNodes.Enabled": mode == "nodes2",
        "Comfy.Minimap.Visible": False,
        **settings,
    }
    body = json.dumps(wanted).encode()
    urlopen(Request(f"{server.url}/api/settings", body, method="POST")).close()
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    context.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
    editor = Editor(mode, server.url, context.new_page())
    editor.page.on("console", lambda message: editor.errors.extend(_ours(message)))
    editor.page.on("pageerror", lambda error: editor.errors.append(str(error.stack)))
    editor.open()
    yield editor
    context.close()


def _ours(message: Any) -> list[str]:
    """The text of a console error or warning that concerns the pack, in a list of one or none."""
    text = f"{message.type}: {message.text} ({message.location.get('url')})"
    asks_registry = "api.comfy.org" in message.text  # the editor, about every custom node
    counts = message.type in ("error", "warning") and not asks_registry
    return [text] if counts and "teacache" in text.lower() else []


def quickstart_graph(steps: int = STEPS) -> dict[str, Any]:
    """The template with a new seed, so that the server does not reuse earlier outputs, and with an
    id of its own, as a workflow has that was saved under another name."""
    graph = json.loads((ROOT / "workflows" / "quickstart.json").read_text())
    graph["id"] = str(uuid.uuid4())
    sampler = next(node for node in graph["nodes"] if node["type"] == "KSampler")
    sampler["widgets_values"][0] = next(SEEDS)
    sampler["widgets_values"][2] = steps
    return graph


def expected_summary(report: dict[str, Any]) -> str:
    """The summary that the strip must show for a report."""
    saved = report["saved_seconds"]
    time = f"{saved * 1e3:.0f} ms" if saved < 0.9995 else f"{saved:.1f} s"
    gain = f" · {report['estimated_speedup']:.2f}x · saved {time}" if report["skipped"] else ""
    held = f"{report['bytes_held'] / 1e3:.0f} kB held"
    change = f" · {report['expected_change']}" if report["expected_change"] else ""
    return f"{report['computed']} of {report['evaluations']} steps computed{gain} · {held}{change}"


def cell_kinds(editor: Editor) -> list[str]:
    """The kinds of all cells of the strips, which decide their colours."""
    cells = editor.page.locator(".teacache-cells rect")
    return cells.evaluate_all("cells => cells.map(cell => cell.dataset.kind)")
