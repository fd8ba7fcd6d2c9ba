"""Families whose blocks return text and image, or film and sound, each on its own: what the generic
entry cannot know. As the transformer classes of diffusers 0.42 define them."""

from __future__ import annotations

from dataclasses import replace

from ..comfyui.image_recent import LONGCAT_IMAGE, OVIS_IMAGE
from ..comfyui.video import LTX_AV
from ..spec import Family
from ..streams import BlockList, Role, Stream
from .image import DOUBLE, MODELS, SINGLE, dual_stream_blocks, joined_stream_blocks
from .modulation import ada_norm_block
from .recent_modulation import joint_norm_block, ltx2_block
from .video import DIFFUSERS_COGVIDEOX, DIFFUSERS_HUNYUAN_VIDEO

IMAGE_FIRST = dual_stream_blocks("transformer_blocks", text_first=False)
"""A list whose blocks return (image, text)."""


def _with_flux_blocks(family: Family, name: str) -> Family:
    """`family` as a class of diffusers has it whose blocks are laid out as FLUX's are there."""
    return replace(
        family,
        classes=(MODELS + name,),
        matches=lambda transformer: True,
        block_lists=(DOUBLE, dual_stream_blocks(SINGLE)),
        modulated_input=ada_norm_block,
        indicator_depends_on_text=False,
        tested="run",
    )


DIFFUSERS_LONGCAT_IMAGE = _with_flux_blocks(
    LONGCAT_IMAGE, "transformer_longcat_image.LongCatImageTransformer2DModel"
)

DIFFUSERS_OVIS_IMAGE = _with_flux_blocks(
    OVIS_IMAGE, "transformer_ovis_image.OvisImageTransformer2DModel"
)

BRIA = Family(
    id="bria",
    name="Bria 3.2",
    classes=(MODELS + "transformer_bria.BriaTransformer2DModel",),
    block_lists=(DOUBLE, dual_stream_blocks(SINGLE)),
    modulated_input=ada_norm_block,
    default_profile=lambda transformer: "bria-uncalibrated",
    indicator_depends_on_text=False,
)

BRIA_FIBO = replace(
    BRIA,
    name="Bria Fibo",
    classes=(MODELS + "transformer_bria_fibo.BriaFiboTransformer2DModel",),
    block_lists=(DOUBLE, joined_stream_blocks(SINGLE)),
)

COGVIEW = Family(
    id="cogview",
    name="CogView 3 Plus, 4",
    classes=(
        MODELS + "transformer_cogview3plus.CogView3PlusTransformer2DModel",
        MODELS + "transformer_cogview4.CogView4Transformer2DModel",
    ),
    block_lists=(IMAGE_FIRST,),
    modulated_input=joint_norm_block,
    default_profile=lambda transformer: "cogview-uncalibrated",
    indicator_depends_on_text=False,
)

GLM_IMAGE = replace(
    COGVIEW,
    id="glm_image",
    name="GLM-Image",
    classes=(MODELS + "transformer_glm_image.GlmImageTransformer2DModel",),
    default_profile=lambda transformer: "glm-image-uncalibrated",
    indicator_depends_on_text=True,
)

DIFFUSERS_HUNYUAN_VIDEO_15 = replace(
    DIFFUSERS_HUNYUAN_VIDEO,
    name="HunyuanVideo 1.5",
    classes=(MODELS + "transformer_hunyuan_video15.HunyuanVideo15Transformer3DModel",),
    block_lists=(IMAGE_FIRST,),
    modulated_input=ada_norm_block,
    default_profile=lambda transformer: "hunyuan-uncalibrated",
    indicator_depends_on_text=False,
)

DIFFUSERS_HUNYUAN_IMAGE = replace(
    DIFFUSERS_HUNYUAN_VIDEO_15,
    name="HunyuanImage 2.1",
    classes=(MODELS + "transformer_hunyuanimage.HunyuanImageTransformer2DModel",),
    block_lists=(IMAGE_FIRST, dual_stream_blocks(SINGLE, text_first=False)),
)

DIFFUSERS_CONSISID = replace(
    DIFFUSERS_COGVIDEOX,
    name="ConsisID",
    classes=(MODELS + "consisid_transformer_3d.ConsisIDTransformer3DModel",),
    default_profile=lambda transformer: "cogvideox-5b",
)

DIFFUSERS_LTX2 = replace(
    LTX_AV,
    classes=(MODELS + "transformer_ltx2.LTX2VideoTransformer3DModel",),
    block_lists=(
        BlockList(
            "transformer_blocks",
            inputs=(Stream(Role.IMAGE, 0, "hidden_states", further=((1, "audio_hidden_states"),)),),
            outputs=(Role.IMAGE,),
        ),
    ),
    modulated_input=ltx2_block,
    indicator_depends_on_text=False,
    returns_several=True,
    tested="run",
)

DIFFUSERS_DUAL_STREAM_FAMILIES = (
    DIFFUSERS_LONGCAT_IMAGE,
    DIFFUSERS_OVIS_IMAGE,
    BRIA,
    BRIA_FIBO,
    COGVIEW,
    GLM_IMAGE,
    DIFFUSERS_HUNYUAN_VIDEO_15,
    DIFFUSERS_HUNYUAN_IMAGE,
    DIFFUSERS_CONSISID,
    DIFFUSERS_LTX2,
)
