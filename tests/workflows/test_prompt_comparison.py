"""The comparison of prompts notices what the execution would, and nothing else."""

from __future__ import annotations

import copy

import pytest
from prompt_comparison import compare, has_dates

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


def differences(changed, dated=False):
    return compare(prompt(), changed, DEFINITIONS, dated).lines


def test_equal_prompts_do_not_differ():
    assert differences(prompt()) == []


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
    assert line in "\n".join(differences(changed))


def test_a_missing_input_and_a_missing_node_count():
    changed = prompt()
    del changed["1"]["inputs"]["name"]
    assert differences(changed) == ["1 (Load).name: 'a' in the page, absent in the conversion"]
    del changed["2"], changed["3"]
    changed["1"]["class_type"] = "Save"
    assert differences(changed) == [
        "1: Load in the page, Save in the conversion",
        "2: only in the page",
    ]


def test_what_no_output_node_reads_and_undeclared_values_do_not_count():
    changed = prompt()
    changed["3"]["inputs"]["name"] = "b"
    changed["1"]["inputs"]["lossless"] = False
    changed["1"]["inputs"]["grown.part0"] = 1.0
    assert differences(changed) == []


def test_without_an_output_node_all_ends_count():
    page, changed = prompt(), prompt()
    del page["2"], changed["2"]
    changed["3"]["inputs"]["name"] = "b"
    assert compare(page, changed, DEFINITIONS, False).lines == [
        "3 (Load).name: 'a' in the page, 'b' in the conversion"
    ]


def test_pictures_that_the_page_takes_of_a_3d_view_do_not_count():
    definitions = {"View": {"input": {"required": {"view": ["LOAD_3D", {}]}}}}

    def view(**state):
        return {"1": {"class_type": "View", "inputs": {"view": {"camera": 1, **state}}}}

    page = view(image="scene_1767323045.png [temp]", normal="normal_1767323045.png [temp]")
    assert compare(page, view(image=""), definitions, False).lines == []
    page = view(camera=-4.993544331452557)
    assert compare(page, view(camera=-4.993544331452558), definitions, False).lines == []
    assert compare(page, view(camera=2), definitions, False).lines != []


def test_digits_do_not_count_in_files_that_write_dates():
    assert has_dates({"nodes": [{"widgets_values": ["run_%date:yyyy-MM-dd%"]}]})
    assert not has_dates({"nodes": [{"widgets_values": ["50%"]}, {"widgets_values": {"a": 5}}]})
    assert differences(prompt(prefix="of 1999"), dated=True) == []
    assert differences(prompt(prefix="in 1999"), dated=True) != []


def renamed(graph):
    """The prompt with other ids."""
    other = {"1": "5:1", "2": "9", "3": "5:3"}
    return {
        other[node_id]: {
            **node,
            "inputs": {
                name: [other[value[0]], value[1]] if isinstance(value, list) else value
                for name, value in node["inputs"].items()
            },
        }
        for node_id, node in graph.items()
    }


def test_ids_do_not_count():
    assert differences(renamed(prompt())) == []
    changed = prompt()
    changed["1"]["inputs"]["name"] = "b"
    assert differences(renamed(changed)) != []
    changed = prompt()
    changed["4"] = copy.deepcopy(changed["2"])
    assert differences(renamed(prompt()) | changed) != []


SAMPLER = {
    "Sample": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"min": 0}],
                "steps": ["INT", {"max": 100}],
                "sampler": [["euler", "heun"], {}],
                "text": ["STRING", {}],
                "tiled": ["BOOLEAN", {}],
                "mode": ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "fast", "inputs": {
                    "required": {"speed": ["COMBO", {"options": ["2x", "4x"]}]}}}]}],
            },
            "hidden": {"prompt": "PROMPT"},
        },
        "output_node": True,
    }
}  # fmt: skip
SAMPLED = {
    "seed": 5, "steps": 20, "sampler": "euler", "text": "a fox", "tiled": False, "mode": "fast",
    "mode.speed": "2x",
}  # fmt: skip


def sample(**values):
    return {"1": {"class_type": "Sample", "inputs": {**SAMPLED, **values}}}


@pytest.mark.parametrize(
    "values",
    [
        {"seed": "randomize"},
        {"seed": -1},
        {"seed": 0.7},
        {"seed": True},
        {"steps": 775709856082329},
        {"sampler": 20},
        {"text": 5},
        {"tiled": 42},
        {"mode.speed": "16:9"},
    ],
    ids=str,
)
def test_nodes_with_values_at_the_wrong_widgets_in_the_page_are_set_aside(values):
    page = sample(**values, model=["2", 0])
    compared = compare(page, sample(model=["2", 0]), SAMPLER, False)
    assert compared.lines == []
    assert compared.misplaced == ["1"]
    assert compare(sample(), sample(**values), SAMPLER, False).lines != []
    assert compare(page, sample(model=["2", 1]), SAMPLER, False).lines != []
    assert compare(page, sample(**{"seed": "no", "steps": 0, **values}), SAMPLER, False).lines != []


@pytest.mark.parametrize(
    "values",
    [{"seed": 6}, {"steps": 99}, {"sampler": "of another pack"}, {"text": "5"}, {"tiled": True}],
    ids=str,
)
def test_values_that_can_be_the_inputs_are_compared(values):
    compared = compare(sample(**values), sample(), SAMPLER, False)
    assert len(compared.lines) == 1
    assert compared.misplaced == []


def test_values_of_a_choice_that_is_not_made_do_not_count():
    assert compare(sample(**{"mode.old": 1}), sample(), SAMPLER, False).lines == []
