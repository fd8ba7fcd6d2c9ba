"""What tells the model calls of one evaluation apart, and when a call is laid out otherwise."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch


def branches_of(options: dict[str, Any]) -> list[Hashable]:
    """The branches in a batch, in order; empty where they are not told.

    A cond's own identity is not enough: ComfyUI gives the negative that stands opposite a positive
    with an area the identity of that positive.
    """
    if not options.get("uuids"):
        return []
    return list(zip(options["uuids"], options["cond_or_uncond"], strict=True))


def pass_key(options: dict[str, Any]) -> tuple[Hashable, Hashable, Hashable]:
    """Which context window, and which pass: the other nodes' patches that are in force."""
    window = options.get("context_window")
    frames = tuple(window.index_list) if window is not None else None
    return (
        frames,
        _patches(options.get("patches_replace", {})),
        _patches(options.get("patches", {})),
    )


def _patches(tree: dict[str, Any]) -> Hashable:
    """Names and places of patches, without their identity, which may change from call to call."""
    return tuple(
        (str(name), tuple(map(str, places)) if isinstance(places, dict) else len(places))
        for name, places in tree.items()
    )


def layout_of(value: Any) -> Hashable:
    """Shapes and types of the tensors in `value`, recursively; what is no tensor is passed over."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape[1:]), value.dtype
    if isinstance(value, dict):
        return tuple((name, layout_of(item)) for name, item in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(layout_of(item) for item in value)
    return None


def control_layout(control: dict[str, Any] | None) -> Hashable:
    """Which blocks a ControlNet adds to: it changes when the control starts or ends."""
    if control is None:
        return None
    return tuple(
        (name, tuple(item is not None for item in items)) for name, items in control.items()
    )
