"""The commands that put Apply TeaCache into the open graph and take it out, in the real editor."""

from __future__ import annotations

import copy
import json
from typing import Any
from urllib.request import urlopen

import pytest
from comfy_server import ROOT
from editing import Editor, quickstart_graph
from official_templates import template, template_files

from teacache.config import TeaCacheConfig
from teacache.workflows.editor_scope import FIELDS, get, position, scopes
from teacache.workflows.insertion_editor import insert_into_file
from teacache.workflows.selection import APPLY

pytestmark = pytest.mark.browser

PUT_IN, TAKE_OUT = "TeaCache.PutIn", "TeaCache.TakeOut"
OLDER = (
    "02_qwen_Image_edit_subgraphed",
    "03_video_wan2_2_14B_i2v_subgraphed",
    "video_wan2_2_14B_animate",
)
NEWER = ("image_qwen_image_edit_2509", "video_wan2_2_14B_i2v", "video_wan2_2_14B_s2v")
"""Official templates that older and newer packages of them have."""
TEMPLATES = (
    "flux_dev_full_text_to_image",
    "video_wan2_2_14B_t2v",
    *(OLDER if template_files().keys() >= set(OLDER) else NEWER),
)
Data = dict[str, Any]


def command(editor: Editor, name: str) -> str:
    """Runs a command; returns the newest toast."""
    before = editor.page.locator(".p-toast-message").count()
    editor.page.evaluate("name => app.extensionManager.command.execute(name)", name)
    toast = editor.page.locator(".p-toast-message").nth(before)
    toast.wait_for()
    text = toast.inner_text()
    toast.locator("button").click()
    toast.wait_for(state="detached")
    return text


def serialized(editor: Editor) -> Data:
    text = editor.page.evaluate("() => JSON.stringify((app.rootGraph ?? app.graph).serialize())")
    graph: Data = json.loads(text)
    return graph


def history(editor: Editor) -> int:
    """The number of steps that can be undone."""
    steps: int = editor.page.evaluate(
        "() => app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length"
    )
    return steps


def check_history(editor: Editor, steps: int) -> None:
    """There are so many steps; in Nodes 2.0, where measuring a new node is a change, one more."""
    assert history(editor) in ((steps, steps + 1) if editor.mode == "nodes2" else (steps,))


def open_file(editor: Editor, data: Data) -> None:
    editor.load(data)
    for _ in range(2):
        editor.page.keyboard.press("Escape")  # the list of models to download
    if editor.mode == "nodes2":
        editor.page.wait_for_timeout(1000)  # the nodes are measured
    editor.page.evaluate(
        "() => app.extensionManager.workflow.activeWorkflow.changeTracker.checkState()"
    )


def applied(data: Data) -> list[Data]:
    return [n for s in scopes(data) for n in s.nodes.values() if n["type"] in APPLY]


def links(data: Data) -> set[tuple[str, ...]]:
    """All links, by the nodes at their ends; the inserted ones by their class."""
    found = set()
    for scope in scopes(data):
        names = {n["id"]: n["type"] for n in scope.nodes.values() if n["type"] in APPLY}
        for link in scope.links.values():
            _, *ends = (get(link, field) for field in FIELDS)
            found.add((scope.name, *(str(names.get(end, end)) for end in ends)))
    return found


@pytest.fixture(scope="module")
def definitions(editor: Editor) -> Data:
    with urlopen(f"{editor.url}/object_info") as answer:
        known: Data = json.load(answer)
    return known


@pytest.mark.parametrize("name", TEMPLATES)
def test_it_is_put_where_the_command_puts_it(editor: Editor, definitions: Data, name: str) -> None:
    open_file(editor, template(name))
    before, steps = serialized(editor), history(editor)
    toast = command(editor, PUT_IN)
    after = serialized(editor)
    expected = copy.deepcopy(before)
    outcome = insert_into_file(expected, TeaCacheConfig(rel_l1_thresh=None), definitions, name)
    number = len(outcome.insertions)
    assert number and toast.startswith(f"Apply TeaCache put in: {number}\n")
    assert toast.count("→") == min(number, 6), "a toast has no room for more"
    assert links(after) == links(expected)
    made, wanted = applied(after), applied(expected)
    assert [each["mode"] for each in made] == [each["mode"] for each in wanted]
    for drawn, place in zip(map(position, made), map(position, wanted), strict=True):
        assert drawn == pytest.approx(place, abs=0.01)  # Nodes 2.0 rounds
    check_history(editor, steps + 1)
    editor.fit()
    editor.screenshot(f"put_in_{name}")

    assert command(editor, PUT_IN).startswith("This graph has a cache: nothing was changed.")
    check_history(editor, steps + 1)
    while history(editor) > steps:
        editor.page.evaluate(
            "() => app.extensionManager.workflow.activeWorkflow.changeTracker.undo()"
        )
    undone = serialized(editor)
    assert not applied(undone) and links(undone) == links(before)


@pytest.mark.parametrize("name", TEMPLATES)
def test_it_is_taken_out_again(editor: Editor, name: str) -> None:
    open_file(editor, template(name))
    before, steps = serialized(editor), history(editor)
    command(editor, PUT_IN)
    number = len(applied(serialized(editor)))
    toast = command(editor, TAKE_OUT)
    assert number and toast.startswith(f"Apply TeaCache taken out: {number}\n")
    after = serialized(editor)
    assert not applied(after) and links(after) == links(before)
    check_history(editor, steps + 2)
    assert command(editor, TAKE_OUT).startswith("There is no Apply TeaCache in this graph.")


def test_reroutes_stay_in_place(editor: Editor) -> None:
    graph = quickstart_graph()
    editor.load(graph)
    command(editor, TAKE_OUT)
    editor.page.evaluate(
        """() => {
            const loader = app.graph.nodes.find(({ type }) => type === "UNETLoader");
            const report = app.graph.nodes.find(({ type }) => type === "TeaCacheReport");
            app.graph.remove(report);
            const [first] = [...loader.outputs[0].links].map(id => app.graph.links.get(id));
            const shared = app.graph.createReroute([400, 600], first);
            const sampler = app.graph.getNodeById(first.target_id);
            const other = LiteGraph.createNode("BasicScheduler");
            app.graph.add(other);
            loader.connect(0, other, 0, shared.id);
            app.graph.createReroute([600, 600], app.graph.links.get(sampler.inputs[0].link));
        }"""
    )

    def routes() -> dict[str, list[int]]:
        """The reroutes from the loader to each node that its model reaches."""
        found: dict[str, list[int]] = editor.page.evaluate(
            """() => {
                const chain = id => id === undefined ? [] :
                    [...chain(app.graph.reroutes.get(id).parentId), id];
                return Object.fromEntries([...app.graph.links.values()]
                    .filter(({ type }) => type === "MODEL")
                    .map(link => [app.graph.getNodeById(link.target_id).type,
                                  chain(link.parentId)]));
            }"""
        )
        return found

    before = routes()
    assert before == {"KSampler": [1, 2], "BasicScheduler": [1]}
    command(editor, PUT_IN)
    assert routes() == {"ApplyTeaCache": [1], "KSampler": [2], "BasicScheduler": [1]}
    command(editor, TAKE_OUT)
    assert routes() == before


def test_a_written_file_is_what_the_editor_would_save(editor: Editor, definitions: Data) -> None:
    data = template("flux_dev_full_text_to_image")
    insert_into_file(data, TeaCacheConfig(rel_l1_thresh=None), definitions, "w.json")
    open_file(editor, data)
    (written,), (saved,) = applied(data), applied(serialized(editor))
    for key in ("mode", "inputs", "outputs", "properties", "widgets_values"):
        assert saved[key] == written[key], key
    command(editor, TAKE_OUT)
    command(editor, PUT_IN)
    (made,) = applied(serialized(editor))
    assert made["inputs"][1:] == written["inputs"][1:]
    assert made["widgets_values"] == written["widgets_values"]
    if editor.mode == "classic":  # Nodes 2.0 spreads the nodes of a file that is opened
        assert saved["pos"] == made["pos"] == written["pos"]
        assert saved["size"] == made["size"] == written["size"]


def test_a_node_in_a_closed_subgraph_keeps_its_size(editor: Editor, definitions: Data) -> None:
    data = template("image_qwen_image_edit_2509" if NEWER[0] in TEMPLATES else OLDER[0])
    insert_into_file(data, TeaCacheConfig(rel_l1_thresh=None), definitions, "w.json")
    open_file(editor, data)
    (written,), (saved,) = applied(data), applied(serialized(editor))
    if editor.mode == "classic":  # Nodes 2.0 measures a node when its graph is opened
        assert saved["size"] == pytest.approx(written["size"], abs=1)


def test_a_graph_that_samples_nothing(editor: Editor) -> None:
    editor.load_api({"1": {"class_type": "EmptyImage", "inputs": {"width": 64}}})
    assert command(editor, PUT_IN).startswith("No node of this graph samples a model")


def test_the_canvas_menu_has_both_entries(editor: Editor) -> None:
    open_file(editor, quickstart_graph())
    editor.show(0.5, (400, 400))
    editor.page.mouse.click(1200, 850, button="right")
    entry = editor.page.get_by_text("Take TeaCache out of this graph").first
    entry.wait_for()
    assert editor.page.get_by_text("Put TeaCache into this graph").count() >= 1
    editor.screenshot("canvas_menu")
    entry.click()
    editor.page.wait_for_function(
        "() => !app.graph.nodes.some(({ type }) => type === 'ApplyTeaCache')"
    )


def test_commands_are_named_in_every_language(editor: Editor) -> None:
    offered = editor.page.request.get(f"{editor.url}/api/i18n").json()
    for language in ("en", "zh", "ja"):
        folder = ROOT / "locales" / language
        commands = json.loads((folder / "commands.json").read_text(encoding="utf-8"))
        phrases = json.loads((folder / "main.json").read_text(encoding="utf-8"))["teacache"]
        assert commands["TeaCache_PutIn"]["label"] == phrases["putIn"]
        assert commands["TeaCache_TakeOut"]["label"] == phrases["takeOut"]
        for name, entry in commands.items():
            assert offered[language]["commands"][name] == entry
    labels = editor.page.evaluate(
        """() => app.extensionManager.command.commands
            .filter(({ id }) => id.startsWith("TeaCache."))
            .map(({ label }) => typeof label === "function" ? label() : label)"""
    )
    assert labels == ["Put TeaCache into this graph", "Take TeaCache out of this graph"]
