"""Apply TeaCache (WanVideo): where it is offered, and what it says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import wan_video
from node_calls import prepared

NODE = "ApplyTeaCacheWanVideo"


def offered(pack: ModuleType) -> dict[str, Any]:
    """The nodes that ComfyUI gets from the pack, by their ids."""
    extension = import_module(f"{pack.__name__}.nodes").TeaCacheExtension()
    return {kind.GET_SCHEMA().node_id: kind for kind in asyncio.run(extension.get_node_list())}


@pytest.fixture
def wan_pack(pack: ModuleType) -> Iterator[None]:
    """The stand-in and our node are loaded."""
    import nodes

    with wan_video.pack_loaded():
        nodes.NODE_CLASS_MAPPINGS[NODE] = offered(pack)[NODE]
        yield


@pytest.fixture
def node(wan_pack: None, server: Any) -> Callable[..., tuple[Any, list[str]]]:
    """Calls a node as ComfyUI does: (class id, inputs) -> (outputs, lines shown)."""

    def call(class_id: str, **inputs: Any) -> tuple[Any, list[str]]:
        before = len(server.sent)
        out = prepared(class_id).EXECUTE_NORMALIZED(**inputs)
        lines = [data["text"] for event, data in server.sent[before:] if event == "text"]
        return out.result, lines

    return call


def test_without_the_pack_there_is_no_node(pack: ModuleType) -> None:
    import nodes

    assert NODE not in nodes.NODE_CLASS_MAPPINGS
    assert NODE not in offered(pack) and "ApplyTeaCache" in offered(pack)


def test_a_pack_that_is_loaded_before_ours(pack: ModuleType, wan_pack: None) -> None:
    assert NODE in offered(pack)


def test_a_pack_that_is_loaded_after_ours(
    pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies in a folder of custom nodes, whatever it is called there."""
    import comfy.cli_args
    import folder_paths

    folders = folder_paths.folder_names_and_paths["custom_nodes"]
    missing = str(tmp_path / "missing")
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "custom_nodes", ([missing, str(tmp_path)], folders[1])
    )
    (tmp_path / "a file.py").touch()
    assert NODE not in offered(pack)
    module = tmp_path / "my-wan" / "wanvideo" / "modules" / "model.py"
    module.parent.mkdir(parents=True)
    module.touch()
    assert NODE in offered(pack)
    args = comfy.cli_args.args
    monkeypatch.setattr(args, "disable_all_custom_nodes", True)
    assert NODE not in offered(pack)
    monkeypatch.setattr(args, "whitelist_custom_nodes", ["my-wan"])
    assert NODE in offered(pack)
    (tmp_path / "my-wan").rename(tmp_path / "my-wan.disabled")
    monkeypatch.setattr(args, "disable_all_custom_nodes", False)
    assert NODE not in offered(pack)


def test_it_says_what_it_does_and_the_report_knows_the_run(node: Any) -> None:
    model = wan_video.model()
    (cached,), lines = node(NODE, model=model)
    assert lines == ["Wan (WanVideoWrapper) · forecast · threshold 0.2 (recommended)"]
    samples = wan_video.sample(cached)
    (picture, text), _ = node("TeaCacheReport", latent={"samples": samples}, model=cached)
    report = json.loads(text)
    assert (report["steps"], report["family_name"]) == (20, "Wan (WanVideoWrapper)")
    assert report["skipped"] > 5 and picture.ndim == 4
    _, lines = node(NODE, model=cached)
    assert lines[0].endswith("It replaces an earlier Apply TeaCache on this model.")


def test_a_loras_clone_keeps_the_cache(node: Any) -> None:
    (cached,), _ = node(NODE, model=wan_video.model())
    expected = wan_video.sample(cached)
    wan_video.sample(cached.clone())
    (_, text), _ = node("TeaCacheReport", latent={"samples": expected}, model=cached.clone())
    assert json.loads(text)["skipped"] > 5


def test_another_model_is_left_as_it_is(node: Any) -> None:
    import torch

    model = wan_video.model()
    model.model.diffusion_model = torch.nn.Linear(1, 1)
    _, lines = node(NODE, model=model)
    assert lines == [
        "The model is not one that WanVideoWrapper's loader and sampler share: it is left as it is."
    ]


def test_the_preset_learn_is_not_offered(pack: ModuleType, wan_pack: None) -> None:
    inputs = offered(pack)[NODE].INPUT_TYPES()
    presets = inputs["optional"]["preset"][1]["options"]
    assert "balanced" in presets and "2.0x" in presets and "learn" not in presets


def test_the_report_takes_both_kinds_of_models(pack: ModuleType, wan_pack: None) -> None:
    report = import_module(f"{pack.__name__}.nodes.report").TeaCacheReport
    (model,) = [each for each in report.define_schema().inputs if each.id == "model"]
    assert model.get_io_type() == "MODEL,WANVIDEOMODEL"
