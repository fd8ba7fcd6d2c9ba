"""The level that ComfyUI was started with, in the forms of its versions."""

from __future__ import annotations

import logging
from typing import Any


def log_level(verbose: Any) -> int:
    """The lowest level that ComfyUI logs, by its option `--verbose`.

    Args:
        verbose: a level's name; from 0.33 on a list of (name, file, or None for the console).

    Returns:
        INFO, ComfyUI's own level, where nothing is said of the console or it cannot be read.
    """
    outputs = [(verbose, None)] if isinstance(verbose, str) else verbose
    pairs = [tuple(each) for each in outputs] if isinstance(outputs, list) else []
    named = [(logging.getLevelName(pair[0]), pair[1]) for pair in pairs if len(pair) == 2]
    levels = [(level, file) for level, file in named if isinstance(level, int)]
    console = [level for level, file in levels if file is None] or [logging.INFO]
    return min([*console, *(level for level, _ in levels)])
