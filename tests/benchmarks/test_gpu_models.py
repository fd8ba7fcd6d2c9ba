"""The models of `benchmarks.gpu`: of the published sizes, built and called without memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.gpu.building import comfyui_model, diffusers_model, pipeline_of
from benchmarks.gpu.models import REAL, TINY, ModelSize
from benchmarks.gpu.weights import FP8, fill, in_type, parameter_count, weight_bytes, without_memory
from benchmarks.testbeds import COMFYUI, DIFFUSERS

META, CPU = torch.device("meta"), torch.device("cpu")
every_size = pytest.mark.parametrize("size", REAL.values(), ids=list(REAL))


def empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device=META, dtype=torch.bfloat16)


class FirstInput:
    """Notes the sizes of the image at the input of the block stack."""

    def __init__(self, denoiser: nn.Module, size: ModelSize, host: str) -> None:
        self.shapes: list[tuple[int, ...]] = []
        path = size.hosts[host].blocks[0]
        first = next(iter(denoiser.get_submodule(path).children()))
        first.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        given = [*args, *kwargs.values()]
        self.shapes += [tuple(each.shape) for each in given if isinstance(each, torch.Tensor)]


def pytorch_attention(function: Any, *args: Any, **kwargs: Any) -> Any:
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(*args, **kwargs)


@every_size
def test_comfyui_builds_and_calls_the_published_size(comfy: Any, size: ModelSize) -> None:
    model = comfyui_model(size.hosts[COMFYUI], size, META).model
    denoiser, text = model.diffusion_model, size.text
    assert parameter_count(denoiser) == size.parameters
    assert 2 * size.parameters <= weight_bytes(denoiser) < 2.01 * size.parameters
    noted = FirstInput(denoiser, size, COMFYUI) if size.has_blocks else None
    given = {"c_crossattn": empty(1, text.tokens, text.width)}
    if text.pooled is not None:
        given["y"] = empty(1, text.pooled + (0 if size.has_blocks else 6 * 256))
    if size.distilled:
        given["guidance"] = empty(1)
    options = {"optimized_attention_override": pytorch_attention}
    with torch.inference_mode():
        out = model.apply_model(
            empty(1, *size.latent),
            torch.empty(1, device=META),
            transformer_options=options,
            **given,
        )
    assert out.shape == (1, *size.latent)
    assert noted is None or (1, size.tokens, size.width) in noted.shapes


@every_size
def test_diffusers_builds_and_calls_the_published_size(size: ModelSize) -> None:
    denoiser = diffusers_model(size.hosts[DIFFUSERS], META)
    assert parameter_count(denoiser) == size.parameters
    assert 2 * size.parameters <= weight_bytes(denoiser) < 2.01 * size.parameters
    noted = FirstInput(denoiser, size, DIFFUSERS) if size.has_blocks else None
    pipe = pipeline_of(size, denoiser)
    text, latent = size.text, empty(1, *size.latent)
    shape: tuple[int, ...] = latent.shape
    given: dict[str, Any] = {
        "hidden_states": latent,
        "timestep": torch.empty(1, device=META),
        "encoder_hidden_states": empty(1, text.tokens, text.width),
    }
    if size.packed:
        side = size.latent[-1] // 2
        shape = (1, side * side, 4 * size.latent[0])
        given["hidden_states"] = empty(*shape)
        if size.distilled:
            ids = {"img_ids": empty(side * side, 3), "txt_ids": empty(text.tokens, 3)}
            given |= {**ids, "guidance": empty(1), "pooled_projections": empty(1, text.pooled)}
        else:
            given["img_shapes"] = [[(1, side, side)]]
    if not size.has_blocks:
        given["sample"] = given.pop("hidden_states")
        pooled = {"text_embeds": empty(1, text.pooled), "time_ids": empty(1, 6)}
        given["added_cond_kwargs"] = pooled
    with torch.inference_mode():
        (out,) = denoiser(**given, return_dict=False)
    assert out.shape == shape
    assert noted is None or (1, size.tokens, size.width) in noted.shapes
    assert denoiser in pipe.components.values()


@pytest.mark.parametrize("name", ["flux1", "wan21-14b"])
def test_weights_in_8_bits_never_take_more(comfy: Any, name: str) -> None:
    """Nor while they are made. diffusers keeps the layers of norms in 16 bits."""
    size = REAL[name]
    native = comfyui_model(size.hosts[COMFYUI], size, META, fp8=True).model.diffusion_model
    assert size.parameters <= weight_bytes(native) < 1.02 * size.parameters
    casting = diffusers_model(size.hosts[DIFFUSERS], META, fp8=True)
    assert size.parameters <= weight_bytes(casting) < 1.4 * size.parameters


@pytest.mark.parametrize("name", REAL)
def test_the_tiny_models_are_of_the_same_classes(name: str) -> None:
    real, tiny = REAL[name], TINY[name]
    for host, architecture in real.hosts.items():
        assert tiny.hosts[host].name == architecture.name
        assert tiny.hosts[host].arguments.keys() == architecture.arguments.keys()
    assert (real.pipeline, real.branches, real.packed) == (
        tiny.pipeline,
        tiny.branches,
        tiny.packed,
    )


def test_weights_are_random_of_the_wanted_type_and_neither_grow_nor_vanish() -> None:
    with without_memory():
        module = nn.Sequential(nn.Linear(400, 300), nn.LayerNorm(300), nn.Linear(300, 200))
    assert {value.device.type for value in module.parameters()} == {"meta"}
    in_type(module, torch.bfloat16, in_float32=("1",))
    fill(module, CPU)
    assert [value.dtype for value in module.parameters()] == [
        *2 * [torch.bfloat16], *2 * [torch.float32], *2 * [torch.bfloat16]
    ]  # fmt: skip
    first = module[0].weight.float()
    assert abs(float(first.mean())) < 1e-3 and float(first.std() * 20) == pytest.approx(
        0.6, rel=0.02
    )
    again = nn.Linear(400, 300).to(torch.bfloat16)
    fill(again, CPU)
    assert torch.equal(again.weight, module[0].weight)
    in_type(again, FP8)
    fill(again, CPU, seed=1)
    assert again.weight.dtype == FP8 and not torch.equal(again.weight.float(), first)
