"""Pipelines other than the demo model: from disk, and what their calls are given."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")
import diffusers

from teacache.cli.main import main
from teacache.config import TeaCacheConfig
from teacache.errors import UserError
from teacache.hosts.diffusers.folder import check_origin
from teacache.hosts.diffusers.generation import Request, arguments, for_image, generate, to_tensor
from teacache.hosts.diffusers.loading import load_pipeline, placed

SMALL = {"steps": 6, "width": 64, "height": 64, "guidance": 3.0}


def byte_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[])
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="!")


def tiny_qwen() -> Any:
    """Qwen-Image with every part, of random weights."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    size = {"hidden_size": 16, "intermediate_size": 16}
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    text = {"num_hidden_layers": 2, "vocab_size": 256, "rope_scaling": rope, "rope_theta": 1e6}
    vision = {**size, "depth": 1, "num_heads": 2, "out_hidden_size": 16}
    config = Qwen2_5_VLConfig(text_config={**size, **heads, **text}, vision_config=vision)
    torch.manual_seed(0)
    return diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval(),
        tokenizer=byte_tokenizer(),
        transformer=diffusers.QwenImageTransformer2DModel(
            patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16,
            num_attention_heads=3, joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
        ),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=24, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1,
            temperal_downsample=[False, True], latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "Qwen-Image"
    tiny_qwen().save_pretrained(folder)
    return folder


def test_from_disk_without_network(qwen: Path, monkeypatch: Any) -> None:
    import socket

    def refuse(*args: Any) -> None:
        raise AssertionError(f"a connection was tried: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    pipe = load_pipeline(str(qwen))
    request = Request("a cat", "a dog", **SMALL)
    plain = generate(pipe, request)
    assert plain.pictures.shape == (1, 64, 64, 3) and plain.notes == [] and plain.report is None
    cached = generate(pipe, request, cache=TeaCacheConfig(rel_l1_thresh=90.0, mode="faithful"))
    assert (cached.report.steps, cached.report.skipped) == (6, 4)
    assert not torch.equal(cached.pictures, plain.pictures)
    off = generate(pipe, request, cache=TeaCacheConfig(rel_l1_thresh=0.0))
    assert torch.equal(off.pictures, plain.pictures)
    negative = generate(pipe, Request("a cat", "a bird", **SMALL))
    assert not torch.equal(negative.pictures, plain.pictures)


@pytest.mark.parametrize(
    ("config", "refused"),
    [(b'{"name": "\xc3\xa9"}', False), (b'{"name": "\xff"}', False), (b'{"auto_map": {}}', True)],
)
def test_code_of_a_folder_is_refused_in_any_encoding(
    tmp_path: Path, config: bytes, refused: bool
) -> None:
    (tmp_path / "config.json").write_bytes(config)
    expected = pytest.raises(UserError, match="needs code from the folder")
    with expected if refused else contextlib.nullcontext():
        check_origin(tmp_path, ["transformers", "AutoModel"], "--model")


def test_image_to_image_of_the_same_model(qwen: Path) -> None:
    pipe = load_pipeline(str(qwen))
    image = Image.new("RGB", (64, 64), "orange")
    request = Request("a cat", image=image, strength=0.5, **SMALL)
    started = for_image(pipe, True)
    assert type(started).__name__ == "QwenImageImg2ImgPipeline"
    assert started.transformer is pipe.transformer
    result = generate(pipe, request, cache=TeaCacheConfig(rel_l1_thresh=90.0, mode="faithful"))
    assert result.pictures.shape == (1, 64, 64, 3) and len(result.report.records) == 3


@pytest.mark.parametrize("how", ["variant", "shards"])
def test_other_ways_to_save(qwen: Path, tmp_path: Path, how: str) -> None:
    pipe = load_pipeline(str(qwen))
    options = {"variant": "fp16"} if how == "variant" else {"max_shard_size": "20KB"}
    pipe.save_pretrained(tmp_path, **options)
    pattern = "*/*.fp16.safetensors" if how == "variant" else "*/*-of-*.safetensors"
    assert list(tmp_path.glob(pattern))
    again = load_pipeline(str(tmp_path))
    weights = [p.transformer.state_dict().values() for p in (pipe, again)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    if how == "shards":
        lost = next(tmp_path.glob("transformer/*-of-*.safetensors"))
        lost.unlink()
        with pytest.raises(UserError, match=f"missing file .*{lost.name}"):
            load_pipeline(str(tmp_path))


def test_a_size_that_the_pipeline_refuses_is_told(qwen: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    arguments = ["--model", str(qwen), "--prompt", "a cat", "--steps", "2", "--out", str(out)]
    assert main(["generate", *arguments, "--width", "65535"]) == 2
    assert "--width: must be a whole number" in capsys.readouterr().err
    image = tmp_path / "in.png"
    Image.new("RGB", (64, 64)).save(image)
    size = ["--width", "64", "--height", "64"]
    assert main(["generate", *arguments, *size, "--image", str(image), "--strength", "0"]) == 2
    assert "teacache: QwenImageImg2ImgPipeline: " in capsys.readouterr().err
    assert not out.exists()


FULL = Request(
    "p", "n", 64, 96, 9, 2.5, 3, 2, image=Image.new("RGB", (8, 8)), strength=0.4
)  # fmt: skip
NOT_TAKEN = "{} is not used: {} does not take it."


@pytest.mark.parametrize(
    ("name", "guided_by", "negative", "unused"),
    [
        ("QwenImageEditPipeline", "true_cfg_scale", "n", ["strength"]),
        ("QwenImageEditPlusPipeline", "true_cfg_scale", "n", ["strength"]),
        ("QwenImageImg2ImgPipeline", "true_cfg_scale", "n", []),
        ("StableDiffusion3Img2ImgPipeline", "guidance_scale", "n", []),
        ("FluxKontextPipeline", "guidance_scale", None, ["strength"]),
        ("FluxImg2ImgPipeline", "guidance_scale", None, []),
        ("Flux2Pipeline", "guidance_scale", None, ["negative", "strength"]),
        ("WanImageToVideoPipeline", "guidance_scale", "n", ["strength"]),
        ("ZImagePipeline", "guidance_scale", "n", ["image", "strength"]),
    ],
)
def test_what_a_call_is_given(
    name: str, guided_by: str, negative: str | None, unused: list[str]
) -> None:
    kind = getattr(diffusers, name)
    values, said = arguments(kind.__new__(kind), FULL)
    assert values[guided_by] == 2.5 and values.get("negative_prompt") == negative
    assert (values["width"], values["height"], values["num_inference_steps"]) == (64, 96, 9)
    assert 2 in (values.get("num_images_per_prompt"), values.get("num_videos_per_prompt"))
    assert ("image" in values) == ("image" not in unused)
    expected = [NOT_TAKEN.format(label, name) for label in unused if label != "negative"]
    assert [line for line in said if not line.startswith("negative")] == expected
    if negative is None:
        assert any(line.startswith("negative is not used") for line in said)


def test_guidance_is_left_to_the_pipeline() -> None:
    kind = diffusers.QwenImagePipeline
    values, said = arguments(kind.__new__(kind), Request("p"))
    assert "true_cfg_scale" not in values and said == []
    assert values["negative_prompt"] == " ", "Qwen-Image is not guided without a negative prompt"
    values, _ = arguments(kind.__new__(kind), Request("p", guidance=1.0))
    assert "negative_prompt" not in values


def test_pictures_of_every_kind_of_output() -> None:
    import numpy as np
    from diffusers.pipelines.flux import FluxPipelineOutput
    from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput

    frames = np.full((1, 5, 8, 8, 3), 0.5)
    assert to_tensor(WanPipelineOutput(frames=frames)).shape == (5, 8, 8, 3)
    pictures = [Image.new("RGB", (8, 6), "white")] * 2
    found = to_tensor(FluxPipelineOutput(images=pictures))
    assert found.shape == (2, 6, 8, 3) and float(found.max()) == 1.0


def test_an_unknown_model_runs_without_the_cache(tmp_path: Path, capsys: Any) -> None:
    """One without a timestep, with the cache turned on for everything by the environment."""
    from teacache.hosts.diffusers.loading import recognise

    class Other:
        components: dict[str, Any]

        def progress_bar(self) -> None: ...

    other = Other()
    other.components = {"unet": torch.nn.Linear(2, 2)}
    line, problem = recognise(other, TeaCacheConfig())
    assert line == "" and "no network that takes a timestep" in problem


class Movable:
    """A pipeline of 40 bytes that remembers where it was put."""

    def __init__(self) -> None:
        self.components = {"transformer": torch.nn.Linear(10, 1, bias=False)}
        self.calls: list[str] = []

    def to(self, device: Any, **named: Any) -> None:
        self.calls.append(f"to {device}")

    def enable_model_cpu_offload(self, device: Any) -> None:
        self.calls.append(f"offload {device}")

    def remove_all_hooks(self) -> None:
        self.calls.append("unhook")


@pytest.mark.parametrize(
    ("placement", "free", "first"),
    [
        ("auto", 60.0, "to mps"),
        ("auto", 50.0, "offload mps"),  # 40 bytes and room to work
        ("device", 0.0, "to mps"),
        ("offload", 1e9, "offload mps"),
    ],
)
def test_placement_and_the_way_back(placement: str, free: float, first: str) -> None:
    pipe = Movable()
    with pytest.raises(RuntimeError), placed(pipe, placement, torch.device("mps"), free):
        raise RuntimeError("out of memory")
    assert pipe.calls == [first, "unhook", "to cpu"]
    untouched = Movable()
    with placed(untouched, placement, torch.device("cpu"), free):
        assert untouched.calls == []
