"""Families recognised behind ComfyUI's own loader, which tells models apart by their weights."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiny_models
import torch

pytestmark = pytest.mark.usefixtures("comfy")

WAN = dict(
    dim=256, ffn_dim=512, num_heads=2, num_layers=5, in_dim=16, out_dim=16, text_dim=4096,
    freq_dim=256,
)  # fmt: skip
HUNYUAN = tiny_models.TINY["hunyuan_video"].kwargs | dict(context_in_dim=4096)
LTX = tiny_models.TINY["ltx"].kwargs

CHECKPOINTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "sd3": (
        "SD3",
        tiny_models.TINY["sd3"].kwargs
        | {
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 4096, "out_features": 256},
            }
        },
        "sd3",
    ),
    "wan21_t2v": ("WAN21_T2V", WAN, "wan21"),
    "wan21_i2v": ("WAN21_I2V", WAN | dict(model_type="i2v", in_dim=36), "wan21"),
    "wan21_vace": (
        "WAN21_Vace",
        WAN | dict(model_type="vace", vace_layers=1, vace_in_dim=96),
        "wan21",
    ),
    "wan21_camera": ("WAN21_Camera", WAN | dict(model_type="camera", in_dim=32), "wan21"),
    "wan22_5b": ("WAN22_T2V", WAN | dict(in_dim=48, out_dim=48), "wan21"),
    "hunyuan_video": ("HunyuanVideo", HUNYUAN, "hunyuan_video"),
    "ltx": ("LTXV", LTX, "ltx"),
    "cosmos_predict2": (
        "CosmosT2IPredict2",
        tiny_models.TINY["cosmos_predict2"].kwargs
        | dict(crossattn_emb_channels=1024, num_blocks=10, num_heads=16, adaln_lora_dim=256),
        "cosmos_predict2",
    ),
}


def weights(config: str, kwargs: dict[str, Any]) -> dict[str, torch.Tensor]:
    import comfy.supported_models

    config_class = getattr(comfy.supported_models, config)
    newer = hasattr(comfy.supported_models, "Kandinsky5") and config == "HunyuanVideo"
    kwargs = kwargs | (dict(meanflow_sum=False) if newer else {})
    built = config_class({**config_class.unet_config, **kwargs})
    built.set_inference_dtype(torch.float32, None)
    found: dict[str, torch.Tensor] = built.get_model({}, "").diffusion_model.state_dict()
    return found


@pytest.mark.parametrize("name", list(CHECKPOINTS))
def test_the_loader_gives_a_model_that_is_recognised(name: str) -> None:
    import comfy.sd

    from teacache.config import TeaCacheConfig
    from teacache.hosts.comfyui.patch import apply_teacache

    config, kwargs, family = CHECKPOINTS[name]
    metadata = {"config": json.dumps({"transformer": kwargs})} if name == "ltx" else None
    model = comfy.sd.load_diffusion_model_state_dict(
        weights(config, kwargs), model_options={"dtype": torch.float32}, metadata=metadata
    )
    assert model is not None, "ComfyUI does not recognise these weights"
    _, handle = apply_teacache(model, TeaCacheConfig())
    assert handle is not None
    assert handle.family.id == family
