"""Which values of a file belong to which inputs."""

from __future__ import annotations

import pytest
from editor_files import DEFINITIONS, convert, file, node

from teacache.errors import UserError
from teacache.workflows.editor_format import to_graph
from teacache.workflows.editor_format.widgets import rounded


def inputs_of(kind, values=(), slots=(), **more):
    return convert(file([node(1, kind, values, slots, **more)]))["1"]["inputs"]


def test_upload_button_and_list_values():
    inputs = inputs_of("LoadImage", [["a.png", "b.png"], "image"])
    assert inputs == {"image": {"__value__": ["a.png", "b.png"]}}


def test_an_upload_button_is_behind_the_optional_inputs():
    kind = {
        "input": {
            "required": {"video": (["a.mp4"], {"video_upload": True})},
            "optional": {"much": ("INT", {})},
        },
        "input_order": {"required": ["video"], "optional": ["much"]},
    }
    data = file([node(1, "LoadVideo", ["b.mp4", 5, "image"])])
    graph = to_graph(data, {"LoadVideo": kind}, "f")
    assert graph["1"]["inputs"] == {"video": "b.mp4", "much": 5}
    del kind["input_order"]
    data = file([node(1, "LoadVideo", ["b.mp4", "image", 5])])
    assert to_graph(data, {"LoadVideo": kind}, "f")["1"]["inputs"] == {"video": "b.mp4", "much": 5}


def test_missing_and_surplus_values():
    assert inputs_of("Patch", [0.25]) == {"much": 0.25, "kind": "x"}
    assert inputs_of("Patch", [0.25, "y", "z", 5]) == {"much": 0.25, "kind": "y"}
    assert inputs_of("Patch", None) == {"much": 0.5, "kind": "x"}
    assert inputs_of("Patch", [None]) == {"much": None, "kind": "x"}, "as the page sends it"


def test_values_of_another_version_are_placed_by_name():
    named = {"kind": "y", "new": True, "much": 0.25}
    inputs = inputs_of("Patch", ["y", True, 0.25], widgets_values_named=named)
    assert inputs == {"much": 0.25, "kind": "y"}
    slots = [("kind", "COMBO", None, "kind"), ("much", "FLOAT", None, "much")]
    assert inputs_of("Patch", ["y", 0.25], slots) == {"much": 0.25, "kind": "y"}
    assert inputs_of("Patch", ["y", 0.25]) == {"much": "y", "kind": 0.25}, "nothing tells"
    assert inputs_of("Patch", [0.1, "x"], widgets_values_named=named)["much"] == 0.1, "they fit"


def test_values_as_an_object():
    inputs = inputs_of("Patch", {"kind": "y", "crf": 19, "preview": {"hidden": False}})
    assert inputs == {"much": 0.5, "kind": "y", "crf": 19}


def test_a_value_of_an_input_that_is_a_socket_now():
    inputs = inputs_of("Sample", [7, "fixed", 30, "hello", 3])
    assert inputs == {"seed": 7, "steps": 30, "text": "hello"}


def test_a_choice_that_changes_after_each_run_has_two_controls():
    assert inputs_of("Cycle", ["b", "increment", "", 9]) == {"name": "b", "last": 9}


def test_a_choice_that_is_fetched_has_buttons():
    remote = {"remote": {"route": "/x", "refresh_button": True}}
    kind = {"input": {"required": {"file": ("COMBO", remote), "much": ("INT", {})}}}
    data = file([node(1, "Fetch", ["a.png", False, "refresh", 5])])
    graph = to_graph(data, {"Fetch": kind}, "f")
    assert graph["1"]["inputs"] == {"file": "a.png", "much": 5}
    data = file([node(1, "Fetch", [])])
    assert to_graph(data, {"Fetch": kind}, "f")["1"]["inputs"]["file"] == "Loading..."


def test_a_choice_decides_on_further_inputs():
    assert inputs_of("Choose", ["small", 5, 77, "fixed"]) == {
        "model": "small",
        "model.size": 5,
        "seed": 77,
    }
    large = {"model": "large", "model.detail": 2.5, "model.look": "y", "seed": 78}
    assert inputs_of("Choose", ["large", 2.5, "y", 78, "fixed"]) == large
    assert inputs_of("Choose", [])["model.size"] == 0, "a new one"
    named = {"seed": 3, "model": "larger", "model.detail": 9}
    values = ["larger", 9, "y", 3, "fixed"]
    assert inputs_of("Choose", values, widgets_values_named=named)["seed"] == 3


def test_links_to_inputs_of_a_choice():
    slots = [("model.image", "IMAGE", 1), ("model.size", "INT", 2, "model.size")]
    nodes = [
        node(1, "Choose", ["large", 2.5, "y", 78, "fixed"], slots, ["IMAGE"]),
        node(2, "LoadImage", ["a.png"], outputs=["IMAGE"]),
    ]
    links = [[1, 2, 0, 1, 0, "IMAGE"], [2, 2, 0, 1, 1, "INT"]]
    inputs = convert(file(nodes, links))["1"]["inputs"]
    assert inputs["model.image"] == ["2", 0]
    assert "model.size" not in inputs, "the input of another choice"


def test_inputs_that_grow():
    slots = [(f"many.image{n}", "IMAGE", 1 if n != 2 else None) for n in range(4)]
    nodes = [node(1, "Grow", [], slots), node(2, "LoadImage", ["a.png"], outputs=["IMAGE"])]
    inputs = convert(file(nodes, [[1, 2, 0, 1, 0, "IMAGE"]]))["1"]["inputs"]
    assert inputs == {f"many.image{n}": ["2", 0] for n in (0, 1, 3)}


def test_values_that_the_page_makes():
    assert inputs_of("Compare", [])["view"] == {"__value__": ["", ""]}
    assert inputs_of("Record", ["", "", 0.5]) == {"audio": "", "gain": 0.5}
    state = {"position": {"x": 1, "y": 2, "z": 3}}
    moved = inputs_of("View", ["", 64], properties={"Camera Config": {"state": state}})
    assert moved["width"] == 64 and moved["state"]["camera_info"] == state
    assert inputs_of("View", ["", 64])["state"]["camera_info"]["fov"] == 35
    with pytest.raises(UserError, match=r"node 1 \(Load3D\), input image: a picture that only"):
        inputs_of("Load3D", ["", 64])


def test_widgets_of_the_page_code_of_packs():
    definitions = {
        "Power Lora Loader (rgthree)": {"input": {"required": {}}},
        "Other": {"input": {"required": {"a": ("INT", {})}}, "python_module": "custom_nodes.x"},
    }
    lora = {"on": True, "lora": "x.safetensors", "strength": 1}
    values = [{}, {"type": "Header"}, lora, {}, ""]
    graph = to_graph(file([node(1, "Power Lora Loader (rgthree)", values)]), definitions, "f")
    assert graph["1"]["inputs"] == {"lora_1": lora}
    with pytest.raises(UserError, match=r"f: node 1 \(Other\) holds values that only its page"):
        to_graph(file([node(1, "Other", [5, {"more": 1}])]), definitions, "f")
    assert to_graph(file([node(1, "Other", [5, {}])]), definitions, "f")["1"]["inputs"] == {"a": 5}


def test_a_custom_combo_has_the_texts_that_the_file_holds():
    inputs = inputs_of("CustomCombo", ["b", 1, "a", "b", ""])
    expected = {"choice": "b", "index": 1, "option1": "a", "option2": "b", "option3": ""}
    assert inputs == expected


@pytest.mark.parametrize(
    ("value", "kind", "options", "expected"),
    [
        (1000, "INT", {"step": 16}, 1008),
        (1000, "INT", {}, 1000),
        (3.4, "INT", {}, 3),
        (13, "INT", {"step": 8, "min": 1}, 17),
        (0.123, "FLOAT", {"step": 0.1}, 0.1),
        (0.123, "FLOAT", {"step": 0.01, "round": 0.001}, 0.12),
        (5.5, "FLOAT", {"step": 0.1, "max": 1}, 1),
        (0.3, "FLOAT", {"step": 1}, 0.3),
        ("x", "INT", {}, "x"),
        (True, "INT", {}, True),
    ],
)
def test_numbers_in_the_steps_of_a_widget(value, kind, options, expected):
    assert rounded(value, kind, options) == pytest.approx(expected) or value == expected


def test_the_example_classes_have_the_inputs_that_tests_name():
    assert set(DEFINITIONS["Choose"]["input"]["required"]) == {"model", "seed"}
