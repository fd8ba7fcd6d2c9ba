"""The real ComfyUI in this process, and the pack loaded as ComfyUI loads it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PACK = "custom_nodes.teacache_under_test"


@pytest.fixture(scope="session")
def comfy_dir() -> Path:
    """ComfyUI's tree: COMFYUI_DIR, or the one that run.py unpacks."""
    tree = Path(os.environ.get("COMFYUI_DIR", ROOT / ".comfyui"))
    assert (tree / "main.py").is_file(), (
        f"no ComfyUI in {tree}: python run.py test makes one, or set COMFYUI_DIR"
    )
    return tree


@pytest.fixture(scope="session")
def comfy(comfy_dir: Path) -> Path:
    """ComfyUI importable in this process, on the CPU."""
    sys.path.insert(0, str(comfy_dir))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    import comfy.model_management
    import utils.extra_config  # noqa: F401  (before nodes: `utils` must be ComfyUI's own)

    return comfy_dir


class RecordingServer:
    """The part of PromptServer that nodes use; remembers what was sent."""

    def __init__(self) -> None:
        self.client_id = "test"
        self.last_node_id = None
        self.sent: list[tuple[str, dict]] = []

    def send_sync(self, event: str, data: dict, sid: str | None = None) -> None:
        self.sent.append((event, data))

    def send_progress_text(self, text: str, node_id: str, sid: str | None = None) -> None:
        self.sent.append(("text", {"node": node_id, "text": text}))


@pytest.fixture(scope="session")
def pack(comfy: Path) -> ModuleType:
    """The pack, loaded by ComfyUI's own loader."""
    import server

    server.PromptServer.instance = RecordingServer()
    import nodes

    folder = ROOT.name
    name = f"custom_nodes.{folder}"
    assert asyncio.run(nodes.load_custom_node(str(ROOT), module_parent="custom_nodes"))
    loaded = next(m for n, m in sys.modules.items() if getattr(m, "__file__", None) == str(ROOT / "__init__.py"))
    assert loaded is not None, name
    return loaded


@pytest.fixture
def server(pack: ModuleType) -> RecordingServer:
    """A fresh recording server for one test."""
    import server as module

    module.PromptServer.instance = RecordingServer()
    return module.PromptServer.instance
