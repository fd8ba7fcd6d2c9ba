"""The real ComfyUI in this process, and the pack loaded as ComfyUI loads it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings
from paths import ROOT, TESTS
from recording_server import RecordingServer

settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

CORE = (
    "engine/",
    "families/",
    "hosts/comfyui/",
    "hosts/diffusers/test_hostile_",
    "nodes/test_nodes.py",
)
"""How the modules begin that ask whether the cache is right on the ComfyUI at hand."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--core", action="store_true", help="only the tests of the cache itself in ComfyUI"
    )
    parser.addoption(
        "--without-editor",
        action="store_true",
        help="without the tests that open the editor in a browser",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    on_device = [item for item in items if item.get_closest_marker("cuda") is not None]
    if on_device and not _has_cuda():
        for item in on_device:
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))
    left_out = [item for item in items if _is_left_out(item)]
    if not left_out:
        return
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _is_left_out(item: pytest.Item) -> bool:
    if item.config.getoption("--core"):
        return not item.path.relative_to(TESTS).as_posix().startswith(CORE)
    if item.config.getoption("--without-editor"):
        return item.get_closest_marker("browser") is not None
    return False


def _import_library() -> None:
    """`teacache` importable without the repository on sys.path, where its `nodes` would hide
    ComfyUI's."""
    folder = ROOT / "teacache"
    spec = importlib.util.spec_from_file_location(
        "teacache", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["teacache"] = module
    spec.loader.exec_module(module)


_import_library()


@pytest.fixture(autouse=True)
def profile_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for the user's own profiles: this machine's are left alone."""
    folder = tmp_path / "own-profiles"
    monkeypatch.setenv("TEACACHE_PROFILES", str(folder))
    return folder


@pytest.fixture(scope="session")
def comfy_dir() -> Path:
    """ComfyUI's tree: COMFYUI_DIR, or the one that run.py unpacks."""
    tree = Path(os.environ.get("COMFYUI_DIR", ROOT / ".comfyui"))
    assert (tree / "main.py").is_file(), (
        f"no ComfyUI in {tree}: python run.py test makes one, or set COMFYUI_DIR"
    )
    return tree


@pytest.fixture(scope="session")
def comfy(comfy_dir: Path, request: pytest.FixtureRequest) -> Path:
    """ComfyUI importable in this process, on the CPU; with tests for a CUDA device on that one."""
    sys.path.insert(0, str(comfy_dir))
    import comfy.cli_args

    on_device = [item for item in request.session.items if item.get_closest_marker("cuda")]
    comfy.cli_args.args.cpu = not (on_device and _has_cuda())
    import comfy.model_management
    import utils.extra_config  # noqa: F401  (before nodes: `utils` must be ComfyUI's own)

    return comfy_dir


@pytest.fixture(scope="session")
def pack(comfy: Path) -> ModuleType:
    """The pack, loaded by ComfyUI's own loader; fails if that gives a warning."""
    import server

    import nodes

    server.PromptServer.instance = RecordingServer()
    assert asyncio.run(nodes.load_custom_node(str(ROOT), module_parent="custom_nodes"))
    return sys.modules[str(ROOT).replace(".", "_x_")]


@pytest.fixture
def server(pack: ModuleType) -> RecordingServer:
    """A fresh recording server for one test."""
    import server as module

    module.PromptServer.instance = RecordingServer()
    return module.PromptServer.instance


@pytest.fixture
def without_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Likeness without LPIPS, whose weights would be asked for from the network."""

    def missing(a: object, b: object) -> None:
        raise ImportError

    monkeypatch.setattr("teacache.comparison.metrics.lpips", missing)


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """A Ray of this machine, started once; commands with `--ray` in this process join it."""
    pytest.importorskip("ray")
    path = [str(TESTS / "support"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
        "PYTHONPATH": os.pathsep.join(path),
    }
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=200_000_000,
    )
    yield
    ray.shutdown()
