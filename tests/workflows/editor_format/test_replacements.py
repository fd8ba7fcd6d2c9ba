"""Nodes of missing classes, and what packs have registered to stand in for them."""

from __future__ import annotations

from editor_files import DEFINITIONS, convert, file, node, output

from teacache.workflows.editor_format import to_graph

MAPPING = {
    "new_node_id": "Patch",
    "old_node_id": "OldPatch",
    "old_widget_ids": ["strength", "style"],
    "input_mapping": [
        {"new_id": "model", "old_id": "unet"},
        {"new_id": "much", "old_id": "strength"},
        {"new_id": "kind", "set_value": "y"},
    ],
    "output_mapping": [{"old_idx": 1, "new_idx": 0}],
}


def old_file():
    return file(
        [
            node(1, "Load", ["b"], outputs=[output("MODEL", 1)]),
            node(2, "OldPatch", [0.25, "z"], [("unet", "MODEL", 1)], ["INFO", output("MODEL", 2)]),
            node(3, "Patch", [0.5], [("model", "MODEL", 2)]),
        ],
        [[1, 1, 0, 2, 0, "MODEL"], [2, 2, 1, 3, 0, "MODEL"]],
    )


def test_links_values_and_outputs_get_their_new_names():
    others = [{"new_node_id": "Missing"}, MAPPING]
    graph = convert(old_file(), replacements={"OldPatch": others})
    assert graph["2"]["class_type"] == "Patch" and graph["2"]["_meta"]["title"] == "Patch"
    assert graph["2"]["inputs"] == {"model": ["1", 0], "much": 0.25, "kind": "y"}
    assert graph["3"]["inputs"]["model"] == ["2", 0]


def test_a_linked_widget_stays_linked():
    data = old_file()
    data["nodes"].append(node(4, "Cycle", ["a", "fixed", "", 1], outputs=[output("FLOAT", 3)]))
    data["nodes"][1]["inputs"].append(
        {"name": "strength", "type": "FLOAT", "link": 3, "widget": {"name": "strength"}}
    )
    data["links"].append([3, 4, 0, 2, 1, "FLOAT"])
    graph = convert(data, replacements={"OldPatch": [MAPPING]})
    assert graph["2"]["inputs"]["much"] == ["4", 0]


def test_without_a_mapping_names_stay():
    data = old_file()
    data["nodes"][1]["inputs"][0]["name"] = "model"
    data["nodes"][1]["widgets_values_named"] = {"much": 0.125, "other": 1}
    plain = {"new_node_id": "Patch", "old_widget_ids": None, "input_mapping": None}
    data["links"][1][2] = 0
    inputs = convert(data, replacements={"OldPatch": [plain]})["2"]["inputs"]
    assert inputs["model"] == ["1", 0] and inputs["much"] == 0.125


def test_a_class_that_is_there_stays():
    known = DEFINITIONS | {"OldPatch": {"input": {}, "output": ["INFO", "MODEL"]}}
    graph = to_graph(old_file(), known, "f", {"OldPatch": [MAPPING]})
    assert graph["2"]["class_type"] == "OldPatch" and graph["3"]["inputs"]["model"] == ["2", 1]
