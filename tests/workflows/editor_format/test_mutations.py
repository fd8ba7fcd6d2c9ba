"""Damaged files of the editor become a graph or one line, whatever is damaged."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest
from editor_files import DEFINITIONS, example, file, node, sampling_subgraph, with_subgraph
from mutations import mutated
from paths import ROOT

from teacache.errors import UserError
from teacache.workflows.editor_format import to_graph
from teacache.workflows.graph import as_graph, is_editor_format

LONG = "TEACACHE_LONG" in os.environ
PACKAGES = (
    "comfyui_workflow_templates_media_image",
    "comfyui_workflow_templates_media_other",
    "comfyui_workflow_templates_media_video",
    "comfyui_workflow_templates_json",
)
REPLACEMENTS = {"x": [{"new_node_id": "Patch", "old_widget_ids": ["much"]}]}


def groups() -> dict[str, Any]:
    group = sampling_subgraph() | {"links": [[0, 0, 1, 0, 1, "MODEL"]]}
    return file(
        [
            node(1, "workflow>x", [0.5, "x", 3, "fixed", 4, "text"]),
            node(2, "CustomCombo", ["a", 0, "a", ""]),
            node(3, "Choose", ["large", 2.5, "y", 3, "fixed"], widgets_values_named={"seed": 1}),
            node(4, "x", [0.5], [("model", "MODEL", None)], ["MODEL"]),
        ],
        extra={"groupNodes": {"x": group}},
    )


SMALL = (
    example(),
    with_subgraph([30, 0.5], properties={"proxyWidgets": [["-1", "steps"], ["4", "much"]]}),
    groups(),
    json.loads((ROOT / "workflows" / "quickstart.json").read_text(encoding="utf-8")),
)


def real_files() -> list[dict[str, Any]]:
    """The editor's templates that are installed; none unless the long tests are asked for."""
    specs = [importlib.util.find_spec(name) for name in PACKAGES] if LONG else []
    folders = [Path(spec.origin).parent for spec in specs if spec and spec.origin]
    texts = [path.read_text("utf-8") for folder in folders for path in folder.rglob("*.json")]
    files = [json.loads(text) for text in texts if len(text) < 150_000]
    return [data for data in files if isinstance(data, dict) and is_editor_format(data)]


def definitions_of(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Classes with the sockets and widgets that the nodes of a sound file have."""
    known: dict[str, dict[str, Any]] = dict(DEFINITIONS)
    subgraphs = (data.get("definitions") or {}).get("subgraphs") or []
    for scene in (data, *subgraphs):
        for entry in scene["nodes"]:
            slots = {slot["name"]: (slot["type"], {}) for slot in entry.get("inputs") or []}
            outputs = [slot["type"] for slot in entry.get("outputs") or []]
            known.setdefault(entry["type"], {"input": {"required": slots}, "output": outputs})
    for page_only in ("Reroute", "PrimitiveNode", "Note", "MarkdownNote", "workflow>x", "x"):
        known.pop(page_only, None)
    return {name: kind for name, kind in known.items() if name not in {s["id"] for s in subgraphs}}


@pytest.mark.parametrize("seed", range(20))
def test_damage_is_told_in_one_line(seed):
    random, files = Random(seed), [*SMALL, *real_files()]
    told = converted = 0
    for _ in range(500 if LONG else 25):
        data = random.choice(files)
        damaged = mutated(data, random)
        if not is_editor_format(damaged):
            continue
        try:
            graph = to_graph(damaged, definitions_of(data), "file.json", REPLACEMENTS)
            as_graph(graph, "file.json")
            converted += 1
        except UserError as error:
            assert str(error).startswith("file.json: ") and "\n" not in str(error)
            told += 1
    assert told and converted
