"""Files saved by the editor: what they become, and what is refused."""

from __future__ import annotations

import json

import pytest
from editor_files import changed, convert, example, file, node
from paths import ROOT

from teacache.errors import UserError


def test_widgets_links_reroutes_and_primitives():
    graph = convert(example())
    assert set(graph) == {"1", "2", "4", "6"}
    assert graph["1"]["inputs"] == {"name": "b"}
    assert graph["2"] == {
        "class_type": "Patch",
        "inputs": {"model": ["1", 0], "much": 0.25, "kind": "y"},
        "_meta": {"title": "My patch"},
    }
    inputs = {"model": ["2", 0], "seed": 7, "steps": 13, "text": "hello"}
    assert graph["4"]["inputs"] == inputs, "12 in steps of 2 from 1"
    assert graph["6"]["inputs"] == {"images": ["4", 0], "prefix": "out"}


def test_titles_are_those_of_the_editor():
    graph = convert(example())
    assert [graph[i]["_meta"]["title"] for i in "124"] == ["Load It", "My patch", "Sample"]


def test_links_as_objects():
    data = example()
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    data["links"] = [dict(zip(names, link, strict=True)) for link in data["links"]]
    assert convert(data) == convert(example())


def test_missing_parts_of_a_file():
    data = example() | {"definitions": None, "extra": None}
    assert convert(data) == convert(example())
    assert convert(file([node(1, "LoadNothing")]))["1"]["inputs"] == {}, "a choice of nothing"
    bare = {"id": 1, "type": "Load"}
    assert convert(file([bare]) | {"links": None})["1"]["inputs"] == {"name": "a"}


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
    data["nodes"][1].update(mode=4, type="Unknown")
    data["nodes"][1]["inputs"].insert(0, {"name": "clip", "type": "CLIP", "link": None})
    assert convert(data)["4"]["inputs"]["model"] == ["1", 0]
    data["nodes"][1]["inputs"][1]["type"] = "CLIP,MODEL"
    assert convert(data)["4"]["inputs"]["model"] == ["1", 0]
    data["nodes"][1]["inputs"][1]["type"] = "VAE"
    assert "model" not in convert(data)["4"]["inputs"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["nodes"][0].update(type="Nope"), "node 1: no node type 'Nope' in this"),
        (
            lambda d: d["nodes"][0].update(type="Nope", properties={"cnr_id": "nodes-of-x"}),
            r"node 1: no node type 'Nope' \(of nodes-of-x\) in this",
        ),
        (
            lambda d: d["nodes"][0].update(type="Anything Everywhere"),
            "node 1: 'Anything Everywhere' makes its links in the editor's page",
        ),
        (lambda d: d["links"].pop(0), r"node 2 \(Patch\) has a dangling link"),
        (lambda d: d["links"][0].__setitem__(1, 99), r"node 2 \(Patch\) has a dangling link"),
        (lambda d: d["links"][0].__setitem__(2, 3), r"is linked to output 3 of node 1 \(Load\)"),
        (lambda d: d["links"].append([]), "damaged"),
        (lambda d: d["nodes"].append(5), "damaged"),
        (lambda d: d["nodes"][0].update(widgets_values=5), "damaged"),
        (lambda d: d["nodes"][0].update(id=None), "damaged"),
        (lambda d: d["nodes"][0].update(mode=float("inf")), "damaged"),
        (lambda d: d["nodes"][2]["inputs"][0].update(link=3), "linked to itself"),
    ],
)
def test_what_is_not_sound_is_refused(change, message):
    with pytest.raises(UserError, match=message) as error:
        convert(changed(change))
    assert str(error.value).startswith("file.json: ") and "\n" not in str(error.value)


def test_the_two_quick_starts_are_one_graph():
    editor = json.loads((ROOT / "workflows" / "quickstart.json").read_text())
    api = json.loads((ROOT / "workflows" / "api" / "quickstart.json").read_text())
    widgets = {n["id"]: n["widgets_values"] for n in editor["nodes"]}
    for number, entry in api.items():
        plain = [value for value in entry["inputs"].values() if not isinstance(value, list)]
        assert [value for value in widgets[int(number)] if value != "fixed"] == plain
    titles = {str(n["id"]): n["title"] for n in editor["nodes"]}
    assert {i: n["_meta"]["title"] for i, n in api.items()}.items() <= titles.items()
