"""Sweep TeaCache, called as ComfyUI calls it, on the demo model."""

from __future__ import annotations

import asyncio
import sys

import pytest
import tiny_models
import torch
from node_calls import prepared
from sampling import spying

STEPS = 8


@pytest.fixture(scope="module")
def demo(pack):
    """The demo model, its autoencoder and two prompts."""
    import nodes

    encoder = prepared("LoadDemoTextEncoder")
    (clip,) = encoder.EXECUTE_NORMALIZED(text_encoder="teacache_demo_text.safetensors").result
    with torch.inference_mode():
        return {
            "model": nodes.UNETLoader().load_unet("teacache_demo.safetensors", "default")[0],
            "vae": nodes.VAELoader().load_vae("teacache_demo_vae.safetensors")[0],
            "positive": nodes.CLIPTextEncode().encode(clip, "owl")[0],
            "negative": nodes.CLIPTextEncode().encode(clip, "")[0],
            "latent_image": {"samples": torch.zeros(1, 16, 16, 16)},
        }


def without_lpips(a, b):
    raise ImportError


@pytest.fixture
def sweep(pack, server, demo, monkeypatch, tmp_path):
    """Runs the node with the demo model; gives (node output, lines shown on the node)."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    metrics = sys.modules[f"{pack.__name__}.teacache.comparison.metrics"]
    monkeypatch.setattr(metrics, "lpips", without_lpips)  # it would ask the network for weights
    node = prepared("TeaCacheSweep")
    widgets = {
        "seed": 3, "steps": STEPS, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple",
        "denoise": 1.0, "x": "rel_l1_thresh: 0, 0.6", "y": "",
    }  # fmt: skip

    def call(**changes):
        with torch.inference_mode():
            output = node.EXECUTE_NORMALIZED(**{**demo, **widgets, **changes})
        return output, [data["text"] for event, data in server.sent if event == "text"]

    return call


def kernel(demo, model, steps=STEPS):
    """The picture of ComfyUI's own KSampler and VAE Decode."""
    import nodes

    with torch.inference_mode():
        (latent,) = nodes.common_ksampler(
            model, 3, steps, 3.0, "euler", "simple", demo["positive"], demo["negative"],
            demo["latent_image"],
        )  # fmt: skip
        return nodes.VAEDecode().decode(demo["vae"], latent)[0]


def test_the_pictures_are_those_of_the_nodes_it_stands_for(pack, sweep, demo):
    output, lines = sweep(y="mode: faithful")
    grid, images, table = output.result
    assert images.shape[0] == 4 and grid.shape[0] == 1 and grid.shape[1] > grid.shape[2] / 3
    apply = prepared("ApplyTeaCache", "6")
    (model,) = apply.EXECUTE_NORMALIZED(
        model=demo["model"], rel_l1_thresh=0.6, mode="faithful"
    ).result
    native = kernel(demo, demo["model"]).clamp(0, 1)
    assert torch.equal(images[0:1], native)
    assert torch.equal(images[1:2], native), "threshold 0 is not the reference"
    assert torch.equal(images[2:3], kernel(demo, model).clamp(0, 1))
    assert not torch.equal(images[2:3], native)
    rows = table.splitlines()
    assert rows[1].startswith("uncached") and f"{STEPS} of {STEPS}" in rows[1]
    assert rows[2].startswith("rel_l1_thresh 0, mode faithful") and "identical" in rows[2]
    assert rows[3].startswith("rel_l1_thresh 0.6, mode faithful")
    assert rows[4].startswith("6 steps, uncached")
    assert torch.equal(images[3:4], kernel(demo, demo["model"], 6).clamp(0, 1))
    assert output.ui["text"] == (table,) and len(output.ui["images"]) == 1
    assert lines[0] == "warming up"
    assert any(line.startswith("run 2 of 3: rel_l1_thresh 0, mode faithful, 0:") for line in lines)
    assert any(line.endswith(" left") for line in lines)
    assert lines[-1].startswith("4 pictures in ")


def test_counts_are_those_that_a_hook_counts(pack, demo):
    backend, points = model_backend(pack, demo, demo["model"], "rel_l1_thresh=0,0.6")
    with spying(demo["model"]) as spy, torch.inference_mode():
        backend.sample(None, lambda step, steps: None)
        assert len(spy.per_call) == STEPS
        for point in points:
            spy.per_call.clear()
            (run,) = backend.sample(point, lambda step, steps: None).runs
            assert len(spy.per_call) == (run["computed"] or STEPS)
    assert 0 < run["skipped"] == STEPS - len(spy.per_call)


def model_backend(pack, demo, model, x):
    backends = sys.modules[f"{pack.__name__}.teacache.hosts.comfyui.backend"]
    comparison = sys.modules[f"{pack.__name__}.teacache.comparison"]
    settings = backends.SamplerSettings(STEPS, 3.0, "euler", "simple")
    prompt = backends.Prompt(demo["positive"], demo["negative"], 3)
    points = comparison.grid_points(comparison.parse_axis(x, "x"))
    backend = backends.ModelSamplingBackend(
        model, demo["vae"], demo["latent_image"], settings, prompt, lambda preview: None
    )
    return backend, points


def test_an_earlier_cache_gives_the_other_settings(pack, sweep, demo):
    apply = prepared("ApplyTeaCache", "6")
    (model,) = apply.EXECUTE_NORMALIZED(
        model=demo["model"], rel_l1_thresh=90.0, mode="faithful", max_skip=1
    ).result
    backend, (point,) = model_backend(pack, demo, model, "rel_l1_thresh=80")
    with torch.inference_mode():
        (run,) = backend.sample(point, lambda step, steps: None).runs
        assert backend.sample(None, lambda step, steps: None).runs == []
    assert (run["method"], run["threshold"]) == ("faithful", 80.0)
    assert run["skipped"] == (STEPS - 2) // 2, "max_skip 1 is not in force"
    reports = sys.modules[f"{pack.__name__}.teacache.hosts.comfyui.patch"].cached_model(model)
    assert reports.report_for() is None, "the model given was sampled with its own cache"


def test_a_point_that_cannot_run(sweep):
    output, _ = sweep(x="profile: flux1-dev, auto", steps=4)
    _, images, table = output.result
    assert images.shape[0] == 2
    assert "profile flux1-dev: cannot run: profile 'flux1-dev' is made for the family" in table


def test_interrupted(sweep, monkeypatch):
    from comfy import model_management

    def stop_later(value, total, preview, prompt_id=None, node_id=None):
        if value > 1.5:
            model_management.interrupt_current_processing()
        model_management.throw_exception_if_processing_interrupted()

    monkeypatch.setattr("comfy.utils.PROGRESS_BAR_HOOK", stop_later)
    with pytest.raises(model_management.InterruptProcessingException):
        sweep()
    monkeypatch.setattr("comfy.utils.PROGRESS_BAR_HOOK", None)
    assert sweep(steps=3)[0].result[1].shape[0] == 3


def test_progress_runs_over_all_points(sweep, monkeypatch):
    seen = []
    # Newer versions of ComfyUI send at most one of these in 0.1 s.
    monkeypatch.setattr("comfy.utils.PROGRESS_THROTTLE_MIN_INTERVAL", 0.0, raising=False)
    monkeypatch.setattr(
        "comfy.utils.PROGRESS_BAR_HOOK",
        lambda value, total, preview, prompt_id=None, node_id=None: seen.append((value, total)),
    )
    sweep(steps=4)
    assert [value for value, _ in seen] == sorted(value for value, _ in seen)
    assert seen[-1] == (3, 3) and len(seen) > 3 * 4


def test_a_model_that_is_left_as_it_is(sweep):
    with pytest.raises(Exception, match=r"model: .* the model is left as it is"):
        sweep(model=tiny_models.left_alone())


BAD = [
    ({"x": ""}, "x: write a setting and its values, such as rel_l1_thresh=0.1"),
    ({"x": "thresh: 1"}, "x: unknown setting 'thresh'"),
    ({"x": "rel_l1_thresh: nan"}, "x: rel_l1_thresh must be a number from 0 to 100, not nan"),
    ({"y": "mode: slow"}, "y: mode must be one of forecast, faithful, not 'slow'"),
    ({"y": "rel_l1_thresh: 1"}, "x and y are both rel_l1_thresh"),
    ({"x": "preset: fast", "y": "mode: faithful"}, "a preset decides mode as well"),
    ({"steps": 0}, "steps"),
]


@pytest.mark.parametrize(("changes", "told"), BAD)
def test_bad_text_is_refused_before_anything_runs(pack, server, changes, told):
    import execution

    graph = {
        "1": {
            "class_type": "UNETLoader",
            "inputs": {"unet_name": "teacache_demo.safetensors", "weight_dtype": "default"},
        },
        "2": {
            "class_type": "LoadDemoTextEncoder",
            "inputs": {"text_encoder": "teacache_demo_text.safetensors"},
        },
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": "owl"}},
        "4": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 128, "height": 128, "batch_size": 1},
        },
        "5": {"class_type": "VAELoader", "inputs": {"vae_name": "teacache_demo_vae.safetensors"}},
        "6": {
            "class_type": "TeaCacheSweep",
            "inputs": {
                "model": ["1", 0], "positive": ["3", 0], "negative": ["3", 0],
                "latent_image": ["4", 0], "vae": ["5", 0], "x": "rel_l1_thresh: 0.1", "y": "",
                "seed": 0, "steps": 4, "cfg": 3.0, "sampler_name": "euler",
                "scheduler": "simple", "denoise": 1.0, "repeats": 1,
            },
        },
    }  # fmt: skip
    assert asyncio.run(execution.validate_prompt("a", graph, None))[0]
    graph["6"]["inputs"].update(changes)
    valid, _, _, errors = asyncio.run(execution.validate_prompt("b", graph, None))
    assert not valid
    assert told in errors["6"]["errors"][0]["details"]
