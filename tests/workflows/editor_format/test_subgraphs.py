"""Subgraphs: nodes inside, inputs and outputs, and widgets that instances show."""

from __future__ import annotations

import json

import pytest
from editor_files import (
    changed,
    convert,
    end,
    file,
    inner_link,
    node,
    output,
    sampling_subgraph,
    with_subgraph,
)

from teacache.errors import UserError


def test_inner_nodes_have_the_ids_of_their_instance_before_them():
    graph = convert(with_subgraph())
    assert set(graph) == {"1", "3", "2:4", "2:5"}
    assert graph["2:4"]["inputs"] == {"model": ["1", 0], "much": 0.75, "kind": "x"}
    assert graph["2:5"]["inputs"]["model"] == ["2:4", 0]
    assert graph["2:5"]["inputs"]["steps"] == 8, "the inner value"
    assert graph["3"]["inputs"]["images"] == ["2:5", 0]


def test_an_instance_has_values_of_its_own():
    data = with_subgraph([30])
    data["nodes"].append(
        node(9, "s1", [50], [("model", "MODEL", 3), ("steps", "INT", None, "steps")], ["IMAGE"])
    )
    data["links"].append([3, 1, 0, 9, 0, "MODEL"])
    graph = convert(data)
    assert graph["2:5"]["inputs"]["steps"] == 30 and graph["9:5"]["inputs"]["steps"] == 50
    assert convert(with_subgraph({"steps": 31}))["2:5"]["inputs"]["steps"] == 31


def test_values_of_an_instance_by_name_where_they_do_not_fit():
    data = with_subgraph(["flow", 30], widgets_values_named={"sampling": "flow", "steps": 30})
    assert convert(data)["2:5"]["inputs"]["steps"] == 30


def test_a_link_to_an_instance_wins_over_its_value():
    data = with_subgraph([30])
    data["nodes"].append(node(8, "Other", [], outputs=["INT"], mode=4))
    data["nodes"].append(node(7, "Sample", [1, "fixed", 2, ""], outputs=["IMAGE"]))
    data["nodes"][1]["inputs"][1]["link"] = 3
    data["links"].append([3, 7, 0, 2, 1, "INT"])
    assert convert(data)["2:5"]["inputs"]["steps"] == ["7", 0]
    data["links"][-1][1] = 8
    assert convert(data)["2:5"]["inputs"]["steps"] == 8, "nothing comes from there"


@pytest.mark.parametrize("entries", [list, json.dumps], ids=["list", "text"])
def test_widgets_that_an_instance_shows(entries):
    shown = entries([["-1", "steps"], ["4", "much"], ["5", "text"], ["5", "$$preview"]])
    data = with_subgraph([30, 0.125, None, None], properties={"proxyWidgets": shown})
    graph = convert(data)
    assert graph["2:5"]["inputs"]["steps"] == 30
    assert graph["2:4"]["inputs"]["much"] == 0.125
    assert graph["2:5"]["inputs"]["text"] == "inner", "null leaves the inner value"


def test_widgets_shown_in_two_instances():
    data = with_subgraph([30, 0.125], properties={"proxyWidgets": [["-1", "steps"], ["4", "much"]]})
    other = node(9, "s1", [0.5, 40], data["nodes"][1]["inputs"][:0], ["IMAGE"])
    other["properties"] = {"proxyWidgets": [["4", "much"], ["-1", "steps"]]}
    data["nodes"].append(other)
    graph = convert(data)
    assert graph["2:4"]["inputs"]["much"] == 0.125 and graph["9:4"]["inputs"]["much"] == 0.5
    assert graph["2:5"]["inputs"]["steps"] == 30 and graph["9:5"]["inputs"]["steps"] == 40
    assert "model" not in graph["9:4"]["inputs"]


def test_damaged_entries_show_nothing():
    for entries in ([["4"]], [[4, "much"]], "[", 5, [["99", "much"], ["4", "none"]]):
        data = with_subgraph([30], properties={"proxyWidgets": entries})
        assert convert(data)["2:4"]["inputs"]["much"] == 0.75


def test_values_that_the_editor_could_not_assign():
    entry = {"originalEntry": ["-1", "steps"], "hostValue": 44, "reason": "missingSubgraphInput"}
    data = with_subgraph([30], properties={"proxyWidgetErrorQuarantine": [entry, 5, {}]})
    assert convert(data)["2:5"]["inputs"]["steps"] == 44


def test_a_primitive_that_an_instance_shows():
    subgraph = sampling_subgraph()
    subgraph["nodes"].append(node(6, "PrimitiveNode", [3, "fixed"], outputs=[output("INT", 5)]))
    subgraph["nodes"][1]["inputs"].append(
        {"name": "seed", "type": "INT", "link": 5, "widget": {"name": "seed"}}
    )
    subgraph["links"].append(inner_link(5, 6, 0, 5, 2))
    assert convert(with_subgraph([], subgraph))["2:5"]["inputs"]["seed"] == 3
    shown = {"proxyWidgets": [["6", "value"]]}
    data = with_subgraph([99], subgraph, properties=shown)
    assert convert(data)["2:5"]["inputs"]["seed"] == 99
    data = with_subgraph([], subgraph, properties=shown)
    assert convert(data)["2:5"]["inputs"]["seed"] == 3


def nested():
    """The instance 2 of `outer`, in which 6 is an instance of `s1`."""
    data = with_subgraph([30])
    data["definitions"]["subgraphs"].insert(
        0,
        {
            "id": "outer",
            "name": "Outer",
            "inputs": [end("model", "MODEL", 1), end("n", "INT", 2)],
            "outputs": [end("IMAGE", "IMAGE", 3)],
            "nodes": [
                node(
                    6,
                    "s1",
                    [20],
                    [("model", "MODEL", 1), ("steps", "INT", 2, "steps")],
                    [output("IMAGE", 3)],
                )
            ],
            "links": [
                inner_link(1, -10, 0, 6, 0),
                inner_link(2, -10, 1, 6, 1),
                inner_link(3, 6, 0, -20, 0),
            ],
        },
    )
    data["nodes"][1].update(type="outer", widgets_values=[])
    data["nodes"][1]["inputs"][1].update(name="n")
    return data


def test_subgraphs_in_subgraphs():
    graph = convert(nested())
    assert set(graph) == {"1", "3", "2:6:4", "2:6:5"}
    assert graph["2:6:5"]["inputs"]["steps"] == 20
    assert graph["2:6:4"]["inputs"]["model"] == ["1", 0]
    assert graph["3"]["inputs"]["images"] == ["2:6:5", 0]
    data = changed(lambda d: d["nodes"][1].update(widgets_values=[33]), nested())
    assert convert(data)["2:6:5"]["inputs"]["steps"] == 33


def test_muted_and_bypassed_instances():
    muted = convert(with_subgraph(mode=2))
    assert set(muted) == {"1", "3"} and "images" not in muted["3"]["inputs"]
    data = with_subgraph(mode=4)
    data["nodes"][2] = node(3, "Patch", [0.5], [("model", "MODEL", 2)], ["MODEL"])
    data["nodes"][1]["outputs"][0]["type"] = "MODEL"
    data["definitions"]["subgraphs"][0]["outputs"][0]["type"] = "MODEL"
    bypassed = convert(data)
    assert set(bypassed) == {"1", "3"} and bypassed["3"]["inputs"]["model"] == ["1", 0]


def test_an_input_that_a_subgraph_hands_on():
    data = with_subgraph()
    subgraph = data["definitions"]["subgraphs"][0]
    subgraph["links"][3] = inner_link(4, -10, 0, -20, 0)
    assert convert(data)["3"]["inputs"]["images"] == ["1", 0]


def test_ids_that_are_taken():
    subgraph = sampling_subgraph()
    subgraph["nodes"][0]["id"] = 1
    subgraph["links"] = [
        inner_link(1, -10, 0, 1, 0),
        inner_link(2, 1, 0, 5, 0),
        *subgraph["links"][2:],
    ]
    shown = {"proxyWidgets": [["1", "much"]]}
    data = with_subgraph([0.125], subgraph, properties=shown) | {"last_node_id": 5}
    graph = convert(data)
    assert set(graph) == {"1", "3", "2:6", "2:5"} and graph["2:6"]["inputs"]["much"] == 0.125


def test_what_is_refused():
    data = with_subgraph(subgraph=sampling_subgraph(nodes=[node(4, "s1")], links=[]))
    with pytest.raises(UserError, match="subgraphs that contain themselves: 'Sampling'"):
        convert(data)
    data = with_subgraph()
    data["definitions"]["subgraphs"][0]["links"].pop(1)
    with pytest.raises(UserError, match=r"node 5 \(Sample in subgraph 'Sampling'\) has a dangling"):
        convert(data)
    doubling = [
        {"id": f"d{n}", "name": f"d{n}", "nodes": [node(1, f"d{n + 1}"), node(2, f"d{n + 1}")]}
        for n in range(40)
    ]
    with pytest.raises(UserError, match="more than 100000 nodes"):
        convert(file([node(1, "d0")], definitions={"subgraphs": doubling}))
    deep = [{"id": f"d{n}", "name": "", "nodes": [node(1, f"d{n + 1}")]} for n in range(1000)]
    with pytest.raises(UserError, match="100 subgraphs inside each other"):
        convert(file([node(1, "d0")], definitions={"subgraphs": deep}))
