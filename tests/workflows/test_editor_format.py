"""Files saved by the editor: what they become, and what is refused."""

from __future__ import annotations

import copy
import json

import pytest
from paths import ROOT

from teacache.errors import UserError
from teacache.workflows.editor_format import to_graph

DEFINITIONS = {
    "Load": {"input": {"required": {"name": (["a", "b"],)}}},
    "Patch": {
        "input": {
            "required": {"model": ("MODEL",), "much": ("FLOAT", {"default": 0.5})},
            "optional": {"kind": ("COMBO", {"options": ["x", "y"]})},
        }
    },
    "Sample": {
        "input": {
            "required": {
                "model": ("MODEL",),
                "seed": ("INT", {"default": 0}),
                "steps": ("INT", {"default": 20}),
                "text": ("STRING", {"multiline": True}),
                "forced": ("INT", {"forceInput": True}),
            }
        }
    },
    "LoadImage": {"input": {"required": {"image": (["a.png"], {"image_upload": True})}}},
    "Save": {"input": {"required": {"images": ("IMAGE",), "prefix": ("STRING", {})}}},
    "Grow": {"input": {"required": {"many": ("COMFY_AUTOGROW_V3", {})}}},
}


def node(number, kind, values=(), inputs=(), outputs=(), **more):
    slots = [{"name": n, "type": t, "link": link} for n, t, link in inputs]
    return {
        "id": number,
        "type": kind,
        "mode": 0,
        "inputs": slots,
        "outputs": [{"name": t, "type": t} for t in outputs],
        "widgets_values": list(values),
        **more,
    }


def example():
    """Load -> Patch -> Reroute -> Sample -> Save, a primitive for steps, and a note."""
    return {
        "nodes": [
            node(1, "Load", ["b"], outputs=["MODEL"]),
            node(2, "Patch", [0.25, "y"], [("model", "MODEL", 1)], ["MODEL"], title="My patch"),
            node(3, "Reroute", [], [("", "*", 2)], ["MODEL"]),
            node(
                4,
                "Sample",
                [7, "randomize", 30, "hello"],
                [("model", "MODEL", 3), ("steps", "INT", 4)],
                ["IMAGE"],
            ),
            node(5, "PrimitiveNode", [12, "fixed"], outputs=["INT"]),
            node(6, "Save", ["out"], [("images", "IMAGE", 5)]),
            node(7, "MarkdownNote", ["# hi"]),
        ],
        "links": [
            [1, 1, 0, 2, 0, "MODEL"],
            [2, 2, 0, 3, 0, "*"],
            [3, 3, 0, 4, 0, "MODEL"],
            [4, 5, 0, 4, 1, "INT"],
            [5, 4, 0, 6, 0, "IMAGE"],
        ],
    }


def convert(data):
    return to_graph(data, DEFINITIONS, "file.json")


def test_widgets_links_reroutes_and_primitives():
    graph = convert(example())
    assert set(graph) == {"1", "2", "4", "6"}
    assert graph["1"]["inputs"] == {"name": "b"}
    assert graph["2"] == {
        "class_type": "Patch",
        "inputs": {"model": ["1", 0], "much": 0.25, "kind": "y"},
        "_meta": {"title": "My patch"},
    }
    assert graph["4"]["inputs"] == {"model": ["2", 0], "seed": 7, "steps": 12, "text": "hello"}
    assert graph["6"]["inputs"] == {"images": ["4", 0], "prefix": "out"}


def test_links_as_objects():
    data = example()
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    data["links"] = [dict(zip(names, link, strict=True)) for link in data["links"]]
    assert convert(data) == convert(example())


def test_bypassed_and_muted():
    data = example()
    data["nodes"][1]["mode"] = 4
    graph = convert(data)
    assert "2" not in graph and graph["4"]["inputs"]["model"] == ["1", 0]
    data["nodes"][1]["mode"] = 2
    graph = convert(data)
    assert "2" not in graph and "model" not in graph["4"]["inputs"]


def test_a_bypassed_node_hands_on_the_input_of_the_same_type():
    data = example()
    data["nodes"][1]["mode"] = 4
    data["nodes"][1]["inputs"].insert(0, {"name": "clip", "type": "CLIP", "link": None})
    assert convert(data)["4"]["inputs"]["model"] == ["1", 0]


def test_upload_button_and_list_values():
    data = {"nodes": [node(1, "LoadImage", [["a.png", "b.png"], "image"])], "links": []}
    assert convert(data)["1"]["inputs"] == {"image": {"__value__": ["a.png", "b.png"]}}


def test_an_older_file_takes_defaults_for_newer_inputs():
    data = example()
    data["nodes"][1]["widgets_values"] = [0.25]
    assert convert(data)["2"]["inputs"]["kind"] == "x"


def changed(change):
    data = copy.deepcopy(example())
    change(data)
    return data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(definitions={"subgraphs": [{}]}), "uses subgraphs"),
        (lambda d: d["nodes"][0].update(type="Nope"), "node 1: no node type 'Nope'"),
        (lambda d: d["nodes"][0].update(widgets_values=[1, 2]), r"node 1 \(Load\) holds 2 values"),
        (lambda d: d["nodes"][0].update(type="Grow"), "inputs that grow"),
        (lambda d: d["links"].pop(0), r"node 2 \(Patch\) has a dangling link"),
        (lambda d: d["links"].append([]), "damaged"),
        (lambda d: d["nodes"][2]["inputs"][0].update(link=3), "linked to itself"),
    ],
)
def test_what_is_not_sound_is_refused(change, message):
    with pytest.raises(UserError, match=message) as error:
        convert(changed(change))
    assert str(error.value).startswith("file.json: ")


def test_the_two_quick_starts_are_one_graph():
    editor = json.loads((ROOT / "workflows" / "quickstart.json").read_text())
    api = json.loads((ROOT / "workflows" / "api" / "quickstart.json").read_text())
    widgets = {n["id"]: n["widgets_values"] for n in editor["nodes"]}
    for number, entry in api.items():
        plain = [value for value in entry["inputs"].values() if not isinstance(value, list)]
        assert [value for value in widgets[int(number)] if value != "fixed"] == plain
    titles = {str(n["id"]): n["title"] for n in editor["nodes"]}
    assert {i: n["_meta"]["title"] for i, n in api.items()}.items() <= titles.items()
