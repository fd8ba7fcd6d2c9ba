"""Workflow files as the editor saves them, turned into API graphs by the node definitions."""

from __future__ import annotations

from typing import Any

from .errors import UserError
from .graph import HOW_TO_EXPORT, Graph


def to_graph(data: dict[str, Any], definitions: dict[str, dict[str, Any]], source: str) -> Graph:
    raise UserError(f"{source} was saved by the editor with its layout; {HOW_TO_EXPORT}")
