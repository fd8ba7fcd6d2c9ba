"""The quickstart through a real ComfyUI server: prompt in, progress and events out, image back."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from comfy_server import ROOT, Server, serving
from PIL import Image

STEPS = 12


@pytest.fixture(scope="module")
def server(comfy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(comfy_dir, tmp_path_factory.mktemp("comfyui")) as running:
        yield running


def quickstart(**apply: Any) -> dict[str, Any]:
    graph = json.loads((ROOT / "workflows" / "api" / "quickstart.json").read_text())
    by_class = {node["class_type"]: node["inputs"] for node in graph.values()}
    by_class["KSampler"]["steps"] = STEPS
    by_class["ApplyTeaCache"].update(apply)
    return graph


async def run(server: Server, graph: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(websocket messages, history entry) of one prompt."""
    messages: list[dict[str, Any]] = []
    async with aiohttp.ClientSession(server.url) as session:
        async with session.ws_connect("/ws?clientId=test") as socket:
            prompt = {"prompt": graph, "client_id": "test"}
            async with session.post("/prompt", json=prompt) as answer:
                queued = await answer.json()
                assert answer.status == 200, queued
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                event = json.loads(message.data)
                messages.append(event)
                if event["type"] in ("execution_success", "execution_error"):
                    break
        return messages, await _history(session, queued["prompt_id"])


async def _history(session: aiohttp.ClientSession, prompt_id: str) -> dict[str, Any]:
    """The prompt's entry, which the server writes shortly after the last event."""
    for _ in range(50):
        async with session.get(f"/history/{prompt_id}") as answer:
            entries = await answer.json()
        if prompt_id in entries:
            return entries[prompt_id]
        await asyncio.sleep(0.1)
    raise AssertionError("the server kept no history of the prompt")


async def test_the_pack_loads_without_a_warning(server: Server) -> None:
    log = server.log.read_text()
    assert "teacache" in log.lower(), "ComfyUI did not list the pack"
    about_us = [line for line in log.splitlines() if "custom_nodes/teacache" in line]
    assert about_us, "ComfyUI did not list the pack's import"
    assert not [line for line in about_us if "FAILED" in line or "WARNING" in line]
    assert "comfy_entrypoint" not in log
    async with (
        aiohttp.ClientSession(server.url) as session,
        session.get("/object_info/ApplyTeaCache") as answer,
    ):
        info = (await answer.json())["ApplyTeaCache"]
    widgets = info["input"]["required"]
    assert widgets["rel_l1_thresh"][1]["default"] == 0.2
    assert all("tooltip" in options[1] for options in widgets.values())
    assert {name for name, options in widgets.items() if options[1].get("advanced")} == {
        "auto_threshold", "max_skip", "cache_device", "profile",
    }  # fmt: skip


async def test_quickstart(server: Server) -> None:
    messages, history = await run(server, quickstart())
    assert history["status"]["status_str"] == "success"
    kinds = [message["type"] for message in messages]
    assert kinds.count("teacache.step") == STEPS
    assert (
        kinds.index("teacache.start") < kinds.index("teacache.step") < kinds.index("teacache.end")
    )
    end = next(message["data"] for message in messages if message["type"] == "teacache.end")
    assert end["node"] == "2"
    report = end["report"]
    assert report["computed"] + report["skipped"] == STEPS
    progress = [m["data"] for m in messages if m["type"] == "progress" and m["data"]["node"] == "7"]
    values = [p["value"] for p in progress]  # newer ComfyUI leaves out what comes too soon
    assert values == sorted(set(values)) and values[-1] == STEPS and len(values) > 1
    image = history["outputs"]["10"]["images"][0]
    query = f"/view?filename={image['filename']}&type={image['type']}&subfolder="
    async with (
        aiohttp.ClientSession(server.url) as session,
        session.get(query) as answer,
    ):
        picture = Image.open(io.BytesIO(await answer.read()))
    assert picture.size == (128, 128)
    assert "TeaCache: " in server.log.read_text()


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"rel_l1_thresh": -1.0}, "rel_l1_thresh"),
        ({"rel_l1_thresh": "much"}, "rel_l1_thresh"),
        ({"profile": "flux-dev"}, "unknown profile 'flux-dev'; did you mean 'flux1-dev'"),
        ({"cache_device": "gpu"}, "cache_device must be one of auto, device, cpu, not 'gpu'"),
        (
            {"start_percent": 0.8, "end_percent": 0.2},
            "start_percent must be below end_percent, not 0.8 with end_percent 0.2",
        ),
    ],
)
async def test_bad_values_are_refused_before_anything_runs(
    server: Server, values: dict[str, Any], line: str
) -> None:
    async with (
        aiohttp.ClientSession(server.url) as session,
        session.post("/prompt", json={"prompt": quickstart(**values)}) as answer,
    ):
        assert answer.status == 400
        assert line in json.dumps((await answer.json())["node_errors"]["2"])


async def test_a_profile_of_another_family_is_one_line(server: Server) -> None:
    messages, history = await run(server, quickstart(profile="flux1-dev"))
    assert history["status"]["status_str"] == "error"
    error = next(m["data"] for m in messages if m["type"] == "execution_error")
    assert error["exception_message"].strip() == (
        "profile 'flux1-dev' is made for the family 'flux1', but this model is 'sd3'; choose auto"
    )
    assert not [m for m in messages if m["type"] == "progress"], "sampling had started"
