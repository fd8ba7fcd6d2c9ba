"""The widgets of Apply TeaCache: their order, the folded ones, and files of earlier versions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from comfy_server import ROOT
from editing import Editor, quickstart_graph
from playwright.sync_api import Locator, expect

pytestmark = pytest.mark.browser

SAVED = (
    "rel_l1_thresh", "start_percent", "end_percent", "auto_threshold", "max_skip", "cache_device",
    "profile", "mode", "cached", "indicator", "predictor", "preset",
)  # fmt: skip
"""The order of `widgets_values` in files of every version; 0.1 has the first seven."""
OTHER = [0.33, 0.1, 0.9, False, 3, "cpu", "flux1-dev", "faithful", "residual", "rate", "linear"]
SHOWN = ["preset", "rel_l1_thresh", "start_percent", "end_percent"]
OLD = sorted((ROOT / "tests" / "data" / "workflows_old").glob("*/*.json"))
NODE = "app.graph.nodes.find(({ type }) => type === 'ApplyTeaCache')"
TOGGLE = ".teacache-more button"
CHANGED = "more settings · auto_threshold false"


def graph(**fields: Any) -> dict[str, Any]:
    """The quickstart, with other fields of its Apply TeaCache."""
    made = quickstart_graph()
    apply_node(made).update(fields)
    return made


def apply_node(made: dict[str, Any]) -> dict[str, Any]:
    return next(node for node in made["nodes"] if node["type"].startswith("ApplyTeaCache"))


def prompt_inputs(editor: Editor, node_id: int) -> dict[str, Any]:
    """The node's inputs in the prompt that the page would queue."""
    return editor.page.evaluate(
        "async id => (await app.graphToPrompt()).output[id].inputs", str(node_id)
    )


def rows(editor: Editor) -> list[str]:
    """The widgets that have a row on the node, from the top."""
    return editor.page.evaluate(
        f"""() => {{
            const node = {NODE};
            const hasRow = node.isWidgetRowVisible ?? node.isWidgetVisible; // newer, older editors
            return node.widgets
                .filter((widget) => widget.serialize !== false && hasRow.call(node, widget))
                .map(({{ name }}) => name);
        }}"""
    )


def unfold(editor: Editor) -> Locator:
    """Presses the node's own toggle, which newer editors have no need of in Nodes 2.0."""
    if editor.mode == "nodes2" and not editor.page.locator(TOGGLE).count():
        pytest.skip("this editor folds widgets in Nodes 2.0 by itself")
    toggle = editor.page.locator(TOGGLE)
    assert toggle.inner_text() == "▸ more settings"
    toggle.click()
    return toggle


def height(editor: Editor) -> float:
    return editor.page.evaluate(f"() => {NODE}.size[1]")


def test_only_what_people_need_is_shown(editor: Editor) -> None:
    editor.load(quickstart_graph())
    assert rows(editor) == SHOWN
    folded = height(editor)
    toggle = unfold(editor)
    assert rows(editor) == [*SHOWN, *SAVED[3:-1]]
    assert height(editor) > folded + 150
    editor.show(0.9, (-200, 60))
    editor.screenshot("unfolded")
    toggle.click()
    assert rows(editor) == SHOWN
    assert height(editor) == pytest.approx(folded, abs=40)  # the strip's own lines may wrap
    editor.screenshot("folded")


def test_nodes2_shows_the_same_rows(editor: Editor) -> None:
    if editor.mode != "nodes2":
        pytest.skip("of Nodes 2.0")
    editor.load(quickstart_graph())
    node = editor.page.locator(".lg-node", has=editor.page.locator(".teacache-strip"))
    names = node.locator(".lg-node-widget")
    assert names.first.inner_text().split("\n")[0] == "preset"
    unfold(editor)
    editor.page.wait_for_function(
        """count => document.querySelector(".teacache-strip").closest(".lg-node")
            .querySelectorAll(".lg-node-widget").length === count""",
        arg=len(SAVED) + 2,
    )
    strip, box = editor.page.locator(".teacache-strip").bounding_box(), node.bounding_box()
    assert box["y"] + box["height"] - strip["y"] - strip["height"] < 40, "empty below the strip"


def test_unfolded_is_saved_with_the_node(editor: Editor) -> None:
    editor.load(quickstart_graph())
    unfold(editor)
    saved = editor.page.evaluate("() => app.graph.serialize()")
    assert apply_node(saved)["showAdvanced"] is True
    editor.load(quickstart_graph())
    assert rows(editor) == SHOWN
    editor.load(saved)
    assert rows(editor) == [*SHOWN, *SAVED[3:-1]]
    assert editor.page.locator(TOGGLE).inner_text() == "▾ fewer settings"


def test_folded_settings_that_are_not_the_default_are_named(editor: Editor) -> None:
    editor.load(graph(widgets_values=[*OTHER[:4], 0, "auto", "auto", "faithful"]))
    line = editor.page.locator(TOGGLE)
    expect(line).to_have_text(re.compile(f"^(▸ )?{CHANGED}, mode faithful$"))
    editor.page.evaluate(
        f"""() => {{
            const node = {NODE};
            const mode = node.widgets.find(({{ name }}) => name === "mode");
            mode.setValue("forecast", {{ e: {{}}, node, canvas: app.canvas }});
        }}"""
    )
    expect(line).to_have_text(re.compile(f"^(▸ )?{CHANGED}$"))


@pytest.mark.parametrize("count", [7, 12])
def test_values_of_earlier_versions_stay_with_their_names(editor: Editor, count: int) -> None:
    values = [*OTHER, "2.5x"][:count]
    made = graph(widgets_values=values)
    editor.load(made)
    wanted = dict(zip(SAVED, values, strict=False))
    inputs = prompt_inputs(editor, apply_node(made)["id"])
    assert {name: inputs[name] for name in wanted} == wanted
    assert set(SAVED) <= set(inputs)
    saved = apply_node(editor.page.evaluate("() => app.graph.serialize()"))["widgets_values"]
    assert saved[:count] == values and len(saved) == len(SAVED)
    copied = editor.page.evaluate(f"() => {NODE}.clone().serialize().widgets_values")
    assert copied == saved


@pytest.mark.parametrize("path", OLD, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_files_of_earlier_versions_keep_their_values(editor: Editor, path: Path) -> None:
    made = json.loads(path.read_text())
    nodes = [node for node in made["nodes"] if node["type"].startswith("ApplyTeaCache")]
    editor.load(made)
    editor.page.keyboard.press("Escape")
    for node in nodes:
        inputs = prompt_inputs(editor, node["id"])
        wanted = dict(zip(SAVED, node["widgets_values"], strict=False))
        assert {name: inputs[name] for name in wanted} == wanted


def test_a_widget_that_a_link_sets_is_not_folded(editor: Editor) -> None:
    made = quickstart_graph()
    node = apply_node(made)
    number = max(link[0] for link in made["links"]) + 1
    made["nodes"].append(
        {
            "id": 900, "type": "PrimitiveInt", "pos": [40, 900], "size": [300, 80], "flags": {},
            "order": 0, "mode": 0, "inputs": [], "properties": {}, "widgets_values": [5, "fixed"],
            "outputs": [{"name": "INT", "type": "INT", "links": [number]}],
        }
    )  # fmt: skip
    link = {"name": "max_skip", "type": "INT", "widget": {"name": "max_skip"}, "link": number}
    node["inputs"] = [socket for socket in node["inputs"] if socket["name"] == "model"] + [link]
    made["links"].append([number, 900, 0, node["id"], 1, "INT"])
    editor.load(made)
    assert rows(editor) == [*SHOWN, "max_skip"]
    assert prompt_inputs(editor, node["id"])["max_skip"] == ["900", 0]


def test_undo_brings_the_folded_node_back(editor: Editor) -> None:
    """The toggle is one step of the history, as a click on the node's menu is."""
    editor.load(quickstart_graph())
    unfold(editor)
    editor.page.evaluate("() => app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
    editor.page.wait_for_function(f"() => !{NODE}.showAdvanced")
    assert rows(editor) == SHOWN
