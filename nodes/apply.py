"""The node Apply TeaCache, and what it shares with the one for diffusers pipelines."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..teacache.config import (
    CACHE_DEVICES,
    CACHED,
    DEFAULT_THRESHOLD,
    INDICATORS,
    LEARN,
    MAX_THRESHOLD,
    MODES,
    PREDICTORS,
    PRESETS,
    TeaCacheConfig,
    replace_former_values,
)
from ..teacache.errors import ConfigError
from ..teacache.families.registry import known_profiles
from ..teacache.hosts.comfyui.conditions import profile_store
from ..teacache.hosts.comfyui.other_caches import stacked_caches_warning
from ..teacache.hosts.comfyui.patch import apply_teacache, cached_model, describe_unsupported
from ..teacache.profiles.store import ProfileStore
from .events import NodeEvents
from .schema import CATEGORY, advanced, schema

OFFERED_SPEEDUPS = ("1.5x", "2.0x", "2.5x", "3.0x", "4.0x")
"""In the menu of preset; a saved graph may contain another one."""
LEARN_TOOLTIP = "learn: compute every step and save what the run showed as a profile. "
log = logging.getLogger("teacache")


def apply_schema(
    *,
    source: io.Input,
    output: io.Output,
    store: ProfileStore,
    presets: Sequence[str] = (*PRESETS, *OFFERED_SPEEDUPS),
    **fields: Any,
) -> io.Schema:
    """The schema of a node that adds the cache to a model or a pipeline.

    Args:
        source: The input for the model or pipeline.
        output: The output for the same with the cache.
        store: The user's profiles, offered by the widget profile.
        presets: Offered by the widget preset.
        fields: Further arguments of `io.Schema`.
    """
    return schema(
        search_aliases=["teacache", "step cache", "first block cache", "faster sampling"],
        category=CATEGORY,
        inputs=[
            source,
            io.Float.Input(
                "rel_l1_thresh",
                default=DEFAULT_THRESHOLD,
                min=0.0,
                max=MAX_THRESHOLD,
                step=0.01,
                tooltip=(
                    "How much change may add up before a step is computed again. Higher is "
                    "faster and less exact; 0 turns the cache off. Useful: 0.1 to 0.8. Left "
                    "at 0.2, the recommended value for mode and model is used and shown."
                ),
            ),
            io.Float.Input(
                "start_percent",
                default=0.0,
                min=0.0,
                max=1.0,
                step=0.01,
                tooltip="Share of the run's steps that are always computed at the start.",
            ),
            io.Float.Input(
                "end_percent",
                default=1.0,
                min=0.0,
                max=1.0,
                step=0.01,
                tooltip="Share of the run's steps after which every step is computed.",
            ),
            advanced(
                io.Boolean.Input(
                    "auto_threshold",
                    default=True,
                    tooltip=(
                        "While rel_l1_thresh stands at 0.2, use the recommended value for mode "
                        "and model instead. Off: 0.2 means 0.2."
                    ),
                )
            ),
            advanced(
                io.Int.Input(
                    "max_skip",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Most steps skipped in a row. 0: no limit, as published.",
                )
            ),
            advanced(
                io.Combo.Input(
                    "cache_device",
                    options=list(CACHE_DEVICES),
                    default="auto",
                    tooltip=(
                        "Where the stored residuals wait: beside the model (auto, device), or "
                        "in main memory (cpu), slower but without graphics memory."
                    ),
                )
            ),
            advanced(
                io.Combo.Input(
                    "profile",
                    options=["auto", *known_profiles(), *store.names()],
                    default="auto",
                    tooltip=(
                        "The coefficients that turn measured change into distance in the "
                        "faithful mode, or a calibration of your own, with its plans. auto: your "
                        "calibration of this model, else the model family's own."
                    ),
                )
            ),
            advanced(
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=MODES[0],
                    optional=True,
                    tooltip=(
                        "forecast: skipped steps extrapolate the model's predictions while their "
                        "measured error is small; better quality at the same speed. faithful: "
                        "TeaCache as published."
                    ),
                )
            ),
            advanced(
                io.Combo.Input(
                    "cached",
                    options=list(CACHED),
                    default="auto",
                    optional=True,
                    tooltip=(
                        "What a skipped step takes from the cache: the residual of the model's "
                        "blocks, or the model's prediction, so that the model does not run at all. "
                        "auto: the mode's."
                    ),
                )
            ),
            advanced(
                io.Combo.Input(
                    "indicator",
                    options=list(INDICATORS),
                    default="auto",
                    optional=True,
                    tooltip=(
                        "How change is measured. profile: the family's own coefficients; rate: "
                        "the measured error of earlier predictions. auto: the mode's."
                    ),
                )
            ),
            advanced(
                io.Combo.Input(
                    "predictor",
                    options=list(PREDICTORS),
                    default="auto",
                    optional=True,
                    tooltip=(
                        "How a cached value is extrapolated. reuse: unchanged; linear: along a "
                        "straight line; damped: along it, scaled by how accurate earlier lines "
                        "were. auto: the mode's."
                    ),
                )
            ),
            io.Combo.Input(
                "preset",
                options=list(presets),
                default="auto",
                optional=True,
                tooltip=(
                    "One setting in place of the others: a level of quality, or a wanted speed-up, "
                    "which computes that share of steps. It is based on your calibration "
                    "of the model, else on what is known about it; the node says which. "
                    f"{LEARN_TOOLTIP if LEARN in presets else ''}auto: the "
                    "widgets above or, while they are unchanged, your calibration."
                ),
            ),
        ],
        outputs=[output],
        hidden=[io.Hidden.unique_id],
        not_idempotent=True,  # events carry the node's id: equal nodes must not share an output
        **fields,
    )


class CacheNode:
    """The validation of the widgets, shared by both nodes."""

    @classmethod
    def store(cls) -> ProfileStore:
        """The user's profiles for the node's input."""
        return profile_store()

    @classmethod
    def validate_inputs(
        cls,
        rel_l1_thresh: float = DEFAULT_THRESHOLD,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        max_skip: int = 0,
        cache_device: str = "auto",
        profile: str = "auto",
        mode: str = MODES[0],
        cached: str = "auto",
        indicator: str = "auto",
        predictor: str = "auto",
        preset: str = "auto",
    ) -> bool | str:
        """Checks the widgets when a prompt is queued; values of links are checked at execution.

        Returns:
            True, or the error message.
        """
        try:
            config_from_widgets(
                rel_l1_thresh=rel_l1_thresh,
                auto_threshold=False,
                start_percent=start_percent,
                end_percent=end_percent,
                max_skip=max_skip,
                cache_device=cache_device,
                profile=profile,
                mode=mode,
                cached=cached,
                indicator=indicator,
                predictor=predictor,
                preset=preset,
            )
            if profile not in ("auto", *known_profiles()):
                cls.store().load_for_setting(profile)
        except ConfigError as error:
            return str(error)
        return True


class ApplyTeaCache(CacheNode, io.ComfyNode):
    """Adds the cache to a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return apply_schema(
            node_id="ApplyTeaCache",
            display_name="Apply TeaCache",
            description=(
                "Samples faster by not computing the steps that come out nearly the same. "
                "Put it between the model loader and the sampler; the model family is recognised."
            ),
            source=io.Model.Input("model", tooltip="The diffusion model to speed up."),
            output=io.Model.Output(tooltip="The model, sampling with the cache."),
            store=cls.store(),
        )

    @classmethod
    def execute(cls, model: io.Model.Type, **settings: Any) -> io.NodeOutput:
        config, notes = config_from_widgets(**settings)
        events = NodeEvents(str(cls.hidden.unique_id))
        replaced = cached_model(model) is not None
        cached, handle = apply_teacache(model, config, events.send)
        for note in notes:
            log.warning("TeaCache: %s", note)
        if handle is None:
            notes.append(describe_unsupported(model))
            log.warning("TeaCache: %s", notes[-1])
        if replaced:
            notes.append("It replaces an earlier Apply TeaCache on this model.")
        if handle is not None and (stacked := stacked_caches_warning(model)):
            notes.append(stacked)
        events.ready("" if handle is None else handle.describe(), notes)
        return io.NodeOutput(cached)


def config_from_widgets(
    rel_l1_thresh: float = DEFAULT_THRESHOLD, auto_threshold: bool = True, **settings: Any
) -> tuple[TeaCacheConfig, list[str]]:
    """The settings of the widgets; one that a saved graph lacks has its default value.

    Returns:
        The settings, and one sentence for each value of an earlier version that is not used.
    """
    use_recommended = auto_threshold and rel_l1_thresh == DEFAULT_THRESHOLD
    settings, notes = replace_former_values(settings)
    threshold = None if use_recommended else rel_l1_thresh
    return TeaCacheConfig(rel_l1_thresh=threshold, **settings), notes


NODES: list[type[io.ComfyNode]] = [ApplyTeaCache]
