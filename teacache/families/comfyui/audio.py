"""Families of audio models, as ComfyUI's classes define them."""

from __future__ import annotations

from ..spec import Family, Uncacheable
from .image import single_stream_blocks
from .modulation import ace15_block, ace_block, stable_audio_block

AUDIO_DIT_CLASS = "comfy.ldm.audio.dit.AudioDiffusionTransformer"

ACE_STEP = Family(
    id="ace_step",
    name="ACE-Step",
    classes=("comfy.ldm.ace.model.ACEStepTransformer2DModel",),
    block_lists=(single_stream_blocks("transformer_blocks", "hidden_states"),),
    modulated_input=ace_block,
    default_profile=lambda transformer: "ace-step-uncalibrated",
)

STABLE_AUDIO = Family(
    id="stable_audio",
    name="Stable Audio Open",
    classes=(AUDIO_DIT_CLASS,),
    matches=lambda transformer: transformer.global_cond_type == "prepend",
    block_lists=(single_stream_blocks("transformer.layers", "x"),),
    modulated_input=stable_audio_block,
    default_profile=lambda transformer: "stable-audio-uncalibrated",
)

STABLE_AUDIO_3 = Family(
    id="stable_audio3",
    name="Stable Audio 3",
    classes=(AUDIO_DIT_CLASS,),
    matches=lambda transformer: transformer.global_cond_type != "prepend",
    block_lists=(single_stream_blocks("transformer.layers", "x"),),
    default_profile=lambda transformer: "stable-audio3-uncalibrated",
    tested="read",
)

ACE_STEP_15 = Family(
    id="ace_step15",
    name="ACE-Step 1.5",
    classes=("comfy.ldm.ace.ace_step15.AceStepConditionGenerationModel",),
    block_lists=(single_stream_blocks("decoder.layers", "hidden_states"),),
    modulated_input=ace15_block,
    default_profile=lambda transformer: "ace-step15-uncalibrated",
    tested="newer",
)

AUDIO_FAMILIES = (ACE_STEP, STABLE_AUDIO, STABLE_AUDIO_3, ACE_STEP_15)

AUDIO_UNCACHEABLE = (
    Uncacheable(
        "MiniMax Music 3",
        ("comfy.ldm.minimax_music.dit.MiniMaxMusic3DiT",),
        "it runs its blocks once for each window of a long song within one call, so that one "
        "residual cannot stand for them",
        forecast=True,
    ),
    Uncacheable(
        "YuE2",
        ("comfy.ldm.yue2.model.YuE2",),
        "it runs its blocks once for each part of a song within one call, so that one residual "
        "cannot stand for them",
        forecast=True,
    ),
)
