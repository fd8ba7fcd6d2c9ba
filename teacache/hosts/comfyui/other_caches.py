"""Other nodes that also skip steps of a model, in ComfyUI."""

from __future__ import annotations

from typing import Any

import comfy.patcher_extension
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

WRAPPED_BY = {"easycache": "EasyCache", "lazycache": "LazyCache"}
"""Keys of their wrappers, and their names."""
OTHER_PACKS = "rel_l1_thresh"
"""The transformer option by which the nodes of other TeaCache packs are known."""


def stacked_caches(model: ModelPatcher) -> str:
    """A sentence that names the other caches on `model`; empty where there is none."""
    found = [
        name for key, name in WRAPPED_BY.items() if model.get_wrappers(WrappersMP.OUTER_SAMPLE, key)
    ]
    if OTHER_PACKS in model.model_options.get("transformer_options", {}):
        found.append("a TeaCache node of another pack")
    if not found:
        return ""
    return (
        f"Two caches are stacked: {' and '.join(found)} on this model skips steps too, and the "
        "errors add up. Use one of them."
    )


def answers_evaluations(model_options: dict[str, Any]) -> bool:
    """Whether another node may answer the sampler in the model's place, or change the answer."""
    kind = WrappersMP.PREDICT_NOISE
    return bool(
        comfy.patcher_extension.get_all_wrappers(kind, model_options, is_model_options=True)
    )
