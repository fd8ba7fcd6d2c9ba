"""The nodes of diffusers pipelines: load, cache, sample."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch
from node_calls import prepared
from paths import ROOT, TESTS

pytest.importorskip("diffusers")

from teacache.demo.model import export_diffusers

STEPS = 9


@pytest.fixture
def node(pack: ModuleType, server: Any) -> Any:
    """Calls a node of the pack as ComfyUI does: (class id, inputs) -> (outputs, lines shown)."""

    def call(class_id: str, **inputs: Any) -> tuple[tuple[Any, ...], list[str]]:
        before = len(server.sent)
        with torch.inference_mode():
            out = prepared(class_id).EXECUTE_NORMALIZED(**inputs)
        sent = server.sent[before:]
        lines = [data["text"] for event, data in sent if event == "text"]
        ready = [data for event, data in sent if event == "teacache.ready"]
        lines += [" ".join([data["line"], *data["notes"]]) for data in ready]
        return out.result, lines

    return call


@pytest.fixture
def demo(node: Any) -> Any:
    (pipeline,), lines = node("LoadDiffusionPipeline", pipeline="TeaCache demo model")
    assert lines == [] and pipeline.cache is None
    return pipeline


def sample(node: Any, pipeline: Any, **inputs: Any) -> tuple[torch.Tensor, dict, str]:
    """The pictures, the report, and the line on the node."""
    values = {
        "prompt": "butterfly",
        "steps": STEPS,
        "guidance": 3.0,
        "seed": 7,
        "width": 64,
        "height": 64,
    }
    values |= inputs
    (image, report), lines = node("DiffusionPipelineSampler", pipeline=pipeline, **values)
    return image, json.loads(report), lines[-1]


def test_cached_and_uncached_from_one_loader(node: Any, demo: Any, server: Any) -> None:
    plain, report, line = sample(node, demo)
    assert plain.shape == (1, 64, 64, 3) and 0 <= plain.min() < plain.max() <= 1
    assert report == {} and line == "No cache on this pipeline."

    (fast,), lines = node("ApplyTeaCacheDiffusers", pipeline=demo, rel_l1_thresh=1.5)
    assert lines[0].startswith("Stable Diffusion 3 / 3.5 · forecast · threshold 1.5 (set)")
    cached, report, line = sample(node, fast)
    assert 0 < report["skipped"] < STEPS and line == report["summary"]
    assert not torch.equal(cached, plain)
    events = [data for event, data in server.sent if event == "teacache.step"]
    assert len(events) == STEPS and {data["node"] for data in events} == {"5"}
    assert torch.equal(sample(node, fast)[0], cached), "a second run differs"
    assert torch.equal(sample(node, demo)[0], plain), "the cache stayed on the shared pipeline"

    (off,), lines = node("ApplyTeaCacheDiffusers", pipeline=fast, rel_l1_thresh=0.0)
    assert "· off" in lines[0] and "replaces the cache" in lines[0]
    assert torch.equal(sample(node, off)[0], plain)


def test_untouched_widget_takes_the_familys_threshold(node: Any, demo: Any) -> None:
    _, lines = node("ApplyTeaCacheDiffusers", pipeline=demo)
    assert "(recommended)" in lines[0]


def test_both_apply_nodes_have_the_same_widgets(pack: ModuleType) -> None:
    import nodes

    def widgets(name: str) -> dict:
        inputs = nodes.NODE_CLASS_MAPPINGS[name].INPUT_TYPES()
        return dict(list(inputs["required"].items())[1:])

    assert widgets("ApplyTeaCache") == widgets("ApplyTeaCacheDiffusers")
    apply = import_module(f"{pack.__name__}.nodes.apply_pipeline").ApplyTeaCacheDiffusers
    assert "rel_l1_thresh" in apply.validate_inputs(rel_l1_thresh=-1.0)


def test_from_an_image(node: Any, demo: Any) -> None:
    image, *_ = sample(node, demo)
    near, *_ = sample(node, demo, image=image, strength=0.2)
    far, *_ = sample(node, demo, image=image, strength=0.9, prompt="apple")
    assert near.shape == far.shape == image.shape
    assert (near - image).abs().mean() < (far - image).abs().mean()
    two, *_ = sample(node, demo, image=torch.cat([image, near]))
    assert two.shape == (2, 64, 64, 3)


def test_size_batch_and_negative(node: Any, demo: Any) -> None:
    image, *_ = sample(node, demo, width=64, height=96, batch_size=2)
    assert image.shape == (2, 96, 64, 3)
    one, *_ = sample(node, demo, negative_prompt="apple")
    assert not torch.equal(one, sample(node, demo)[0])


def test_what_a_pipeline_does_not_take_is_said(node: Any, demo: Any) -> None:
    from dataclasses import replace

    class Narrow(type(demo.pipe)):
        def __call__(self, prompt, num_inference_steps, generator, output_type):
            pipe = super()
            return pipe.__call__(
                prompt, num_inference_steps=num_inference_steps, generator=generator,
                output_type=output_type,
            )  # fmt: skip

    narrow = Narrow(**demo.pipe.components)
    narrow.demo_text = demo.pipe.demo_text
    *_, line = sample(node, replace(demo, pipe=narrow), height=0, negative_prompt="apple")
    for label in ("guidance", "negative", "width"):
        assert f"{label} is not used: Narrow does not take it." in line
    assert "height" not in line


def test_progress_and_previews(node: Any, demo: Any, monkeypatch: Any) -> None:
    import comfy.utils

    # Newer versions of ComfyUI send at most one of these in 0.1 s.
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0, raising=False)
    seen = []
    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(lambda *args, **named: seen.append(args))
    try:
        sample(node, demo)
    finally:
        comfy.utils.set_progress_bar_global_hook(before)
    assert [(value, total) for value, total, _ in seen] == [(n, STEPS) for n in range(1, STEPS + 1)]
    shown = [preview for _, _, preview in seen if preview is not None]
    kind, picture, _ = shown[0]
    assert kind == "JPEG" and picture.size == (64, 64)


def test_interruption_leaves_the_pipeline_clean(node: Any, demo: Any, server: Any) -> None:
    from comfy import model_management

    plain, *_ = sample(node, demo)
    (fast,), _ = node("ApplyTeaCacheDiffusers", pipeline=demo, rel_l1_thresh=1.5)
    cached, *_ = sample(node, fast)
    send = server.send_sync

    def interrupt(event: str, data: dict, sid: str | None = None) -> None:
        send(event, data, sid)
        if event == "teacache.step":
            model_management.interrupt_current_processing()

    server.send_sync = interrupt
    with pytest.raises(model_management.InterruptProcessingException):
        sample(node, fast)
    server.send_sync = send
    assert not model_management.processing_interrupted()
    (end,) = [data for event, data in server.sent[-3:] if event == "teacache.end"]
    assert end["report"]["outcome"] == "interrupted"
    hooked = [
        m for m in demo.pipe.transformer.modules() if m._forward_hooks or "forward" in vars(m)
    ]
    assert hooked == []
    assert torch.equal(sample(node, demo)[0], plain)
    assert torch.equal(sample(node, fast)[0], cached)


def test_the_environment_turns_the_cache_on(node: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("DIFFUSION_CACHE_BACKEND", "tea_cache")
    monkeypatch.setenv("DIFFUSION_CACHE_CONFIG", '{"rel_l1_thresh": 1.5}')
    (pipeline,), lines = node("LoadDiffusionPipeline", pipeline="TeaCache demo model")
    assert "threshold 1.5 (set)" in lines[0] and "DIFFUSION_CACHE_BACKEND" in lines[0]
    cached, report, _ = sample(node, pipeline)
    assert report["skipped"] > 0
    (same,), _ = node("ApplyTeaCacheDiffusers", pipeline=pipeline, rel_l1_thresh=1.5)
    assert torch.equal(sample(node, same)[0], cached)
    (off,), _ = node("ApplyTeaCacheDiffusers", pipeline=pipeline, rel_l1_thresh=0.0)
    assert sample(node, off)[1]["skipped"] == 0
    monkeypatch.setenv("DIFFUSION_CACHE_BACKEND", "magic")
    with pytest.raises(Exception, match="unknown backend 'magic'; known: tea_cache, none"):
        node("LoadDiffusionPipeline", pipeline="TeaCache demo model")


def test_folders_of_models_diffusers(node: Any, tmp_path: Any, monkeypatch: Any) -> None:
    import folder_paths

    import nodes

    paths = ([str(tmp_path)], ["folder"])
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusers", paths)
    export_diffusers(tmp_path / "mine" / "demo")
    (tmp_path / "other").mkdir()
    inputs = nodes.NODE_CLASS_MAPPINGS["LoadDiffusionPipeline"].INPUT_TYPES()
    _, options = inputs["required"]["pipeline"]
    assert options["options"] == ["TeaCache demo model", "mine/demo"]
    (pipeline,), _ = node("LoadDiffusionPipeline", pipeline="mine/demo", precision="fp32")
    image, *_ = sample(node, pipeline)
    (shipped,), _ = node("LoadDiffusionPipeline", pipeline="TeaCache demo model")
    assert torch.equal(image, sample(node, shipped)[0])
    weights = tmp_path / "mine" / "demo" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(Exception, match=r"pipeline: .* holds only pickled weights"):
        node("LoadDiffusionPipeline", pipeline="mine/demo")
    with pytest.raises(Exception, match="pipeline: no such folder"):
        node("LoadDiffusionPipeline", pipeline="gone")


def test_precision(node: Any) -> None:
    (pipeline,), _ = node("LoadDiffusionPipeline", pipeline="TeaCache demo model", precision="bf16")
    assert pipeline.pipe.dtype is torch.bfloat16
    image, *_ = sample(node, pipeline)
    assert image.dtype is torch.float32 and image.isfinite().all()


def test_the_pack_loads_without_the_extra(comfy_dir: Any) -> None:
    """In a process that cannot import the extra's packages."""
    script = f"""
import asyncio, sys
sys.modules |= dict.fromkeys(("diffusers", "accelerate"))
sys.path[:0] = [{str(comfy_dir)!r}, {str(TESTS / "support")!r}]
import comfy.cli_args
comfy.cli_args.args.cpu = True
import comfy.model_management, utils.extra_config, nodes, server
from node_calls import prepared
from recording_server import RecordingServer
server.PromptServer.instance = RecordingServer()
assert asyncio.run(nodes.load_custom_node({str(ROOT)!r}, module_parent="custom_nodes"))
try:
    prepared("LoadDiffusionPipeline").EXECUTE_NORMALIZED("TeaCache demo model")
except Exception as error:
    print("said:", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    line = "said: diffusers pipelines need an extra: pip install 'teacache-studio[diffusers]'"
    assert line in done.stdout, done.stderr[-2000:]
