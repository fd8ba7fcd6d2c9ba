"""The demo model as shipped: the same numbers in ComfyUI and in diffusers, and a working CLIP."""

from __future__ import annotations

import importlib
import sys
import types

import pytest
import torch
from paths import ROOT

from teacache.demo.model import (
    MAX_TOKENS,
    MODELS,
    PAD,
    START,
    TEXT_FILE,
    TRANSFORMER_FILE,
    VAE_FILE,
    DemoText,
    Tokenizer,
    export_diffusers,
    negative,
    vae_to_comfyui,
    vae_to_diffusers,
)
from teacache.hosts.diffusers.demo_pipeline import load_diffusers


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_diffusers(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def text():
    return DemoText.load()


@pytest.fixture
def demo_nodes(comfy):
    """nodes/demo.py inside a package of another name, as ComfyUI loads it."""
    for name, folder in (("demo_pack", ROOT), ("demo_pack.nodes", ROOT / "nodes")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    yield importlib.import_module("demo_pack.nodes.demo")
    for name in [n for n in sys.modules if n.split(".")[0] == "demo_pack"]:
        del sys.modules[name]


@pytest.fixture
def clip(demo_nodes):
    return demo_nodes.load_clip(str(MODELS / TEXT_FILE))


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# The files


def test_everything_shipped_is_small_enough():
    """The models of the benchmarks are in the repository alone, at most 25 MB each."""
    sizes = {path: path.stat().st_size for path in MODELS.rglob("*") if path.is_file()}
    compared = {path for path in sizes if path.parent.name in ("digits", "photos", "unet")}
    assert {path.suffix for path in compared} == {".md", ".safetensors"}
    assert all(sizes[path] < 25e6 for path in compared)
    assert sum(size for path, size in sizes.items() if path not in compared) < 50e6


def test_weights_are_finite_and_trained():
    from safetensors.torch import load_file

    for file in (TRANSFORMER_FILE, VAE_FILE, TEXT_FILE):
        for key, weight in load_file(MODELS / file).items():
            assert weight.isfinite().all(), key
    # Training starts with this layer at zero.
    assert load_file(MODELS / TRANSFORMER_FILE)["proj_out.weight"].abs().max() > 0


# The tokeniser


@pytest.fixture
def tokenizer():
    return Tokenizer.from_texts(["red apple", "Rescue worker’s helmet", "glass", "T-Rex"])


def test_tokenizer_ignores_case_punctuation_and_unknown_words(tokenizer):
    ids = tokenizer("red apple")
    assert tokenizer("A RED, (apple)!") == tokenizer("the red apple") == ids
    assert tokenizer("zebra red qwerty apple") == ids
    assert ids[:3] == [START, tokenizer.ids["red"], tokenizer.ids["apple"]]
    assert ids[3:] == [PAD] * (MAX_TOKENS - 3)


def test_tokenizer_minds_order(tokenizer):
    assert tokenizer("apple red") != tokenizer("red apple")


def test_tokenizer_knows_plurals_and_apostrophes(tokenizer):
    assert tokenizer("apples glasses") == tokenizer("apple glass")
    assert tokenizer("worker's") == tokenizer("worker’s") == tokenizer("workers")


@pytest.mark.parametrize("prompt", ["", "   ", "qwerty", "苹果", "()"])
def test_prompt_without_a_known_word_is_the_empty_prompt(tokenizer, prompt):
    assert tokenizer(prompt) == [START] + [PAD] * (MAX_TOKENS - 1)


def test_too_long_a_prompt_is_cut(tokenizer):
    ids = tokenizer("apple " * 50)
    assert ids == [START] + [tokenizer.ids["apple"]] * (MAX_TOKENS - 1)


# The text encoder


def test_text_encoder_is_deterministic_and_tells_prompts_apart(text):
    one, again, other = text("red apple"), text("red apple"), text("green apple")
    for name in ("prompt_embeds", "pooled_prompt_embeds"):
        assert torch.equal(one[name], again[name])
        assert not torch.allclose(one[name], other[name], atol=1e-2)
    assert one["prompt_embeds"].shape == (1, MAX_TOKENS, 256)


def test_prompts_in_a_batch_do_not_mix(text):
    batch = text(["", "fox", "red apple"])
    for i, prompt in enumerate(["", "fox", "red apple"]):
        alone = text(prompt)
        for name, value in batch.items():
            torch.testing.assert_close(value[i : i + 1], alone[name], atol=1e-5, rtol=1e-5)


def test_text_file_survives_saving(text, tmp_path):
    text.save(tmp_path / "text.safetensors")
    again = DemoText.load(tmp_path / "text.safetensors")
    assert again.tokenizer.words == text.tokenizer.words
    for name, value in text("fox").items():
        assert torch.equal(value, again("fox")[name])


def test_another_file_is_refused_by_name():
    with pytest.raises(ValueError, match=r"vae.*is not a text encoder of the TeaCache demo"):
        DemoText.load(MODELS / VAE_FILE)


# The conversion


def test_vae_names_convert_both_ways():
    from safetensors.torch import load_file

    comfyui = load_file(MODELS / VAE_FILE)
    again = vae_to_comfyui(vae_to_diffusers(comfyui))
    assert again.keys() == comfyui.keys()
    assert all(torch.equal(again[k], comfyui[k]) for k in comfyui)


def test_transformer_is_the_same_function_in_both_hosts(comfy, exported):
    import comfy.sd as sd
    from diffusers import SD3Transformer2DModel

    options = {"dtype": torch.float32}
    host = sd.load_diffusion_model(str(MODELS / TRANSFORMER_FILE), model_options=options).model
    assert type(host).__name__ == "SD3"
    transformer = SD3Transformer2DModel.from_pretrained(exported / "transformer").float().eval()
    x, context, pooled = noise(2, 16, 16, 16), noise(2, MAX_TOKENS, 256), noise(2, 256)
    time = torch.tensor([250.0, 900.0])
    with torch.no_grad():
        ours = host.diffusion_model(x, time, context=context, y=pooled)
        theirs = transformer(x, context, pooled, time, return_dict=False)[0]
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_vae_is_the_same_function_in_both_hosts(comfy, exported):
    import comfy.latent_formats
    import comfy.sd
    import comfy.utils
    from diffusers import AutoencoderTiny

    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(MODELS / VAE_FILE)))
    sd3 = comfy.latent_formats.SD3()
    autoencoder = AutoencoderTiny.from_pretrained(exported / "vae").float().eval()
    latents, picture = noise(2, 16, 16, 16), noise(1, 128, 128, 3).sigmoid()
    with torch.no_grad():
        theirs = autoencoder.decode(latents).sample.permute(0, 2, 3, 1) / 2 + 0.5
        encoded = autoencoder.encode(picture.permute(0, 3, 1, 2) * 2 - 1).latents
    ours = vae.decode(sd3.process_out(latents)).float()
    torch.testing.assert_close(ours, theirs.clamp(0, 1), atol=1e-5, rtol=0)
    ours = sd3.process_in(vae.encode(picture)).float()
    torch.testing.assert_close(ours, encoded, atol=1e-5, rtol=1e-5)


def test_diffusers_pipeline_draws(exported):
    pipe, text = load_diffusers(exported)
    pipe.set_progress_bar_config(disable=True)
    prompts = ["red apple", "green apple"]
    pictures = pipe(
        **text(prompts),
        **negative(text(["", ""])),
        num_inference_steps=12,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(0) for _ in prompts],
        output_type="pt",
    ).images
    assert pictures.shape == (2, 3, 128, 128)
    corners = pictures[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.min() > 0.9, "the paper is white"
    red, green = pictures[:, :, 50:110, 30:100].mean((2, 3))
    assert red[0] > red[1] + 0.15, "a red apple is red"
    assert green[1] > green[0] + 0.1, "a green apple is green"


# The loader node


def test_schema(demo_nodes):
    schema = demo_nodes.LoadDemoTextEncoder.define_schema()
    assert schema.node_id == "LoadDemoTextEncoder"
    assert demo_nodes.LoadDemoTextEncoder in demo_nodes.NODES


def test_stock_clip_text_encode_takes_it(clip, text):
    import nodes

    [[tokens, extras]] = nodes.CLIPTextEncode().encode(clip, "a red apple")[0]
    expected = text("red apple")
    torch.testing.assert_close(tokens, expected["prompt_embeds"], atol=1e-5, rtol=1e-5)
    pooled = expected["pooled_prompt_embeds"]
    torch.testing.assert_close(extras["pooled_output"], pooled, atol=1e-5, rtol=1e-5)


def test_clone_and_the_nodes_that_use_it(clip):
    import nodes

    stopped = nodes.CLIPSetLastLayer().set_last_layer(clip, -2)[0]
    for one in (clip.clone(), stopped):
        assert torch.equal(one.encode("fox"), clip.encode("fox"))


def test_emphasis_moves_its_word_alone(clip):
    plain = clip.encode("red apple")
    strong = clip.encode("(red:1.5) apple")
    changed = (plain - strong).abs().amax(-1)[0] > 1e-6
    assert changed.tolist() == [False, True] + [False] * (MAX_TOKENS - 2)


def test_word_ids_and_words_come_back(clip):
    row = next(iter(clip.tokenize("red apple", return_word_ids=True).values()))[0]
    assert [t[2] for t in row[:4]] == [0, 1, 2, 0]
    words = clip.tokenizer.untokenize([t[:2] for t in row])
    assert [word for _, word in words][:3] == ["", "red", "apple"]
