"""Families of image models whose classes only newer versions of ComfyUI have.

Classes are matched by name and never imported, so they need not exist.
"""

from __future__ import annotations

from ..spec import Family, Uncacheable
from ..streams import BlockArguments, BlockList, Role, Stream
from .image import (
    FLUX_CLASS,
    FLUX_DOUBLE,
    FLUX_SINGLE,
    LUMINA_CLASS,
    LUMINA_LAYERS,
    QWEN_DOUBLE,
    has_module,
    single_stream_blocks,
)
from .modulation import (
    boogu_block,
    ernie_block,
    flux_double_block,
    ideogram_block,
    joy_block,
    kandinsky_block,
    krea2_block,
    lens_block,
    lumina_block,
    pixeldit_block,
    qwen_image_21_block,
    qwen_image_block,
    sensenova_block,
)

LONGCAT_TEXT_WIDTH = 3584
KANDINSKY_IMAGE_CHANNELS = 64

LONGCAT_IMAGE = Family(
    id="longcat_image",
    name="LongCat-Image",
    classes=(FLUX_CLASS,),
    matches=lambda transformer: (
        not transformer.params.global_modulation
        and transformer.params.vec_in_dim is None
        and transformer.params.context_in_dim == LONGCAT_TEXT_WIDTH
    ),
    block_lists=(FLUX_DOUBLE, FLUX_SINGLE),
    modulated_input=flux_double_block,
    default_profile=lambda transformer: "longcat-image",
    tested="newer",
)

OVIS_IMAGE = Family(
    id="ovis_image",
    name="Ovis-Image",
    classes=(FLUX_CLASS,),
    matches=lambda transformer: (
        not transformer.params.global_modulation
        and transformer.params.vec_in_dim is None
        and transformer.params.context_in_dim != LONGCAT_TEXT_WIDTH
    ),
    block_lists=(FLUX_DOUBLE, FLUX_SINGLE),
    modulated_input=flux_double_block,
    default_profile=lambda transformer: "ovis-image-uncalibrated",
    tested="newer",
)

NEWBIE = Family(
    id="newbie",
    name="NewBie Image",
    classes=(LUMINA_CLASS,),
    matches=lambda transformer: (
        transformer.pad_tokens_multiple is None and has_module(transformer, "time_text_embed")
    ),
    block_lists=(LUMINA_LAYERS,),
    modulated_input=lumina_block,
    default_profile=lambda transformer: "newbie-uncalibrated",
    tested="newer",
)

Z_IMAGE_PIXEL = Family(
    id="z_image_pixel",
    name="Z-Image, pixel space",
    classes=("comfy.ldm.lumina.model.NextDiTPixelSpace",),
    block_lists=(LUMINA_LAYERS,),
    modulated_input=lumina_block,
    default_profile=lambda transformer: "z-image-pixel-uncalibrated",
    tested="newer",
)

KANDINSKY5_IMAGE = Family(
    id="kandinsky5_image",
    name="Kandinsky 5 Image",
    classes=("comfy.ldm.kandinsky5.model.Kandinsky5",),
    matches=lambda transformer: transformer.visual_embed_dim == KANDINSKY_IMAGE_CHANNELS,
    block_lists=(single_stream_blocks("visual_transformer_blocks", "visual_embed"),),
    modulated_input=kandinsky_block,
    default_profile=lambda transformer: "kandinsky5-image-uncalibrated",
    tested="newer",
)

KREA2 = Family(
    id="krea2",
    name="Krea 2",
    classes=("comfy.ldm.krea2.model.SingleStreamDiT",),
    block_lists=(single_stream_blocks("blocks", "x"),),
    modulated_input=krea2_block,
    default_profile=lambda transformer: "krea2-uncalibrated",
    tested="newer",
)

IDEOGRAM4 = Family(
    id="ideogram4",
    name="Ideogram 4",
    classes=("comfy.ldm.ideogram4.model.Ideogram4Transformer2DModel",),
    block_lists=(single_stream_blocks("layers", "x"),),
    modulated_input=ideogram_block,
    default_profile=lambda transformer: "ideogram4-uncalibrated",
    tested="newer",
)

ERNIE_IMAGE = Family(
    id="ernie_image",
    name="ERNIE-Image",
    classes=("comfy.ldm.ernie.model.ErnieImageModel",),
    block_lists=(single_stream_blocks("layers", "x"),),
    modulated_input=ernie_block,
    default_profile=lambda transformer: "ernie-image-uncalibrated",
    tested="newer",
)

BOOGU = Family(
    id="boogu",
    name="Boogu",
    classes=("comfy.ldm.boogu.model.BooguTransformer2DModel",),
    block_lists=(
        BlockList(
            "double_stream_layers",
            inputs=(
                Stream(Role.IMAGE, 0, "img_hidden_states"),
                Stream(Role.TEXT, 1, "instruct_hidden_states"),
            ),
            outputs=(Role.IMAGE, Role.TEXT),
        ),
        BlockList(
            "single_stream_layers",
            inputs=(Stream(Role.TEXT_IMAGE, 0, "hidden_states"),),
            outputs=(Role.TEXT_IMAGE,),
        ),
    ),
    modulated_input=boogu_block,
    default_profile=lambda transformer: "boogu-uncalibrated",
    tested="newer",
)

JOY_IMAGE = Family(
    id="joy_image",
    name="JoyImage Edit",
    classes=("comfy.ldm.joyimage.model.JoyImageTransformer3DModel",),
    block_lists=(
        BlockList(
            "double_blocks",
            inputs=(
                Stream(Role.IMAGE, 0, "hidden_states"),
                Stream(Role.TEXT, 1, "encoder_hidden_states"),
            ),
            outputs=(Role.IMAGE, Role.TEXT),
        ),
    ),
    modulated_input=joy_block,
    default_profile=lambda transformer: "joy-image-uncalibrated",
    tested="newer",
)

LENS = Family(
    id="lens",
    name="Lens",
    classes=("comfy.ldm.lens.model.LensTransformer2DModel",),
    block_lists=(QWEN_DOUBLE,),
    modulated_input=lens_block,
    default_profile=lambda transformer: "lens-uncalibrated",
    tested="newer",
)

MAGE_FLOW = Family(
    id="mage_flow",
    name="Mage-Flow",
    classes=("comfy.ldm.mage_flow.model.MageFlowTransformer2DModel",),
    block_lists=(QWEN_DOUBLE,),
    modulated_input=qwen_image_block,
    default_profile=lambda transformer: "mage-flow-uncalibrated",
    tested="newer",
)

PIXELDIT = Family(
    id="pixeldit",
    name="PixelDiT",
    classes=("comfy.ldm.pixeldit.model.PixDiT_T2I",),
    block_lists=(
        BlockList(
            "patch_blocks",
            inputs=(Stream(Role.IMAGE, 0, "x"), Stream(Role.TEXT, 1, "y")),
            outputs=(Role.IMAGE, Role.TEXT),
        ),
    ),
    modulated_input=pixeldit_block,
    default_profile=lambda transformer: "pixeldit-uncalibrated",
    tested="newer",
)


def _is_prefix(arguments: BlockArguments) -> bool:
    """Whether the block is called for the text and the reference images alone.

    In the step that fills the cache of their keys and values each block runs twice: for them, and
    for the image.
    """
    return bool(arguments[4, "prefix_len"] == arguments[0, "x"].shape[1])


QWEN_IMAGE_21 = Family(
    id="qwen_image21",
    name="Qwen-Image 2.1",
    classes=("comfy.ldm.qwen_image21.model.QwenImage21Transformer2DModel",),
    block_lists=(
        BlockList(
            "transformer_blocks",
            inputs=(
                Stream(
                    Role.TEXT_IMAGE,
                    0,
                    "x",
                    tokens_before=lambda arguments: arguments[4, "prefix_len"],
                ),
            ),
            outputs=(Role.TEXT_IMAGE,),
            beside=_is_prefix,
        ),
    ),
    modulated_input=qwen_image_21_block,
    default_profile=lambda transformer: "qwen-image-2.1-uncalibrated",
    tested="stand_in",
)

SENSENOVA = Family(
    id="sensenova",
    name="SenseNova U1.5",
    classes=("comfy.ldm.sensenova.model.SenseNovaU15",),
    block_lists=(
        BlockList(
            "language_model.model.layers",
            inputs=(Stream(Role.IMAGE, 0, "image"),),
            outputs=(Role.IMAGE,),
            method="forward_generation",
        ),
    ),
    modulated_input=sensenova_block,
    default_profile=lambda transformer: "sensenova-uncalibrated",
    tested="stand_in",
)

RECENT_IMAGE_FAMILIES = (
    LONGCAT_IMAGE,
    OVIS_IMAGE,
    NEWBIE,
    Z_IMAGE_PIXEL,
    KANDINSKY5_IMAGE,
    KREA2,
    IDEOGRAM4,
    ERNIE_IMAGE,
    BOOGU,
    JOY_IMAGE,
    LENS,
    MAGE_FLOW,
    PIXELDIT,
    QWEN_IMAGE_21,
    SENSENOVA,
)

RECENT_IMAGE_UNCACHEABLE = (
    Uncacheable(
        "HiDream-O1",
        ("comfy.ldm.hidream_o1.model.HiDreamO1Transformer",),
        "its blocks also hand back attention keys that the model keeps from step to step",
        forecast=True,
    ),
    Uncacheable(
        "PiD",
        ("comfy.ldm.pixeldit.pid.PidNet",),
        "it decodes in 4 distilled steps: there is none to leave out",
    ),
)
