"""A server, a browser and an editor for the tests of this folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from comfy_server import Server, serving
from paths import ROOT

sys.path.append(str(ROOT))

from bootstrap.browser import REMEDY, find_browser

if TYPE_CHECKING:
    from editing import Editor
    from playwright.sync_api import Browser

GATE = """
import time
from comfy.model_management import throw_exception_if_processing_interrupted

class Gate:
    CATEGORY, FUNCTION, RETURN_TYPES = "test", "run", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "latent": ("LATENT",), "wait": ("FLOAT", {"default": 0.0}),
            "fail": ("BOOLEAN", {"default": False}),
        }}

    def run(self, latent, wait, fail):
        until = time.monotonic() + wait
        while time.monotonic() < until:
            throw_exception_if_processing_interrupted()
            time.sleep(0.05)
        if fail:
            raise RuntimeError("the gate is closed")
        return (latent,)

NODE_CLASS_MAPPINGS = {"TestGate": Gate}
"""
"""A pack with a node that waits, or fails, before the latent reaches the sampler."""


@pytest.fixture(scope="package")
def running_server(comfy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(comfy_dir, tmp_path_factory.mktemp("comfyui"), GATE) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of one module: while playwright runs, no test of another one can start an event loop."""
    from editing import FLAGS
    from playwright.sync_api import sync_playwright

    chromium = find_browser(Path(sys.executable))
    assert chromium, REMEDY
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=["classic", "nodes2"])
def editor(
    request: pytest.FixtureRequest, browser: Browser, running_server: Server
) -> Iterator[Editor]:
    from editing import open_editor

    with open_editor(browser, running_server, request.param) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_error_from_the_pack(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "editor" in request.fixturenames:
        errors = request.getfixturevalue("editor").errors
        assert [error for error in errors if "teacache" in error.lower()] == []
