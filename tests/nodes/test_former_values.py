"""Graphs that were saved with values which were removed since go on running, and say so."""

from __future__ import annotations

import asyncio
import json
import logging
from types import ModuleType
from typing import Any

import pytest
import tiny_models
import torch
from node_calls import prepared
from paths import ROOT
from sampling import sample

from teacache.config import FORMER_VALUES

FORMER = [(name, value) for name, values in FORMER_VALUES.items() for value in values]
former = pytest.mark.parametrize(("name", "value"), FORMER)
APPLY = ("ApplyTeaCache", "ApplyTeaCacheDiffusers")


def note(name: str, value: str) -> str:
    return f"{name}={value} was removed: {name}=auto is used in its place."


def removed(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of values that were removed."""
    return [message for message in caplog.messages if "was removed" in message]


@pytest.fixture
def node(pack: ModuleType, server: Any) -> Any:
    """Calls a node of the pack as ComfyUI does: (class id, inputs) -> (output, what it shows)."""

    def call(class_id: str, **inputs: Any) -> tuple[Any, dict[str, Any]]:
        (out,) = prepared(class_id).EXECUTE_NORMALIZED(**inputs).result
        ready = [data for event, data in server.sent if event == "teacache.ready"]
        return out, ready[-1] if ready else {}

    return call


@former
def test_a_model_is_cached_with_auto_in_its_place(
    node: Any, comfy: Any, name: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_models.build("sd3")
    today, shown_today = node("ApplyTeaCache", model=model, mode="faithful")
    with caplog.at_level(logging.WARNING, "teacache"):
        saved, shown = node("ApplyTeaCache", model=model, mode="faithful", **{name: value})
    assert shown == {**shown, "line": shown_today["line"], "notes": [note(name, value)]}
    assert removed(caplog) == [f"TeaCache: {note(name, value)}"]
    assert shown_today["notes"] == []
    assert torch.equal(sample(saved, "sd3", steps=8), sample(today, "sd3", steps=8))


@former
def test_a_pipeline_is_cached_with_auto_in_its_place(
    node: Any, name: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("diffusers")
    pipeline, _ = node("LoadDiffusionPipeline", pipeline="TeaCache demo model")
    today, shown_today = node("ApplyTeaCacheDiffusers", pipeline=pipeline, max_skip=3)
    with caplog.at_level(logging.WARNING, "teacache"):
        saved, shown = node(
            "ApplyTeaCacheDiffusers", pipeline=pipeline, max_skip=3, **{name: value}
        )
    assert shown["line"] == shown_today["line"] and shown["notes"] == [note(name, value)]
    assert removed(caplog) == [f"TeaCache: {note(name, value)}"]
    assert saved.cache == today.cache


@former
def test_a_queued_graph_is_not_refused(
    pack: ModuleType, server: Any, name: str, value: str
) -> None:
    """By ComfyUI's own check, which leaves the menus of widgets to the node where it has one."""
    import execution

    graph = json.loads((ROOT / "workflows" / "api" / "quickstart.json").read_text())
    (size,) = [each for each in graph.values() if each["class_type"] == "EmptySD3LatentImage"]
    size["class_type"] = "EmptyLatentImage"  # a core node: the extra ones may not be loaded
    (apply,) = [each for each in graph.values() if each["class_type"] == "ApplyTeaCache"]
    apply["inputs"][name] = value
    valid, _, _, errors = asyncio.run(execution.validate_prompt("a", graph, None))
    assert (valid, errors) == (True, {})
    apply["inputs"][name] = "unheard-of"
    valid, _, _, errors = asyncio.run(execution.validate_prompt("b", graph, None))
    assert not valid and f"{name} must be one of auto" in json.dumps(errors)


@pytest.mark.parametrize("class_id", APPLY)
@former
def test_what_was_removed_is_accepted_and_no_longer_offered(
    pack: ModuleType, class_id: str, name: str, value: str
) -> None:
    import nodes

    kind = nodes.NODE_CLASS_MAPPINGS[class_id]
    assert kind.validate_inputs(**{name: value}) is True
    _, options = kind.INPUT_TYPES()["optional"][name]
    assert value not in options["options"] and value not in options["tooltip"]
