"""Apply TeaCache put into files of the editor and taken out of them."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from official_templates import template, template_names
from paths import ROOT

from teacache import __version__
from teacache.config import TeaCacheConfig
from teacache.errors import UserError
from teacache.workflows.definitions import Definitions
from teacache.workflows.editor_format import to_graph
from teacache.workflows.editor_scope import Scope, box_of, get, scopes
from teacache.workflows.edits import uncached
from teacache.workflows.graph import Graph, is_link
from teacache.workflows.insertion import insert_cache
from teacache.workflows.insertion_editor import insert_into_file, remove_from_file
from teacache.workflows.model_lines import adds_cache
from teacache.workflows.selection import APPLY

CONFIG = TeaCacheConfig(rel_l1_thresh=None)
TEMPLATES = template_names()
Data = dict[str, Any]


@pytest.fixture(scope="module")
def definitions(pack: Any) -> Definitions:
    from nodes import NODE_CLASS_MAPPINGS, init_extra_nodes

    asyncio.run(init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    return {
        name: {"input": with_files(node.INPUT_TYPES()), "output": list(node.RETURN_TYPES)}
        for name, node in NODE_CLASS_MAPPINGS.items()
    }


def with_files(inputs: Data) -> Data:
    """The inputs of a class with a file in every model folder that is empty here."""
    for group in ("required", "optional"):
        for name, (kind, *rest) in inputs.get(group, {}).items():
            inputs[group][name] = (kind or ["a file"], *rest)
    return inputs


def node(number: int, kind: str, x: float, inputs: str = "", outputs: str = "MODEL") -> Data:
    return {
        "id": number, "type": kind, "pos": [x, 100], "size": [200, 100], "mode": 0,
        "inputs": [{"name": name.lower(), "type": name, "link": None} for name in inputs.split()],
        "outputs": [{"name": name, "type": name, "links": []} for name in outputs.split()],
    }  # fmt: skip


def file_of(nodes: list[Data], links: list[tuple[int, int, int, int]]) -> Data:
    """A file with the MODEL links (origin, slot, target, slot), numbered from 1."""
    by_id = {each["id"]: each for each in nodes}
    for number, (origin, slot, target, index) in enumerate(links, 1):
        by_id[origin]["outputs"][slot]["links"].append(number)
        by_id[target]["inputs"][index]["link"] = number
    return {
        "nodes": nodes,
        "links": [[number, *link, "MODEL"] for number, link in enumerate(links, 1)],
        "last_node_id": 9, "last_link_id": 20, "groups": [], "extra": {},
    }  # fmt: skip


def line() -> Data:
    """A loader, a sampler 1000 to its right, a scheduler below."""
    return file_of(
        [
            node(1, "Loader", 0),
            node(2, "KSampler", 1200, "MODEL", "LATENT"),
            node(3, "BasicScheduler", 1200.5, "MODEL", "SIGMAS") | {"pos": {"0": 1200, "1": 600}},
        ],
        [(1, 0, 2, 0), (1, 0, 3, 0)],
    )


def comparable(data: Data) -> Data:
    """The file with everything in it that means something.

    The order in which an output lists its links means nothing, and the last ids given out may
    have grown.
    """
    data = copy.deepcopy(data)
    for scope in scopes(data):
        for each in scope.nodes.values():
            for output in each.get("outputs") or []:
                output["links"] = sorted(output.get("links") or [])
        for slot in scope.data.get("inputs") or []:
            slot["linkIds"] = sorted(slot["linkIds"])
        for reroute in scope.reroutes().values():
            reroute["linkIds"] = sorted(reroute["linkIds"])
        holder = scope.data.get("state") or {}
        holder.update(lastNodeId=0, lastLinkId=0)
    data.update(last_node_id=0, last_link_id=0)
    extra = data.get("extra") or {}
    if "linkExtensions" in extra:
        extra["linkExtensions"].sort(key=lambda each: each["id"])
    return data


def applied(data: Data) -> list[tuple[Scope, Data]]:
    return [(s, each) for s in scopes(data) for each in s.nodes.values() if each["type"] in APPLY]


def unnamed_links(data: Data) -> set[tuple[str, int]]:
    """The links that are not named at both of their ends, as some files of the editor have them."""
    found = set()
    for scope in scopes(data):
        for number, link in scope.links.items():
            target = scope.nodes.get(get(link, "target_id"))
            slot = target["inputs"][get(link, "target_slot")] if target else {"link": number}
            outgoing = scope.outgoing(get(link, "origin_id"), get(link, "origin_slot"))
            if slot["link"] != number or number not in outgoing:
                found.add((scope.name, number))
    return found


def check_links(data: Data, before: Data | None = None) -> None:
    """Both ends of every link name it, but for links that they did not name before."""
    assert unnamed_links(data) <= (unnamed_links(before) if before else set())
    for scope in scopes(data):
        for reroute in scope.reroutes().values():
            origins = {get(scope.links[each], "origin_id") for each in reroute["linkIds"]}
            assert len(origins) <= 1, "the links of a reroute start at one output"


def test_the_node_is_saved_as_the_editor_saves_one(definitions: Definitions) -> None:
    data = line()
    (insertion,) = insert_into_file(data, CONFIG, definitions, "w.json").insertions
    assert str(insertion) == (
        "Apply TeaCache put in as node 10, between 1 (Loader) and 2 (KSampler)"
    )
    made = data["nodes"][-1]
    assert made["properties"] == {
        "cnr_id": "teacache-studio",
        "ver": __version__,
        "Node name for S&R": "ApplyTeaCache",
    }
    assert f'name = "{made["properties"]["cnr_id"]}"' in (ROOT / "pyproject.toml").read_text()
    assert made["inputs"][0] == {
        "localized_name": "model", "name": "model", "type": "MODEL", "link": 21,
    }  # fmt: skip
    names = [slot["name"] for slot in made["inputs"][1:]]
    assert names == [slot["widget"]["name"] for slot in made["inputs"][1:]]
    values = dict(zip(names, made["widgets_values"], strict=True))
    assert values.items() >= {"rel_l1_thresh": 0.2, "preset": "auto", "max_skip": 0}.items()
    assert data["links"] == [
        [1, 10, 0, 2, 0, "MODEL"], [2, 1, 0, 3, 0, "MODEL"], [21, 1, 0, 10, 0, "MODEL"],
    ]  # fmt: skip
    assert data["nodes"][0]["outputs"][0]["links"] == [2, 21]
    assert (data["last_node_id"], data["last_link_id"]) == (10, 21)
    x, _ = made["pos"]
    assert 200 < x < 1200 - made["size"][0], "between loader and sampler"
    check_links(data)


def test_taking_it_out_of_a_made_up_file(definitions: Definitions) -> None:
    data, before = line(), line()
    insert_into_file(data, CONFIG, definitions, "w.json")
    assert remove_from_file(data, "w.json") == ("10 (ApplyTeaCache)",)
    assert data == before | {"nodes": data["nodes"]} and comparable(data) == comparable(before)
    assert remove_from_file(data, "w.json") == ()


@pytest.mark.parametrize("mode", [2, 4])
def test_a_node_is_muted_or_bypassed_with_its_samplers(definitions: Definitions, mode: int) -> None:
    data = line()
    data["nodes"][1]["mode"] = mode
    insert_into_file(data, CONFIG, definitions, "w.json")
    assert data["nodes"][-1]["mode"] == mode


def test_a_cache_that_is_in_use_is_left_alone(definitions: Definitions) -> None:
    for kind, mode, left in (
        ("ApplyTeaCache", 4, True),
        ("EasyCache", 0, True),
        ("EasyCache", 4, False),
        ("TeaCacheReport", 0, False),
    ):
        data = line()
        data["nodes"].append(node(4, kind, 500, "MODEL", "MODEL") | {"mode": mode})
        before = copy.deepcopy(data)
        outcome = insert_into_file(data, CONFIG, definitions, "w.json")
        assert bool(outcome.present) == left == (data == before), kind


def test_a_shared_reroute_stays_with_the_link_that_stays(definitions: Definitions) -> None:
    data = line()
    data["extra"] = {
        "reroutes": [
            {"id": 1, "pos": [300, 300], "linkIds": [1, 2]},
            {"id": 2, "parentId": 1, "pos": [400, 300], "linkIds": [1]},
        ],
        "linkExtensions": [{"id": 1, "parentId": 2}, {"id": 2, "parentId": 1}],
    }
    before = copy.deepcopy(data)
    insert_into_file(data, CONFIG, definitions, "w.json")
    check_links(data)
    scope = Scope(data, data)
    assert (scope.chain(21), scope.chain(1), scope.chain(2)) == ([1], [2], [1])
    remove_from_file(data, "w.json")
    assert comparable(data) == comparable(before)


def test_a_damaged_file_is_one_line(definitions: Definitions) -> None:
    for change in (
        {"links": [[1]]},
        {"nodes": [{"id": 1}]},
        {"links": [[1, 77, 0, 2, 0, "MODEL"]]},
        {"groups": [{"bounding": "x"}]},
    ):
        with pytest.raises(UserError, match=r"^w\.json: nodes or links are damaged"):
            insert_into_file(line() | change, CONFIG, definitions, "w.json")


@pytest.mark.parametrize("name", TEMPLATES)
def test_official_templates(definitions: Definitions, name: str) -> None:
    data = template(name)
    before = copy.deepcopy(data)
    outcome = insert_into_file(data, CONFIG, definitions, name)
    check_links(data, before)
    made = applied(data)
    assert len(made) == len(outcome.insertions)
    for scope, each in made:
        others = [other for other in scope.nodes.values() if other is not each]
        assert not any(box_of(other).meets(box_of(each)) for other in others), "it covers a node"
    used = [each["type"] for scope in scopes(before) for each in scope.nodes.values()]
    sampled = any(kind.startswith(("KSampler", "SamplerCustom")) for kind in used)
    loads = any(kind in ("UNETLoader", "CheckpointLoaderSimple") for kind in used)
    if sampled and loads and "KSamplerSelect" not in used:
        assert made or any(map(adds_cache, used))
    again = copy.deepcopy(data)
    assert bool(insert_into_file(again, CONFIG, definitions, name).present) or not made
    assert again == data
    assert len(remove_from_file(data, name)) == len(made)
    assert comparable(data) == comparable(before)


@settings(max_examples=60)
@given(drawn=st.data())
def test_changed_templates(definitions: Definitions, drawn: st.DataObject) -> None:
    """Any modes, and reroutes on any links: what is put in can be taken out."""
    data = template(drawn.draw(st.sampled_from(TEMPLATES)))
    for scope in scopes(data):
        for each in scope.nodes.values():
            if drawn.draw(st.integers(0, 9)) == 0:
                each["mode"] = drawn.draw(st.sampled_from([0, 2, 4]))
    add_reroutes(data, drawn)
    before = copy.deepcopy(data)
    outcome = insert_into_file(data, CONFIG, definitions, "w.json")
    check_links(data)
    assert len(remove_from_file(data, "w.json")) == len(outcome.insertions) or outcome.present
    if not outcome.present:
        assert comparable(data) == comparable(before)


def add_reroutes(data: Data, drawn: st.DataObject) -> None:
    """Puts a tree of reroutes on the links of some outputs that models come out of."""
    scope = Scope(data, data)
    number, extra = 0, data.setdefault("extra", {})
    extra["reroutes"], extra["linkExtensions"] = [], []
    for each in scope.nodes.values():
        for output in each.get("outputs") or []:
            if output["type"] != "MODEL":
                continue
            tree: list[Data] = []
            for _ in range(drawn.draw(st.integers(0, 3))):
                number += 1
                parent = drawn.draw(st.sampled_from([None, *tree]))
                reroute = {"id": number, "pos": [0, 0], "linkIds": []}
                if parent is not None:
                    reroute["parentId"] = parent["id"]
                tree.append(reroute)
            for link in output.get("links") or []:
                last = drawn.draw(st.sampled_from([None, *tree]))
                if last is not None:
                    scope.data["extra"]["linkExtensions"].append(
                        {"id": link, "parentId": last["id"]}
                    )
                    by_id = {reroute["id"]: reroute for reroute in tree}
                    while last is not None:
                        last["linkIds"].append(link)
                        last = by_id.get(last.get("parentId"))
            extra["reroutes"] += [reroute for reroute in tree if reroute["linkIds"]]


def test_a_switch_hands_the_model_on(definitions: Definitions) -> None:
    inputs = {name: ["COMFY_MATCHTYPE_V3", {}] for name in ("on_false", "on_true")}
    switch = {"input": {"required": inputs}, "output": ["COMFY_MATCHTYPE_V3"]}
    known = {**definitions, "Switch": switch}
    nodes = [
        node(1, "Loader", 0),
        node(2, "Switch", 400, "MODEL", "MODEL"),
        node(3, "KSampler", 1200, "MODEL", "LATENT"),
    ]
    data = file_of(nodes, [(1, 0, 2, 0), (2, 0, 3, 0)])
    (insertion,) = insert_into_file(data, CONFIG, known, "w.json").insertions
    assert (insertion.source, insertion.consumers) == ("2 (Switch)", ("3 (KSampler)",))


def test_one_definition_that_is_used_twice_gets_one_node(definitions: Definitions) -> None:
    names = {"02_qwen_Image_edit_subgraphed", "image_qwen_image_edit_2509"}  # older, newer
    data = template(next(name for name in TEMPLATES if name in names))
    (subgraph,) = data["definitions"]["subgraphs"]
    (instance,) = [each for each in data["nodes"] if each["type"] == subgraph["id"]]
    data["nodes"].append(
        json.loads(json.dumps(instance)) | {"id": 200, "inputs": [], "outputs": []}
    )
    (insertion,) = insert_into_file(data, CONFIG, definitions, "w.json").insertions
    assert insertion.subgraph == subgraph["name"]
    assert f"in subgraph {subgraph['name']!r}" in str(insertion)


def through_caches(graph: Graph) -> Graph:
    """The graph without Apply TeaCache; what it was linked to is marked as cached."""
    marked = uncached(graph)
    for name, each in graph.items():
        for key, value in each["inputs"].items():
            if name in marked and is_link(value) and graph[value[0]]["class_type"] in APPLY:
                marked[name]["inputs"][key] = ["cached", marked[name]["inputs"][key]]
    return marked


def test_both_formats_get_it_in_the_same_places(definitions: Definitions) -> None:
    compared = 0
    for name in TEMPLATES:
        data = template(name)
        numbers = [number for scope in scopes(data) for number in scope.nodes]
        if len(set(numbers)) < len(numbers):
            continue  # the editor numbers such nodes anew
        try:
            graph = to_graph(copy.deepcopy(data), definitions, name)
        except UserError:
            continue
        if insert_cache(graph, CONFIG, definitions).present:
            continue
        insert_into_file(data, CONFIG, definitions, name)
        converted = to_graph(data, definitions, name)
        assert through_caches(converted) == through_caches(graph), name
        compared += 1
    assert compared > 25, compared
