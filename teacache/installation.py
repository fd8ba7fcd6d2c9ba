"""Where the node pack and its files lie: in a checkout, in custom_nodes, or in a wheel."""

from __future__ import annotations

from pathlib import Path

LIBRARY = Path(__file__).resolve().parent


def pack_folder() -> Path:
    """The folder with the pack's `nodes`, `models` and `workflows`.

    In an installed package it is `teacache/pack`, elsewhere the folder around the library.
    """
    installed = LIBRARY / "pack"
    return installed if (installed / "nodes").is_dir() else LIBRARY.parent


def is_checkout() -> bool:
    """Whether the pack is a checkout of the repository, with run.py in it."""
    return (pack_folder() / "run.py").is_file()
