"""Nodes that exist in the editor's page only."""

from __future__ import annotations

import pytest
from editor_files import (
    changed,
    convert,
    example,
    file,
    inner_link,
    node,
    output,
    sampling_subgraph,
    with_subgraph,
)

from teacache.workflows.editor_format import to_graph


@pytest.mark.parametrize("kind", ["Reroute (rgthree)", "ReroutePrimitive|pysssss"])
def test_reroutes_of_packs_and_texts(kind):
    def other(data):
        data["nodes"][2]["type"] = kind
        data["nodes"][6]["type"] = "Label (rgthree)"

    assert convert(changed(other)) == convert(example())
    muted = convert(changed(lambda d: d["nodes"][2].update(mode=2)))
    assert "model" not in muted["4"]["inputs"]


@pytest.mark.parametrize(("setter", "getter"), [("SetNode", "GetNode"), ("easy setNode",) * 2])
def test_a_link_by_name(setter, getter):
    getter = getter.replace("set", "get")
    data = file(
        [
            node(1, "Load", ["b"], outputs=[output("MODEL", 1)]),
            node(2, setter, ["m"], [("MODEL", "MODEL", 1)], [output("*", 3)]),
            node(3, getter, ["m"], [], [output("MODEL", 2)]),
            node(4, "Patch", [0.5], [("model", "MODEL", 2)]),
            node(5, "Patch", [0.5], [("model", "MODEL", 3)]),
        ],
        [[1, 1, 0, 2, 0, "MODEL"], [2, 3, 0, 4, 0, "MODEL"], [3, 2, 0, 5, 0, "MODEL"]],
    )
    graph = convert(data)
    assert set(graph) == {"1", "4", "5"}
    assert graph["4"]["inputs"]["model"] == graph["5"]["inputs"]["model"] == ["1", 0]
    data["nodes"][2]["widgets_values"] = ["other"]
    assert "model" not in convert(data)["4"]["inputs"], "nothing was set under that name"


def test_a_name_that_is_set_around_the_subgraph():
    subgraph = sampling_subgraph()
    subgraph["nodes"][0]["inputs"][0]["link"] = 9
    subgraph["nodes"].append(node(8, "GetNode", ["m"], [], [output("MODEL", 9)]))
    subgraph["links"].append(inner_link(9, 8, 0, 4, 0))
    data = with_subgraph(subgraph=subgraph)
    data["nodes"].append(node(9, "SetNode", ["m"], [("MODEL", "MODEL", 3)]))
    data["links"].append([3, 1, 0, 9, 0, "MODEL"])
    assert convert(data)["2:4"]["inputs"]["model"] == ["1", 0]


def test_a_muted_primitive_sets_its_widgets_too():
    data = changed(lambda d: d["nodes"][4].update(mode=2))
    assert convert(data)["4"]["inputs"]["steps"] == 13


def test_a_primitive_without_a_value_leaves_the_widget():
    for values in ([], None):
        data = changed(lambda d, v=values: d["nodes"][4].update(widgets_values=v))
        assert convert(data)["4"]["inputs"]["steps"] == 31, "30 in steps of 2 from 1"
    data = changed(lambda d: d["nodes"][4]["outputs"][0].update(links=None))
    assert convert(data)["4"]["inputs"]["steps"] == 30


def test_a_primitive_behind_a_reroute_leaves_the_widget():
    def through(data):
        data["nodes"].append(node(8, "Reroute", [], [("", "*", 6)], [output("*", 4)]))
        data["nodes"][4]["outputs"][0]["links"] = [6]
        data["links"][3] = [4, 8, 0, 4, 1, "INT"]
        data["links"].append([6, 5, 0, 8, 0, "INT"])

    assert convert(changed(through))["4"]["inputs"]["steps"] == 30


def test_a_primitive_with_tokens():
    data = file(
        [
            node(
                1,
                "PrimitiveNode",
                ["%Load It.name%"],
                outputs=[output("STRING", 1)],
                properties={"Run widget replace on values": True},
            ),
            node(2, "Save", ["out"], [("prefix", "STRING", 1, "prefix")]),
            node(3, "Load", ["b"]),
        ],
        [[1, 1, 0, 2, 0, "STRING"]],
    )
    assert convert(data)["2"]["inputs"]["prefix"] == "b"


def test_a_node_that_the_server_has_too_is_no_page_node():
    definitions = {"Reroute": {"input": {"required": {"x": ("*",)}}}}
    data = file([node(1, "Reroute", [], [("x", "*", None)], ["*"])])
    assert set(to_graph(data, definitions, "f")) == {"1"}
