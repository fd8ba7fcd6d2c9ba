"""What ComfyUI's own memory management asks of code that runs within a block."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

PREFETCH = "comfy.model_prefetch"


def allocation_context() -> Callable[[], AbstractContextManager[Any]]:
    """What makes the context for memory that is held for longer than a block runs.

    With dynamic VRAM, ComfyUI records which memory a model's blocks allocate, from 0.34 on, and
    takes it back at their end (`pause_malloc_graph` in `comfy/model_prefetch.py`).
    """
    if importlib.util.find_spec(PREFETCH) is None:
        return nullcontext
    found: Callable[[], AbstractContextManager[Any]] = vars(importlib.import_module(PREFETCH)).get(
        "pause_malloc_graph", nullcontext
    )
    return found
