"""A workflow file is read, checked and prepared once, as early as its format allows."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from teacache.errors import UserError
from teacache.workflows.assignments import Assignment, apply_assignments, parse_assignments
from teacache.workflows.definitions import Catalog, input_specs, input_types
from teacache.workflows.load import WorkflowFile, load_workflow

DEFINITIONS = {
    "Load": {"input": {"required": {"name": (["a", "b"],)}, "optional": {"much": ("FLOAT", {})}}},
    "Empty": {"input": {}},
}
API = {"1": {"class_type": "Load", "inputs": {"name": "b"}}}
EDITOR = {"nodes": [{"id": 1, "type": "Load", "widgets_values": ["b", 0.5]}], "links": []}


class Prepare:
    """Counts its calls and returns the values of node 1; refuses a value."""

    def __init__(self, refused: str = "") -> None:
        self.calls, self.refused = 0, refused

    def __call__(self, graph: Any, source: str) -> Any:
        self.calls += 1
        if graph["1"]["inputs"]["name"] == self.refused:
            raise UserError(f"{source}: refused")
        return graph["1"]["inputs"]


def saved(folder: Path, data: Any) -> Path:
    path = folder / "w.json"
    path.write_text(json.dumps(data))
    return path


def no_definitions() -> Any:
    raise AssertionError("the definitions are not needed")


def test_api_format_is_prepared_when_it_is_read(tmp_path: Path) -> None:
    prepare = Prepare()
    complete = load_workflow(saved(tmp_path, API), prepare)
    assert prepare.calls == 1
    assert complete(no_definitions) == {"name": "b"} and prepare.calls == 1
    with pytest.raises(UserError, match=r"w\.json: refused"):
        load_workflow(saved(tmp_path, API), Prepare(refused="b"))
    with pytest.raises(UserError, match=r"w\.json: the workflow has no nodes"):
        load_workflow(saved(tmp_path, {}), prepare)


def test_a_file_of_the_editor_is_prepared_with_the_definitions(tmp_path: Path) -> None:
    prepare = Prepare()
    complete = load_workflow(saved(tmp_path, EDITOR), prepare)
    assert prepare.calls == 0
    assert (
        complete(lambda: Catalog(DEFINITIONS)) == {"name": "b", "much": 0.5} and prepare.calls == 1
    )
    complete = load_workflow(saved(tmp_path, EDITOR), Prepare(refused="b"))
    with pytest.raises(UserError, match=r"w\.json: refused"):
        complete(lambda: Catalog(DEFINITIONS))
    unknown = {"nodes": [{"id": 1, "type": "Nope"}], "links": []}
    complete = load_workflow(saved(tmp_path, unknown), prepare)
    with pytest.raises(UserError, match=r"w\.json: node 1: no node type 'Nope'"):
        complete(lambda: Catalog(DEFINITIONS))


def test_input_types() -> None:
    inputs = DEFINITIONS["Load"]["input"]
    assert input_types(inputs) == {"name": "COMBO", "much": "FLOAT"}
    assert input_specs(inputs) == {"name": (["a", "b"], {}), "much": ("FLOAT", {})}


def types_of(class_type: str) -> dict[str, str] | None:
    known = class_type in DEFINITIONS
    return input_types(DEFINITIONS[class_type]["input"]) if known else None


def test_assignments_are_parsed_once_and_applied_in_order() -> None:
    graph = {"1": {"class_type": "Load", "inputs": {"name": "b"}}}
    assignments = parse_assignments(graph, ["1.name=a", "Load.much=1", "1.much=2"])
    assert assignments[0] == Assignment("1", "name", "a") and len(assignments) == 3
    assert graph == API
    apply_assignments(graph, assignments, types_of)
    assert graph["1"]["inputs"] == {"name": "a", "much": 2}


def test_a_node_of_the_editor_is_set_by_the_title_that_it_shows(tmp_path: Path) -> None:
    kinds = {"Load": DEFINITIONS["Load"] | {"display_name": "Load Checkpoint"}}

    def prepare(graph: Any, source: str) -> Any:
        assignments = parse_assignments(graph, ["Load Checkpoint.name=a"])
        apply_assignments(graph, assignments, types_of)
        return graph["1"]["inputs"]

    complete = load_workflow(saved(tmp_path, EDITOR), prepare)
    assert complete(lambda: Catalog(kinds)) == {"name": "a", "much": 0.5}


def test_assignments_to_unknown_and_to_empty_classes() -> None:
    graph = {
        "1": {"class_type": "Nope", "inputs": {}},
        "2": {"class_type": "Empty", "inputs": {}},
    }
    apply_assignments(graph, parse_assignments(graph, ["1.name=a"]), types_of)
    assert graph["1"]["inputs"] == {}, "the check of the graph names the unknown class"
    with pytest.raises(UserError, match=r"node 2 \(Empty\) has no input 'name'. Inputs: none"):
        apply_assignments(graph, parse_assignments(graph, ["2.name=a"]), types_of)


def test_every_process_makes_the_same_graph_of_a_file_with_dynamic_prompts(tmp_path: Path) -> None:
    prompt = "{" + "|".join(map(str, range(100))) + "}"
    node = {"id": 1, "type": "Text", "widgets_values": [prompt]}
    path = saved(tmp_path, {"nodes": [node], "links": []})
    text = {"input": {"required": {"text": ("STRING", {"dynamicPrompts": True})}}}

    def chosen(file: WorkflowFile) -> str:
        graph = file.graph(lambda: Catalog({"Text": text}))
        return str(graph["1"]["inputs"]["text"])

    files = [WorkflowFile.read(path) for _ in range(10)]
    for file in files:
        assert chosen(file) == chosen(pickle.loads(pickle.dumps(file)))
    assert len({chosen(file) for file in files}) > 1
    assert files[0].graph_here() is None


def test_a_graph_needs_no_definitions(tmp_path: Path) -> None:
    file = WorkflowFile.read(saved(tmp_path, API))
    graph = file.graph_here()
    assert graph == file.graph(no_definitions) == API
    graph["1"]["inputs"]["name"] = "a"
    assert file.graph_here() == API, "each is a copy"
