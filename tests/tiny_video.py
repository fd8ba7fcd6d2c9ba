"""Tiny models of the video families (see tiny_models)."""

from __future__ import annotations

from tiny_models import TinyModel

VIDEO: dict[str, TinyModel] = {}
