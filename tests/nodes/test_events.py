"""Events of runs: to whom they are sent, and what of them is kept."""

from __future__ import annotations

import json
from importlib import import_module
from math import inf, nan
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from teacache.report import Reason, StepRecord


@pytest.fixture
def events(pack: ModuleType) -> ModuleType:
    return import_module(f"{pack.__name__}.nodes.events")


def running(server: Any, graph: Any = "g", prompt: str = "p") -> None:
    """`server` has this prompt in its queue; None for a prompt without a workflow."""
    extra = {"extra_pnginfo": {"workflow": {"id": graph}}} if graph else {"extra_pnginfo": None}
    server.prompt_queue = SimpleNamespace(
        get_current_queue_volatile=lambda: ([(0, prompt, {}, extra, [])], [])
    )


def names(run: list[Any]) -> list[str]:
    return [event for event, _ in run]


def test_of_a_run_that_has_ended_the_report_is_kept(events: ModuleType, server: Any) -> None:
    running(server)
    node = events.NodeEvents("2")
    store = events.store_of(server)
    node.ready("a line", ["a note"])
    node.send("start", {"report": {}})
    for step in range(5):
        node.send("step", {"record": {"step": step}})
    assert names(store.runs_of("g")["2"]) == ["ready", "start", *["step"] * 5]
    node.send("end", {"report": {"computed": 5}})
    run = store.runs_of("g")["2"]
    assert names(run) == ["ready", "end"] and run[1][1]["report"] == {"computed": 5}
    first = run[1][1]["began"]
    node.send("start", {"report": {}})  # a second sampler, or the next prompt
    run = store.runs_of("g")["2"]
    assert names(run) == ["ready", "start"] and run[1][1]["began"] >= first
    node.ready("another line", [])
    assert names(store.runs_of("g")["2"]) == ["ready"]
    assert {data["prompt"] for _, data in server.sent if "prompt" in data} == {"p"}
    assert [event for event, _ in server.sent if event.startswith("teacache")].count(
        "teacache.step"
    ) == 5


def test_what_is_kept_is_bounded(events: ModuleType, server: Any) -> None:
    for graph in "abc":
        running(server, graph)
        for node in range(events.KEPT_RUNS):
            events.NodeEvents(str(node)).send("end", {"report": {}})
    store = events.store_of(server)
    assert store.runs_of("a") == store.runs_of("b") == {}
    assert len(store.runs_of("c")) == events.KEPT_RUNS


@pytest.mark.parametrize("graph", [None, 7])
def test_runs_of_prompts_without_a_workflow_are_not_kept(
    events: ModuleType, server: Any, graph: Any
) -> None:
    running(server, graph)
    events.NodeEvents("2").send("end", {"report": {}})
    assert server.sent[-1][1]["graph"] is None
    assert vars(server).get(events.STORE) is None


def test_without_a_client_nothing_is_sent_and_the_run_is_kept(
    events: ModuleType, server: Any
) -> None:
    running(server)
    server.client_id = None
    events.NodeEvents("2").send("end", {"report": {}})
    assert server.sent == [] and names(events.store_of(server).runs_of("g")["2"]) == ["end"]


def test_what_is_no_number_is_null() -> None:
    for number in (nan, inf, -inf):
        record = StepRecord(0, 1.0, False, Reason.OVER_THRESHOLD, number, number, 0.1)
        data = json.loads(json.dumps(record.to_json(), allow_nan=False))
        assert data["distance"] is None and data["accumulated"] is None
    assert record.to_json()["seconds"] == 0.1
