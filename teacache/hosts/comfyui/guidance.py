"""Which guidance must run in skipped steps, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.samplers

FUNCTIONS = (
    "sampler_calc_cond_batch_function",
    "sampler_cfg_function",
    "sampler_pre_cfg_function",
    "sampler_post_cfg_function",
)
"""Keys of the model options under which other nodes, and samplers such as those of CFG++, take part
in the guidance (`comfy/samplers.py`, `cfg_function`)."""
OWN_PACKAGES = ("comfy", "comfy_extras")


def has_own_guidance(guider: Any, model_options: Any) -> bool:
    """Whether the guidance is more than a weighted sum of the branches.

    It may then remember earlier steps, as APG with momentum does, or hand a branch to the sampler.

    Args:
        guider: a `comfy.samplers.CFGGuider`.
        model_options: those of the evaluation.
    """
    if isinstance(model_options, Mapping) and any(model_options.get(name) for name in FUNCTIONS):
        return True
    predict = type(guider).predict_noise
    known = predict is comfy.samplers.CFGGuider.predict_noise
    return not known and predict.__module__.partition(".")[0] not in OWN_PACKAGES
