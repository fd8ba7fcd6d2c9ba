"""Detection of other nodes that wrap or cache a model's prediction in ComfyUI."""

from __future__ import annotations

from typing import Any

import comfy.patcher_extension
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

CACHE_WRAPPERS = {"easycache": "EasyCache", "lazycache": "LazyCache"}
"""Wrapper keys of ComfyUI's own caching nodes, and the nodes' names."""
OTHER_PACKS_OPTION = "rel_l1_thresh"
"""The transformer option that other packs' TeaCache nodes set."""


def stacked_caches_warning(model: ModelPatcher) -> str:
    """A warning that names the other caches on `model`; empty if there are none."""
    names = [
        name
        for key, name in CACHE_WRAPPERS.items()
        if model.get_wrappers(WrappersMP.OUTER_SAMPLE, key)
    ]
    if OTHER_PACKS_OPTION in model.model_options.get("transformer_options", {}):
        names.append("a TeaCache node of another pack")
    if not names:
        return ""
    return (
        f"Two caches are stacked: {' and '.join(names)} on this model skips steps too, and the "
        "errors add up. Use one of them."
    )


def has_prediction_wrappers(model_options: dict[str, Any]) -> bool:
    """Whether other nodes' `PREDICT_NOISE` wrappers may replace or change the prediction."""
    kind = WrappersMP.PREDICT_NOISE
    return bool(
        comfy.patcher_extension.get_all_wrappers(kind, model_options, is_model_options=True)
    )
