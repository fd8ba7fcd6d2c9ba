"""The server object of headless runs: ComfyUI's own, with packs that use it, and no server."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

CORE = (
    "nodes.py",
    "execution.py",
    "latent_preview.py",
    "comfy",
    "comfy_extras",
    "comfy_api",
    "comfy_api_nodes",
    "comfy_execution",
    "app",
    "api_server",
)
HOLDERS = {"server", "prompt_server", "server_instance"}
"""Names of variables and attributes that hold the server object in ComfyUI's sources."""

PACK = """
import asyncio
from aiohttp import web
from server import PromptServer

server = PromptServer.instance
READ = [server.web_root, server.number, server.supports, server.prompt_queue, server.user_manager,
        server.sockets, server.client_id, server.last_node_id, server.client_session]
done, tasks = [], []


@server.routes.get("/other_pack/route")
async def route(request):
    return web.json_response({})


server.app.router.add_get("/other_pack/direct", route)
server.app.on_startup.append(lambda app: None)


async def forever():
    try:
        await asyncio.Event().wait()
    finally:
        done.append("cancelled")


tasks.append(server.loop.create_task(forever()))
server.add_on_prompt_handler(lambda request: 1 / 0)


@server.add_on_prompt_handler
def handler(request):
    tasks.append(asyncio.get_running_loop().create_task(forever()))
    for node in request["prompt"].values():
        if node["class_type"] == "OtherPackShow":
            node["inputs"]["text"] += " handled"
    request["extra_data"]["extra_pnginfo"]["handled"] = request["client_id"]
    return request


async def answer():
    return "answered"


class Show:
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "other"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {})}, "hidden": {"info": "EXTRA_PNGINFO"}}

    def run(self, text, info):
        server = PromptServer.instance
        server.send_sync("progress", {"text": text})  # not as ComfyUI sends it
        server.send_sync("teacache.end", text)
        server.send_progress_text("text", "1")
        server.queue_updated()
        answered = asyncio.run_coroutine_threadsafe(answer(), server.loop).result(10)
        return {"ui": {"seen": [text, info.get("handled"), answered, server.last_prompt_id]}}


NODE_CLASS_MAPPINGS = {"OtherPackShow": Show}

if hasattr(server, "node_replace_manager"):
    from comfy_api.latest import io

    server.node_replace_manager.register(io.NodeReplace(
        new_node_id="OtherPackShow", old_node_id="OtherPackFormer",
        old_widget_ids=["words"], input_mapping=[{"new_id": "text", "old_id": "words"}],
    ))
"""

SCRIPT = """
import json, sys
from pathlib import Path

tree, base = sys.argv[1:]
sys.path.insert(0, tree)
import atexit
atexit.register(lambda: show())
import comfy.cli_args
comfy.cli_args.args.base_directory = base
from teacache.errors import UserError
from teacache.hosts.comfyui.headless.session import Session
import psutil

session = Session(Path(tree), Path(base) / "out", verbose=True, custom_nodes=True)
server = session.comfy.server

def seen(graph):
    try:
        session.run(graph, lambda progress: None)
    except UserError as error:
        return str(error)
    return session.executor.history_result["outputs"]["1"]["seen"]

answers = {
    "names": dir(server),
    "class": [f"{kind.__module__}.{kind.__qualname__}" for kind in type(server).__mro__],
    "routes": [route.path for route in server.routes],
    "graph": seen({"1": {"class_type": "OtherPackShow", "inputs": {"text": "a"}}}),
    "again": seen({"1": {"class_type": "OtherPackShow", "inputs": {"text": "a"}}}),
    "former": seen({"1": {"class_type": "OtherPackFormer", "inputs": {"words": "b"}}}),
    "without": seen({"1": {"class_type": "OtherPackFormer", "inputs": {}}}),
    "replaces": hasattr(server, "node_replace_manager"),
    "listening": [
        str(each.laddr) for each in psutil.Process().net_connections() if each.status == "LISTEN"
    ],
}
server.add_on_prompt_handler(lambda request: None)
answers["nothing"] = seen({"1": {"class_type": "OtherPackShow", "inputs": {"text": "a"}}})
server.on_prompt_handlers[-1] = lambda request: {"prompt": {"1": {"inputs": {}}}}
answers["no class"] = seen({"1": {"class_type": "OtherPackShow", "inputs": {"text": "a"}}})
pack = next(module for name, module in sys.modules.items() if name.endswith("other_pack"))
answers["cancelled"] = pack.done

def show():  # once the server's own `atexit` has run: that was registered later
    print(json.dumps(answers))
"""


def is_server(base: ast.expr) -> bool:
    """Whether an expression is `PromptServer.instance` or a variable that holds it."""
    if isinstance(base, ast.Name):
        return base.id in HOLDERS
    if not isinstance(base, ast.Attribute):
        return False
    owner = base.value
    named = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
    return base.attr in HOLDERS or (base.attr == "instance" and named == "PromptServer")


def attributes_used(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and is_server(node.value):
            yield node.attr


def used_by_core(tree: Path) -> dict[str, str]:
    """Every attribute of the server that ComfyUI's own nodes use, and a file that does."""
    used = {}
    for part in CORE:
        path = tree / part
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            for name in attributes_used(file.read_text(encoding="utf-8")):
                used[name] = file.relative_to(tree).as_posix()
    used.pop("PromptServer", None)  # `server` is the module there
    return used


@pytest.fixture(scope="module")
def run(comfy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a session with the other pack answered, its log, and the files that it left."""
    base = tmp_path_factory.mktemp("base")
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes" / "other_pack.py").write_text(PACK)
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", SCRIPT, str(comfy_dir), str(base)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=base,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    files = sorted(file.relative_to(base).as_posix() for file in base.rglob("*"))
    return {**json.loads(done.stdout), "log": done.stderr, "left": files}


def test_core_finds_every_attribute_that_it_uses(comfy_dir: Path, run: dict[str, Any]) -> None:
    used = used_by_core(comfy_dir)
    assert {"send_sync", "client_id", "last_node_id", "sockets_metadata"} <= used.keys()
    missing = {name: file for name, file in used.items() if name not in run["names"]}
    assert missing == {}


def test_the_search_finds_each_way_to_name_the_server() -> None:
    source = (
        "PromptServer.instance.a()\nserver.PromptServer.instance.b = 1\nself.server.c\n"
        "def f(server_instance): server_instance.d\nother.instance.e\nself.f.g\n"
    )
    assert sorted(attributes_used(source)) == ["PromptServer", "a", "b", "c", "d"]


def test_it_is_comfyuis_own_class(run: dict[str, Any]) -> None:
    assert run["class"][1:] == ["server.PromptServer", "builtins.object"]


def test_a_pack_loads_that_uses_the_server_at_import(run: dict[str, Any]) -> None:
    assert "/other_pack/route" in run["routes"] and "/ws" in run["routes"]
    assert "IMPORT FAILED" not in run["log"]


def test_prompt_handlers_change_the_graph_and_its_extra_data(run: dict[str, Any]) -> None:
    text, handled, answered, prompt_id = run["graph"]
    assert (text, handled, answered) == ("a handled", "teacache-headless", "answered")
    assert len(prompt_id) == 36
    assert run["again"][0] == "a handled", "each graph is handled once"
    assert "ZeroDivisionError" in run["log"], "the one that failed did not stop the others"


def test_a_handler_that_returns_no_graph_is_named(run: dict[str, Any]) -> None:
    assert run["nothing"] == "a prompt handler of another pack returned no workflow"
    assert run["no class"].startswith("the workflow of a pack's prompt handler: '1' is no node")


def test_replacements_of_packs_are_made(run: dict[str, Any]) -> None:
    if run["replaces"]:
        assert run["former"][0] == "b", "handlers see the graph as it was sent"
        assert "takes its input 'words', which is not set" in run["without"]
    else:
        assert "no node type 'OtherPackFormer'" in run["former"]


def test_nothing_listens_and_nothing_is_written(run: dict[str, Any]) -> None:
    assert run["listening"] == []
    strange = [name for name in run["left"] if name.startswith("user") or ".db" in name]
    assert strange == []


def test_it_ends_cleanly(run: dict[str, Any]) -> None:
    assert run["cancelled"] == ["cancelled"] * (1 + 6), "of the pack, and of each handled graph"
    for complaint in ("was destroyed", "Unclosed", "never awaited", "unclosed event loop"):
        assert complaint not in run["log"]
