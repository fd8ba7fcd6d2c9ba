"""Families of recent models that generate images, video and sound together or keep attention keys
from step to step, as the transformer classes of diffusers 0.42 define them."""

from __future__ import annotations

from dataclasses import replace

from ..comfyui.image import single_stream_blocks
from ..comfyui.image_recent import JOY_IMAGE, KANDINSKY5_IMAGE, QWEN_IMAGE_21
from ..comfyui.video import KANDINSKY5
from ..spec import Family, Uncacheable
from ..streams import BlockArguments, BlockList, Role, Stream
from .image import MODELS, TEXT
from .recent_modulation import (
    cosmos3_block,
    flux3_block,
    kandinsky6_block,
    qwen_image_21_block,
)

FLUX3 = Family(
    id="flux3",
    name="FLUX.3",
    classes=(MODELS + "transformer_flux3.Flux3Transformer2DModel",),
    block_lists=(
        single_stream_blocks("mode_blocks.image", "hidden_states"),
        BlockList(  # reference images follow the image
            "single_transformer_blocks",
            inputs=(Stream(Role.IMAGE_TEXT, 0, "hidden_states"), TEXT),
            outputs=(Role.TEXT, Role.IMAGE_TEXT),
        ),
    ),
    modulated_input=flux3_block,
    default_profile=lambda transformer: "flux3-uncalibrated",
    indicator_depends_on_text=False,
)

DIFFUSERS_JOY_IMAGE = replace(
    JOY_IMAGE,
    classes=(
        MODELS + "transformer_joyimage.JoyImageEditTransformer3DModel",
        MODELS + "transformer_joyimage_edit_plus.JoyImageEditPlusTransformer3DModel",
    ),
    indicator_depends_on_text=False,
    tested="run",
)

KANDINSKY5_CLASS = MODELS + "transformer_kandinsky.Kandinsky5Transformer3DModel"

DIFFUSERS_KANDINSKY5 = replace(
    KANDINSKY5,
    classes=(KANDINSKY5_CLASS,),
    matches=lambda transformer: transformer.config.visual_cond,
    tested="run",
)

DIFFUSERS_KANDINSKY5_IMAGE = replace(
    KANDINSKY5_IMAGE,
    classes=(KANDINSKY5_CLASS,),
    matches=lambda transformer: not transformer.config.visual_cond,
    tested="run",
)

KANDINSKY6 = Family(
    id="kandinsky6",
    name="Kandinsky 6",
    classes=(MODELS + "transformer_kandinsky6.Kandinsky6Transformer3DModel",),
    block_lists=(
        BlockList(
            "visual_transformer_blocks",
            inputs=(Stream(Role.IMAGE, 0, "vis", further=((1, "aud"),)),),
            outputs=(Role.IMAGE,),
        ),
    ),
    modulated_input=kandinsky6_block,
    default_profile=lambda transformer: "kandinsky6-uncalibrated",
    returns_several=True,
)

COSMOS3 = Family(
    id="cosmos3",
    name="Cosmos 3",
    classes=(MODELS + "transformer_cosmos3.Cosmos3OmniTransformer",),
    block_lists=(
        BlockList(
            "layers",
            inputs=(
                Stream(Role.TEXT, 0, "und_seq", batch_dim=None),
                Stream(Role.IMAGE, 1, "gen_seq", batch_dim=None),
            ),
            outputs=(Role.TEXT, Role.IMAGE),
        ),
    ),
    modulated_input=cosmos3_block,
    default_profile=lambda transformer: "cosmos3-uncalibrated",
    returns_several=True,
    indicator_depends_on_text=False,
    text_arguments=("input_ids",),
)


def _prefix_tokens(arguments: BlockArguments) -> int:
    """Tokens of the text and the reference images in the call that keeps their keys and values.

    Later calls have none, and where no keys are kept all tokens are handled as one stream.
    """
    kept = arguments.kwargs["cache_write_slice"]
    return 0 if kept is None else int(kept.stop)


DIFFUSERS_QWEN_IMAGE_21 = replace(
    QWEN_IMAGE_21,
    classes=(MODELS + "transformer_qwenimage21.QwenImage21Transformer2DModel",),
    block_lists=(
        BlockList(
            "transformer_blocks",
            inputs=(Stream(Role.TEXT_IMAGE, 0, "hidden_states", tokens_before=_prefix_tokens),),
            outputs=(Role.TEXT_IMAGE,),
        ),
    ),
    modulated_input=qwen_image_21_block,
    indicator_depends_on_text=False,
    tested="run",
)

DIFFUSERS_RECENT_FAMILIES = (
    FLUX3,
    DIFFUSERS_JOY_IMAGE,
    DIFFUSERS_KANDINSKY5,
    DIFFUSERS_KANDINSKY5_IMAGE,
    KANDINSKY6,
    COSMOS3,
    DIFFUSERS_QWEN_IMAGE_21,
)

DIFFUSERS_UNCACHEABLE = (
    Uncacheable(
        "Kandinsky 6 SR",
        (MODELS + "transformer_kandinsky6_sr.Kandinsky6SRTransformer3DModel",),
        "it upscales a film part by part in 4 distilled steps each: there is none to leave out",
    ),
    Uncacheable(
        "RFD4 Proteina",
        (MODELS + "transformer_rfd4_proteina.RFD4ProteinaTransformer",),
        "it denoises a protein in two values with a schedule each, and may run its blocks several "
        "times within one call",
    ),
)
