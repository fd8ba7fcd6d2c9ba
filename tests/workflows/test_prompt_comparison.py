"""The comparison of prompts notices what the execution would, and nothing else."""

from __future__ import annotations

import copy

import pytest
from prompt_comparison import differences, has_dates

DEFINITIONS = {
    "Load": {"input": {"required": {"name": [["a", "b"]], "grown": ["COMFY_AUTOGROW_V3", {}]}}},
    "Save": {
        "input": {"required": {"images": ["IMAGE"], "prefix": ["STRING"]}},
        "output_node": True,
    },
}


def prompt(values=(("name", "a"), ("grown.part0", 1), ("lossless", True)), prefix="of 2026"):
    load = {"class_type": "Load", "inputs": dict(values)}
    save = {"class_type": "Save", "inputs": {"images": ["1", 0], "prefix": prefix}}
    return {"1": load, "2": save, "3": copy.deepcopy(load)}


def compare(changed, dated=False):
    return differences(prompt(), changed, DEFINITIONS, dated)


def test_equal_prompts_do_not_differ():
    assert compare(prompt()) == []


@pytest.mark.parametrize(
    ("node", "name", "value", "line"),
    [
        ("1", "name", "b", "1 (Load).name: 'a' in the page, 'b' in the conversion"),
        ("1", "name", None, "1 (Load).name: 'a' in the page, None in the conversion"),
        ("1", "grown.part0", True, "1 (Load).grown.part0: 1 in the page, True in the conversion"),
        ("1", "other", ["3", 0], "1 (Load).other: absent in the page, ['3', 0] in the conversion"),
        ("2", "images", ["1", 1], "2 (Save).images: ['1', 0] in the page, ['1', 1] in the"),
        ("2", "prefix", "of 1999", "2 (Save).prefix: 'of 2026' in the page"),
    ],
)
def test_what_is_executed_counts(node, name, value, line):
    changed = prompt()
    changed[node]["inputs"][name] = value
    assert line in "\n".join(compare(changed))


def test_a_missing_input_and_a_missing_node_count():
    changed = prompt()
    del changed["1"]["inputs"]["name"]
    assert compare(changed) == ["1 (Load).name: 'a' in the page, absent in the conversion"]
    del changed["2"], changed["3"]
    changed["1"]["class_type"] = "Save"
    assert compare(changed) == [
        "1: Load in the page, Save in the conversion",
        "2: only in the page",
    ]


def test_what_no_output_node_reads_and_undeclared_values_do_not_count():
    changed = prompt()
    changed["3"]["inputs"]["name"] = "b"
    changed["1"]["inputs"]["lossless"] = False
    changed["1"]["inputs"]["grown.part0"] = 1.0
    assert compare(changed) == []


def test_without_an_output_node_all_ends_count():
    page, changed = prompt(), prompt()
    del page["2"], changed["2"]
    changed["3"]["inputs"]["name"] = "b"
    assert differences(page, changed, DEFINITIONS, False) == [
        "3 (Load).name: 'a' in the page, 'b' in the conversion"
    ]


def test_pictures_that_the_page_takes_of_a_3d_view_do_not_count():
    definitions = {"View": {"input": {"required": {"view": ["LOAD_3D", {}]}}}}

    def view(**state):
        return {"1": {"class_type": "View", "inputs": {"view": {"camera": 1, **state}}}}

    page = view(image="scene_1767323045.png [temp]", normal="normal_1767323045.png [temp]")
    assert differences(page, view(image=""), definitions, False) == []
    assert differences(page, view(camera=2), definitions, False) != []


def test_digits_do_not_count_in_files_that_write_dates():
    assert has_dates({"nodes": [{"widgets_values": ["run_%date:yyyy-MM-dd%"]}]})
    assert not has_dates({"nodes": [{"widgets_values": ["50%"]}, {"widgets_values": {"a": 5}}]})
    assert compare(prompt(prefix="of 1999"), dated=True) == []
    assert compare(prompt(prefix="in 1999"), dated=True) != []
