"""Apply TeaCache put into graphs in API format."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from paths import ROOT

from teacache.config import TeaCacheConfig
from teacache.environment import resolve_graph_cache
from teacache.errors import UserError
from teacache.workflows.edits import uncached
from teacache.workflows.graph import Graph
from teacache.workflows.insertion import insert_cache

APPLY = {
    "required": {
        "model": ("MODEL",),
        "rel_l1_thresh": ("FLOAT", {"default": 0.2}),
        "auto_threshold": ("BOOLEAN", {"default": True}),
        "profile": (["auto", "mine"],),
    },
    "optional": {
        "mode": ("COMBO", {"options": ["forecast", "faithful"]}),
        "preset": ("COMBO", {"options": ["auto", "balanced"], "default": "auto"}),
    },
}
SAMPLER = {"model": ("MODEL",), "sampler_name": (["euler"],), "latent": ("LATENT",)}


def kind(outputs: str, **inputs: Any) -> dict[str, Any]:
    return {"input": {"required": inputs}, "output": outputs.split()}


DEFINITIONS = {
    "ApplyTeaCache": {"input": APPLY, "output": ["MODEL"]},
    "ApplyTeaCacheDiffusers": {
        "input": {"required": {"pipeline": ("DIFFUSION_PIPELINE",)}},
        "output": ["DIFFUSION_PIPELINE"],
    },
    "Load": kind("MODEL CLIP VAE", name=(["a"],)),
    "Patch": kind("MODEL", model=("MODEL",)),
    "Sampler": kind("LATENT", **SAMPLER),
    "Guider": kind("GUIDER", model=("MODEL",), positive=("CONDITIONING",)),
    "DualModelGuider": kind("GUIDER", model=("MODEL",), negative_model=("MODEL",)),
    "Scheduler": kind("SIGMAS", model=("MODEL",), steps=("INT",)),
    "AddNoise": kind("LATENT", model=("MODEL",), latent=("LATENT",)),
    "Save": kind("", model=("MODEL",)),
    "Pipe": kind("BASIC_PIPE", model=("MODEL",)),
    "SamplerThatReturnsIts": kind("MODEL LATENT", **SAMPLER),
    "Grown": kind("LATENT", models=("COMFY_AUTOGROW_V3",)),
    "TeaCacheSweep": kind("IMAGE", **SAMPLER),
    "LoadPipeline": kind("DIFFUSION_PIPELINE", name=(["a"],)),
    "PipelineSampler": kind("IMAGE", pipeline=("DIFFUSION_PIPELINE",)),
}
CONFIG = TeaCacheConfig(rel_l1_thresh=None)


def test_a_report_reads_the_model_with_its_cache() -> None:
    graph = {
        "1": {"class_type": "Load", "inputs": {}},
        "2": {"class_type": "Sampler", "inputs": {"model": ["1", 0]}},
        "3": {"class_type": "TeaCacheReport", "inputs": {"model": ["1", 0], "latent": ["2", 0]}},
    }
    report = kind("IMAGE STRING", model=("MODEL",), latent=("LATENT",))
    insert_cache(graph, CONFIG, {**DEFINITIONS, "TeaCacheReport": report})
    assert graph["2"]["inputs"]["model"] == graph["3"]["inputs"]["model"] != ["1", 0]


def graph_of(**nodes: tuple[str, dict[str, Any]]) -> Graph:
    return {
        name.strip("_").replace("_", ":"): {"class_type": kind, "inputs": inputs}
        for name, (kind, inputs) in nodes.items()
    }


def links(graph: Graph, node: str) -> dict[str, Any]:
    return {name: v for name, v in graph[node]["inputs"].items() if isinstance(v, list)}


def test_one_node_before_all_samplers_of_a_model_and_none_before_the_others() -> None:
    graph = graph_of(
        _1=("Load", {"name": "a"}),
        _2=("Patch", {"model": ["1", 0]}),
        _3=("Sampler", {"model": ["2", 0]}),
        _4=("Guider", {"model": ["2", 0]}),
        _5=("Scheduler", {"model": ["2", 0], "steps": 4}),
        _6=("AddNoise", {"model": ["2", 0]}),
        _7=("Save", {"model": ["2", 0]}),
        _8=("TeaCacheSweep", {"model": ["2", 0]}),
    )
    before = copy.deepcopy(graph)
    outcome = insert_cache(graph, CONFIG, DEFINITIONS)
    assert graph.pop("9") == {
        "class_type": "ApplyTeaCache",
        "inputs": {
            "model": ["2", 0],
            "rel_l1_thresh": 0.2,
            "auto_threshold": True,
            "profile": "auto",
            "mode": "forecast",
            "preset": "auto",
        },
        "_meta": {"title": "Apply TeaCache"},
    }
    assert links(graph, "3") == links(graph, "4") == {"model": ["9", 0]}
    for node in ("1", "2", "5", "6", "7", "8"):
        assert graph[node] == before[node]
    assert outcome.lines() == [
        "Apply TeaCache put in as node 9, between 2 (Patch) and 3 (Sampler), 4 (Guider)"
    ]


def test_every_distinct_model_has_its_node() -> None:
    graph = graph_of(
        _1=("Load", {}),
        _2_7=("Load", {}),
        _3=("DualModelGuider", {"model": ["1", 0], "negative_model": ["2:7", 0]}),
        _4=("Pipe", {"model": ["2:7", 0]}),
        _116_104=("Grown", {"models.model0": ["1", 0], "models.model1": ["2:7", 0]}),
    )
    outcome = insert_cache(graph, CONFIG, DEFINITIONS)
    assert [insertion.node for insertion in outcome.insertions] == ["117", "118"]
    assert links(graph, "117") == {"model": ["1", 0]}
    assert links(graph, "118") == {"model": ["2:7", 0]}
    assert links(graph, "3") == {"model": ["117", 0], "negative_model": ["118", 0]}
    assert links(graph, "4") == {"model": ["118", 0]}
    assert links(graph, "116:104") == {"models.model0": ["117", 0], "models.model1": ["118", 0]}


def test_a_model_that_a_sampler_returns_is_cached_once() -> None:
    graph = graph_of(
        _1=("Load", {}),
        _2=("SamplerThatReturnsIts", {"model": ["1", 0]}),
        _3=("Patch", {"model": ["2", 0]}),
        _4=("Sampler", {"model": ["3", 0]}),
    )
    (insertion,) = insert_cache(graph, CONFIG, DEFINITIONS).insertions
    assert insertion.consumers == ("2 (SamplerThatReturnsIts)",)
    assert links(graph, "4") == {"model": ["3", 0]}


def test_a_pipeline() -> None:
    graph = graph_of(_1=("LoadPipeline", {}), _2=("PipelineSampler", {"pipeline": ["1", 0]}))
    (insertion,) = insert_cache(graph, CONFIG, DEFINITIONS).insertions
    assert insertion.class_type == graph["3"]["class_type"] == "ApplyTeaCacheDiffusers"
    assert graph["3"]["inputs"] == {"pipeline": ["1", 0]}
    assert links(graph, "2") == {"pipeline": ["3", 0]}


def test_a_graph_that_has_one_is_left_as_it_is() -> None:
    graph = graph_of(
        _1=("Load", {}),
        _2=("ApplyTeaCache", {"model": ["1", 0]}),
        _3=("Sampler", {"model": ["2", 0]}),
        _4=("Sampler", {"model": ["1", 0]}),
    )
    before = copy.deepcopy(graph)
    outcome = insert_cache(graph, CONFIG, DEFINITIONS)
    assert graph == before and outcome.insertions == ()
    assert outcome.lines() == ["the workflow has its cache and is left as it is: 2 (ApplyTeaCache)"]


@pytest.mark.parametrize("other", ["TeaCache", "EasyCache", "ApplyFBCacheOnModel", "Cache-DiT"])
def test_a_graph_with_another_packs_cache_is_left_as_it_is(other: str) -> None:
    graph = graph_of(
        _1=("Load", {}), _2=(other, {"model": ["1", 0]}), _3=("Sampler", {"model": ["2", 0]})
    )
    outcome = insert_cache(graph, CONFIG, DEFINITIONS)
    assert outcome.present == (f"2 ({other})",) and len(graph) == 3


def test_without_a_sampled_model_nothing_is_put_in() -> None:
    graph = graph_of(_1=("Load", {}), _2=("Save", {"model": ["1", 0]}), _3=("Unknown", {}))
    before = copy.deepcopy(graph)
    assert not insert_cache(graph, CONFIG, DEFINITIONS) and graph == before


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", {"rel_l1_thresh": 0.2, "auto_threshold": True, "preset": "auto"}),
        ("0.2", {"rel_l1_thresh": 0.2, "auto_threshold": False, "preset": "auto"}),
        ("2.0x", {"auto_threshold": True, "preset": "2.0x"}),
        ("balanced", {"preset": "balanced"}),
        ('{"mode": "faithful", "rel_l1_thresh": 1}', {"mode": "faithful", "rel_l1_thresh": 1}),
    ],
)
def test_what_cache_stands_for(given: str, expected: dict[str, Any]) -> None:
    graph = graph_of(_1=("Load", {}), _2=("Sampler", {"model": ["1", 0]}))
    config = resolve_graph_cache({}, given)
    assert config is not None
    insert_cache(graph, config, DEFINITIONS)
    assert graph["3"]["inputs"].items() >= expected.items()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("0.2.1", "--cache: must be a threshold such as 0.2, a speed-up such as 2.0x, one of auto"),
        ("-1", "--cache: rel_l1_thresh must be a number from 0 to 100, not -1"),
        ("nan", "--cache: rel_l1_thresh must be a number from 0 to 100"),
        ("99x", "--cache: preset must be one of "),
        ("{", "--cache: not JSON"),
        ('{"thresh": 1}', "unknown setting 'thresh'; did you mean 'rel_l1_thresh'? Known: rel_l1"),
        ('{"coefficients": [1, 0]}', "--cache: coefficients are no setting of the node"),
    ],
)
def test_what_cache_refuses(given: str, line: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve_graph_cache({}, given)
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_the_environment_asks_for_the_same() -> None:
    tea = {"DIFFUSION_CACHE_BACKEND": "tea_cache"}
    assert resolve_graph_cache(tea, None) == resolve_graph_cache({}, "") == CONFIG
    settings = tea | {"DIFFUSION_CACHE_CONFIG": '{"preset": "fast"}'}
    assert resolve_graph_cache(settings, None) == resolve_graph_cache({}, "fast")
    assert resolve_graph_cache(settings, "0.3") == resolve_graph_cache({}, "0.3")
    for value in ("none", ""):
        assert resolve_graph_cache({"DIFFUSION_CACHE_BACKEND": value}, None) is None
    with pytest.raises(UserError, match=r"unknown backend 'easy'.* known: tea_cache, none"):
        resolve_graph_cache({"DIFFUSION_CACHE_BACKEND": "easy"}, None)


def test_a_node_that_this_comfyui_lacks_or_knows_less_of() -> None:
    graph = graph_of(_1=("Load", {}), _2=("Sampler", {"model": ["1", 0]}))
    without = {name: entry for name, entry in DEFINITIONS.items() if name != "ApplyTeaCache"}
    with pytest.raises(UserError, match="no node type 'ApplyTeaCache' in this ComfyUI"):
        insert_cache(copy.deepcopy(graph), CONFIG, without)
    with pytest.raises(UserError, match="max_skip: Apply TeaCache has no such widget"):
        insert_cache(graph, TeaCacheConfig(rel_l1_thresh=None, max_skip=2), DEFINITIONS)


@pytest.mark.parametrize("path", sorted((ROOT / "workflows" / "api").glob("*.json")))
def test_taking_it_out_gives_the_graph_back(pack: Any, path: Any) -> None:
    from nodes import NODE_CLASS_MAPPINGS

    definitions = {
        name: {"input": node.INPUT_TYPES(), "output": list(node.RETURN_TYPES)}
        for name, node in NODE_CLASS_MAPPINGS.items()
    }
    graph = uncached(json.loads(path.read_text(encoding="utf-8")))
    changed = copy.deepcopy(graph)
    outcome = insert_cache(changed, CONFIG, definitions)
    samplers = [n for n in graph.values() if "Sampler" in n["class_type"]]
    assert bool(outcome.insertions) == bool(samplers), "calibrate.json samples by itself"
    assert uncached(changed) == graph
