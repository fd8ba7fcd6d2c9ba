"""Which inputs of a graph the fields of a request set: recognised in the templates, or told."""

from __future__ import annotations

import json

import pytest
from paths import ROOT

from teacache.errors import UserError
from teacache.workflows.definitions import NodeKind
from teacache.workflows.fields import graph_fields, parse_map, unaffected

TYPES = {"text": "STRING", "prompt": "STRING", "seed": "INT", "steps": "INT", "cfg": "FLOAT"}


def template(name):
    return json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())


def kind(class_type):
    """A stand-in for a loaded ComfyUI: every class has the inputs that the tests name."""
    return NodeKind(TYPES, ("IMAGE",))


def fields_of(graph, told=(), picture=None):
    saved = next(node for node in graph.values() if node["class_type"] == "SaveImage")
    link = picture or saved["inputs"]["images"]
    return graph_fields(graph, link, parse_map(graph, told), kind)


def test_the_quick_start():
    fields = fields_of(template("quickstart"))
    assert dict(fields.inputs) == {
        "prompt": (("4", "text"),),
        "negative_prompt": (("5", "text"),),
        "seed": (("7", "seed"),),
        "width": (("6", "width"),),
        "height": (("6", "height"),),
        "n": (("6", "batch_size"),),
        "num_inference_steps": (("7", "steps"),),
        "guidance_scale": (("7", "cfg"),),
    }
    assert "image" not in fields and "prompt" in fields


def test_the_guidance_of_flux_goes_before_cfg():
    graph = template("flux1_dev")
    (place,) = fields_of(graph).inputs["guidance_scale"]
    assert graph[place[0]]["class_type"] == "FluxGuidance" and place[1] == "guidance"


def test_the_picture_of_an_edit():
    graph = template("qwen_image_edit")
    fields = fields_of(graph)
    (place,) = fields.inputs["image"]
    assert graph[place[0]]["class_type"] == "LoadImage" and "prompt" in fields


def test_a_pipeline_in_a_graph():
    graph = template("diffusers_text_to_image")
    fields = fields_of(graph)
    sampler = next(n for n in graph if graph[n]["class_type"] == "DiffusionPipelineSampler")
    for field, name in (
        ("prompt", "prompt"),
        ("negative_prompt", "negative_prompt"),
        ("num_inference_steps", "steps"),
        ("guidance_scale", "guidance"),
        ("width", "width"),
        ("seed", "seed"),
    ):
        assert fields.inputs[field] == ((sampler, name),)


def test_what_is_told_goes_before_what_is_recognised():
    graph = template("quickstart")
    fields = fields_of(graph, ["prompt=Negative prompt.text", "seed=7.seed"])
    assert fields.inputs["prompt"] == (("5", "text"),)
    assert fields.inputs["seed"] == (("7", "seed"),)
    both = fields_of(graph, ["prompt=Prompt.text", "prompt=Negative prompt.text"])
    assert both.inputs["prompt"] == (("4", "text"), ("5", "text"))


def test_values_are_put_into_the_graph():
    graph = template("quickstart")
    fields = fields_of(graph)
    fields.put(graph, {"prompt": "dog", "seed": 0, "width": None, "image": "x"})
    assert graph["4"]["inputs"]["text"] == "dog" and graph["7"]["inputs"]["seed"] == 0
    assert graph["6"]["inputs"]["width"] == 128
    assert fields.describe(graph)[0] == "prompt: 4 (CLIPTextEncode, 'Prompt').text"


def test_loaders_stay_as_they_are():
    graph = template("quickstart")
    assert unaffected(graph, fields_of(graph).nodes()) == ["1", "2", "3", "8"]


def test_two_samplers_in_turn_must_be_told():
    graph = template("diffusers_image_edit")
    with pytest.raises(UserError, match=r"these are possible: 3 .*, 4 "):
        fields_of(graph)
    fields = graph_fields(
        graph, ["4", 0], parse_map(graph, ["prompt=Edit.prompt"]), lambda name: NodeKind(TYPES, ())
    )
    assert fields.inputs["prompt"] == (("4", "prompt"),)
    assert "num_inference_steps" not in fields and len(fields.inputs["seed"]) == 2


def test_several_texts_must_be_told():
    graph = template("quickstart")
    graph["11"] = {
        "class_type": "ConditioningConcat",
        "inputs": {"conditioning_to": ["4", 0], "conditioning_from": ["5", 0]},
    }
    graph["7"]["inputs"]["positive"] = ["11", 0]
    with pytest.raises(UserError, match=r"the prompt must be one text.*--map prompt=NODE.INPUT"):
        fields_of(graph)
    assert fields_of(graph, ["prompt=Prompt.text"]).inputs["prompt"] == (("4", "text"),)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("prompt", "write FIELD=NODE.INPUT"),
        ("prompt=Prompt", "write FIELD=NODE.INPUT"),
        ("prompt=.text", "write FIELD=NODE.INPUT"),
        ("promt=Prompt.text", "did you mean 'prompt'"),
        ("prompt=Promt.text", "did you mean 'Prompt'"),
        ("prompt=Prompt.texts", "has no input 'texts'; did you mean 'text'"),
        ("seed=Prompt.text", "is of type STRING; it must be INT"),
        ("prompt=Save.text", "the pictures do not depend on it"),
    ],
)
def test_a_map_that_is_wrong(argument, message):
    with pytest.raises(UserError) as refused:
        fields_of(template("quickstart"), [argument])
    assert str(refused.value).startswith("--map ") and message in str(refused.value)
