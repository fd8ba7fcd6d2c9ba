"""Group nodes of older editors."""

from __future__ import annotations

import pytest
from editor_files import changed, convert, file, node

from teacache.errors import UserError


def grouped(kind="workflow>Both", values=(0.25, "y", 9, "fixed", 12, "hello")):
    """Load -> a group of Patch and Sample -> Save."""
    group = {
        "nodes": [
            {
                "type": "Patch",
                "index": 0,
                "inputs": [{"name": "model", "type": "MODEL", "link": None}],
                "outputs": [{"name": "MODEL", "type": "MODEL", "links": []}],
                "widgets_values": [0.75, "x"],
            },
            {
                "type": "Sample",
                "index": 1,
                "inputs": [{"name": "model", "type": "MODEL", "link": None}],
                "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": []}],
                "widgets_values": [1, "fixed", 8, "inner"],
            },
        ],
        "links": [[0, 0, 1, 0, 4, "MODEL"]],
        "external": [],
    }
    return file(
        [
            node(1, "Load", ["b"], outputs=["MODEL"]),
            node(2, kind, values, [("model", "MODEL", 1)], ["IMAGE"]),
            node(3, "Save", ["out"], [("images", "IMAGE", 2)]),
        ],
        [[1, 1, 0, 2, 0, "MODEL"], [2, 2, 0, 3, 0, "IMAGE"]],
        extra={"groupNodes": {"Both": group}},
    )


@pytest.mark.parametrize("kind", ["workflow>Both", "workflow/Both"])
def test_a_group_is_taken_apart(kind):
    graph = convert(grouped(kind))
    assert set(graph) == {"1", "3", "2:0", "2:1"}
    assert graph["2:0"]["inputs"] == {"model": ["1", 0], "much": 0.25, "kind": "y"}
    inputs = {"model": ["2:0", 0], "seed": 9, "steps": 12, "text": "hello"}
    assert graph["2:1"]["inputs"] == inputs
    assert graph["3"]["inputs"]["images"] == ["2:1", 0]


def test_values_that_the_file_lacks_are_those_of_the_group():
    graph = convert(grouped(values=(0.25,)))
    assert graph["2:0"]["inputs"]["kind"] == "x" and graph["2:1"]["inputs"]["steps"] == 8


def test_two_groups_of_one_kind_and_names_that_occur_twice():
    data = grouped()
    data["nodes"].append(
        node(4, "workflow>Both", (0.5, "x", 1, "fixed", 2, ""), [("model", "MODEL", 3)], ["IMAGE"])
    )
    data["links"].append([3, 1, 0, 4, 0, "MODEL"])
    group = data["extra"]["groupNodes"]["Both"]
    group["links"] = []
    data["nodes"][1]["inputs"].append({"name": "Sample model", "type": "MODEL", "link": 4})
    data["links"].append([4, 1, 0, 2, 1, "MODEL"])
    data["nodes"][2]["inputs"][0]["link"] = 5
    data["links"].append([5, 2, 1, 3, 0, "IMAGE"])
    graph = convert(data)
    assert graph["4:0"]["inputs"]["much"] == 0.5 and graph["2:0"]["inputs"]["much"] == 0.25
    assert graph["2:1"]["inputs"]["model"] == ["1", 0]
    assert graph["3"]["inputs"]["images"] == ["2:1", 0], "the patched model is output 0"


def test_hidden_and_renamed_sockets():
    data = grouped()
    group = data["extra"]["groupNodes"]["Both"]
    group["config"] = {"0": {"input": {"model": {"name": "net"}}, "output": {"0": {"visible": 1}}}}
    data["nodes"][1]["inputs"][0]["name"] = "net"
    data["links"][1][2] = 1
    graph = convert(data)
    assert graph["2:0"]["inputs"]["model"] == ["1", 0]
    assert graph["3"]["inputs"]["images"] == ["2:1", 0]
    group["config"]["0"]["input"]["model"]["visible"] = False
    assert "model" not in convert(data)["2:0"]["inputs"]


def test_a_linked_widget_keeps_the_value_of_the_group():
    data = grouped(values=(0.25, "y", 9, "fixed", "hello"))
    sample = data["extra"]["groupNodes"]["Both"]["nodes"][1]
    slot = {"name": "steps", "type": "INT", "link": None, "widget": {"name": "steps"}}
    sample["inputs"].append(slot)
    inputs = convert(data)["2:1"]["inputs"]
    assert inputs["steps"] == 8 and inputs["text"] == "hello"


def test_a_primitive_in_a_group():
    data = grouped(values=(0.25, "y", 9, "fixed", "hello", 21, "fixed"))
    group = data["extra"]["groupNodes"]["Both"]
    slot = {"name": "steps", "type": "INT", "link": None, "widget": {"name": "steps"}}
    group["nodes"][1]["inputs"].append(slot)
    group["nodes"].append(
        {
            "type": "PrimitiveNode",
            "outputs": [{"name": "INT", "type": "INT", "links": []}],
            "widgets_values": [3, "fixed"],
        }
    )
    group["links"].append([2, 0, 1, 1, 5, "INT"])
    assert convert(data)["2:1"]["inputs"]["steps"] == 21


def test_a_reroute_at_the_edge_of_a_group():
    """Its input is called by its type; `external` may hold whole nodes."""
    data = grouped()
    group = data["extra"]["groupNodes"]["Both"]
    slot = {"name": "", "type": "*", "link": None}
    group["nodes"].append({"type": "Reroute", "inputs": [slot], "outputs": [dict(slot)]})
    group["links"] += [[2, 0, 0, 0, 6, "MODEL"], [None, 1, 2, 0, 7, "MODEL"]]
    group["external"] = [[{"type": "Patch", "index": 0}, 0, "MODEL"], [None, 0, "MODEL"]]
    data["nodes"][1]["inputs"][0]["name"] = "MODEL"
    data["links"][1][2] = 1
    graph = convert(data)
    assert graph["2:0"]["inputs"]["model"] == ["1", 0]
    assert graph["3"]["inputs"]["images"] == ["2:1", 0], "output 0 is the patched model"
    group["config"] = {"2": {"input": {"MODEL": {"name": "net"}}}}
    data["nodes"][1]["inputs"][0]["name"] = "net"
    assert convert(data)["2:0"]["inputs"]["model"] == ["1", 0]


def test_a_socket_with_the_name_of_a_widget():
    data = grouped()
    group = data["extra"]["groupNodes"]["Both"]
    group["config"] = {"0": {"input": {"kind": {"name": "model"}}}}
    data["nodes"][1]["inputs"][0]["name"] = "Patch model"
    assert convert(data)["2:0"]["inputs"]["model"] == ["1", 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(extra={}), "node 2: the file lacks group node 'Both'"),
        (lambda d: d["extra"]["groupNodes"]["Both"].pop("nodes"), "group node 'Both' is damaged"),
        (lambda d: d["extra"]["groupNodes"]["Both"].update(links=[[5, 0, 1, 0]]), "is damaged"),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        convert(changed(change, grouped()))
