"""`teacache generate` with the demo model: one cached picture, however it is turned on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from PIL import Image

pytest.importorskip("diffusers")
import torch

from teacache.cli.main import main
from teacache.config import TeaCacheConfig
from teacache.demo.model import export_diffusers
from teacache.environment import resolve_cache_config
from teacache.errors import UserError

STEPS, THRESHOLD = 20, 0.3
COMMON = [
    "--model", "demo", "--prompt", "butterfly", "--negative", "apple",
    "--steps", str(STEPS), "--guidance", "3", "--seed", "7",
]  # fmt: skip
VARIABLES = ("DIFFUSION_CACHE_BACKEND", "DIFFUSION_CACHE_CONFIG")


@pytest.fixture(autouse=True)
def fresh_shell(monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def pixels(folder, name="image.png"):
    with Image.open(folder / name) as picture:
        return picture.convert("RGB").tobytes()


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def made(out, *arguments):
    """The picture and report of a run that succeeded."""
    assert main(["generate", *COMMON, "--out", str(out), *map(str, arguments)]) == 0
    return pixels(out), report_of(out)


@pytest.fixture(scope="module")
def uncached(tmp_path_factory):
    return made(tmp_path_factory.mktemp("uncached"))


@pytest.fixture(scope="module")
def by_flag(tmp_path_factory):
    return made(
        tmp_path_factory.mktemp("flag"),
        "--cache-backend", "tea_cache", "--tea-cache-rel-l1-thresh", THRESHOLD,
    )  # fmt: skip


def decisions(report):
    return [record["skipped"] for record in report["run"]["records"]]


def test_flag_json_and_environment_give_the_same_picture(uncached, by_flag, tmp_path):
    picture, report = by_flag
    assert report["run"]["threshold"] == THRESHOLD and 0 < report["run"]["skipped"] < STEPS
    assert len(decisions(report)) == STEPS
    assert picture != uncached[0] and uncached[1]["run"] is None

    config = json.dumps({"rel_l1_thresh": THRESHOLD})
    by_json = made(tmp_path / "json", "--cache-backend", "tea_cache", "--cache-config", config)
    shell = {"PYTHONPATH": str(ROOT), VARIABLES[0]: "tea_cache", VARIABLES[1]: config}
    command = [sys.executable, "-m", "teacache", "generate", *COMMON, "--out", "environment"]
    subprocess.run(command, cwd=tmp_path, env=os.environ | shell, check=True, timeout=300)
    by_environment = pixels(tmp_path / "environment"), report_of(tmp_path / "environment")
    for other, told in (by_json, by_environment):
        assert other == picture
        assert decisions(told) == decisions(report)
        assert told["run"]["skipped"] == report["run"]["skipped"]
    assert made(tmp_path / "none", "--cache-backend", "none")[0] == uncached[0]


def test_the_report_counts_the_calls_that_a_hook_counts(by_flag):
    from teacache.hosts.diffusers.generation import Request, generate
    from teacache.hosts.diffusers.loading import load_pipeline

    pipe = load_pipeline("demo")
    calls = {"model": 0, "blocks": 0}

    def count(name):
        def hook(module, args):
            calls[name] += 1

        return hook

    blocks = pipe.transformer.transformer_blocks
    pipe.transformer.context_embedder.register_forward_pre_hook(count("model"))
    blocks[1].attn.register_forward_pre_hook(count("blocks"))
    request = Request("butterfly", "apple", steps=STEPS, guidance=3.0, seed=7)
    cached = generate(pipe, request, cache=TeaCacheConfig(rel_l1_thresh=THRESHOLD))
    skipped = STEPS - calls["blocks"]
    assert cached.report.skipped == skipped == by_flag[1]["run"]["skipped"]
    uncached = generate(pipe, request).pictures
    off = generate(pipe, request, cache=TeaCacheConfig(rel_l1_thresh=0.0)).pictures
    assert torch.equal(off, uncached)
    assert not torch.equal(cached.pictures, uncached)


def test_threshold_0_is_bit_identical(uncached, tmp_path):
    config = '{"rel_l1_thresh": 0}'
    picture, report = made(tmp_path, "--cache-backend", "tea_cache", "--cache-config", config)
    assert picture == uncached[0] and report["run"]["skipped"] == 0


def test_an_exported_folder_gives_the_demo_models_picture(uncached, tmp_path):
    folder = export_diffusers(tmp_path / "model")
    assert made(tmp_path / "out", "--model", folder)[0] == uncached[0]


def test_compare(uncached, by_flag, tmp_path, capsys):
    picture, report = made(
        tmp_path, "--cache-backend", "tea_cache", "--tea-cache-rel-l1-thresh", THRESHOLD,
        "--compare",
    )  # fmt: skip
    assert picture == by_flag[0] and pixels(tmp_path, "uncached.png") == uncached[0]
    assert decisions(report) == decisions(by_flag[1])
    assert report["psnr"] > 15 and 0.5 < report["ssim"] < 1
    assert report["speedup"] == pytest.approx(report["uncached_seconds"] / report["seconds"])
    assert sorted(report["files"]) == sorted(p.name for p in tmp_path.glob("*.png"))
    told = capsys.readouterr()
    assert "uncached" in told.out and f"{report['psnr']:.1f} dB" in told.out
    assert f"{STEPS}/{STEPS}" in told.err


def test_from_an_image(tmp_path):
    source = tmp_path / "in.png"
    Image.new("RGB", (128, 128), "orange").save(source)
    arguments = ["--image", source, "--strength", "0.5"]
    plain, report = made(tmp_path / "plain", *arguments)
    assert report["image"] == "in.png" and report["pipeline"] == "DemoImagePipeline"
    cached, report = made(tmp_path / "cached", *arguments, "--cache-backend", "tea_cache",
                          "--tea-cache-rel-l1-thresh", "0.6")  # fmt: skip
    assert report["run"]["evaluations"] == STEPS // 2 and report["run"]["skipped"] > 0
    assert cached != plain
    assert made(tmp_path / "stronger", "--image", source, "--strength", "0.9")[0] != plain


def test_invalid_values_are_told(tmp_path, monkeypatch, capsys):
    from teacache.hosts.diffusers import generation

    real = generation.to_tensor
    monkeypatch.setattr(generation, "to_tensor", lambda output: real(output) * float("nan"))
    _, report = made(tmp_path, "--steps", "2")
    assert "try another precision" in report["notes"][0] in capsys.readouterr().out


def test_a_batch_and_what_is_not_taken(tmp_path, capsys):
    _, report = made_batch(tmp_path)
    assert report["files"] == ["image_001.png", "image_002.png"]
    assert pixels(tmp_path, "image_001.png") != pixels(tmp_path, "image_002.png")
    assert report["notes"] == ["strength is not used: there is no image."]
    assert report["notes"][0] in capsys.readouterr().out


def made_batch(out):
    arguments = ["--batch", "2", "--strength", "0.5", "--width", "64", "--height", "64"]
    assert main(["generate", *COMMON, "--out", str(out), *arguments]) == 0
    return None, report_of(out)


def broken(tmp_path: Path, how: str) -> Path:
    """The demo model as a folder, damaged."""
    folder = export_diffusers(tmp_path / "model")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    if how == "pickle":
        weights.rename(weights.with_suffix(".bin"))
    elif how == "missing":
        weights.unlink()
    elif how == "short":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "component":
        shutil.rmtree(folder / "vae")
    elif how == "index":
        (folder / "model_index.json").write_text("{")
    elif how == "no index":
        (folder / "model_index.json").unlink()
    elif how == "class":
        edit(folder / "model_index.json", _class_name="NoSuchPipeline")
    elif how == "code":
        edit(folder / "model_index.json", transformer=["my_code", "Evil"])
    elif how == "remote":
        edit(folder / "model_index.json", vae=["transformers", "AutoModel"])
        edit(folder / "vae" / "config.json", auto_map={"AutoModel": "evil.Model"})
    elif how == "shard":
        index = weights.with_suffix(".safetensors.index.json")
        index.write_text(json.dumps({"weight_map": {"a": "part-2.safetensors"}}))
    elif how == "config":
        edit(folder / "transformer" / "config.json", num_layers=3)
    return folder


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("pickle", "holds only pickled weights (diffusion_pytorch_model.bin)"),
        ("missing", "has a config.json but no weights (*.safetensors)"),
        ("short", "diffusion_pytorch_model.safetensors is broken"),
        ("component", "missing folder"),
        ("index", "model_index.json cannot be read"),
        ("no index", "holds no model_index.json"),
        ("class", "has no pipeline 'NoSuchPipeline'"),
        ("code", "transformer needs code from the folder (my_code, Evil), which is never run"),
        ("remote", "vae needs code from the folder (transformers, AutoModel)"),
        ("shard", "missing file"),
        ("config", "cannot be loaded"),
    ],
)
def test_a_broken_folder(how, line, tmp_path, capsys):
    refused(["--model", str(broken(tmp_path, how))], line, tmp_path, capsys)


def refused(arguments, line, tmp_path, capsys):
    """Exit status 2, one line on standard error beside the progress, and nothing written."""
    out = tmp_path / "out"
    assert main(["generate", *COMMON, "--out", str(out), *arguments]) == 2
    told = capsys.readouterr()
    last = told.err.strip().splitlines()[-1]
    assert last.startswith("teacache: ") and line in last, told.err
    assert "Traceback" not in told.err and told.out == ""
    assert not out.exists()


ON = ["--cache-backend", "tea_cache"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([*ON, "--cache-config", '{"rel_l1_tresh": 0.2}'], "did you mean 'rel_l1_thresh'?"),
        ([*ON, "--cache-config", '{"rel_l1_thresh": NaN}'], "must be a number from 0 to 100"),
        ([*ON, "--cache-config", '{"rel_l1_thresh": -1}'], "must be a number from 0 to 100"),
        ([*ON, "--cache-config", '{"profile": "flux1-dev"}'], "made for the family 'flux1'"),
        ([*ON, "--cache-config", "0.2"], "must be a JSON object"),
        ([*ON, "--cache-config", "{"], "--cache-config: not JSON"),
        ([*ON, "--tea-cache-rel-l1-thresh", "-0.1"], "must be a number from 0 to 100"),
        ([*ON, "--tea-cache-rel-l1-thresh", "nan"], "must be a number from 0 to 100"),
        (["--cache-backend", "teacache"], "did you mean 'tea_cache'? known: tea_cache, none"),
        (["--cache-config", "{}"], "no cache is on; add --cache-backend tea_cache"),
        (["--compare"], "--compare: no cache is on"),
        (["--width", "100"], "DemoPipeline: `height` and `width` have to be divisible by 16"),
        (["--steps", "0"], "must be a whole number from 1"),
        (["--image", "nowhere.png"], "--image nowhere.png: no such file"),
        (["--image", __file__], "no picture that can be read"),
        (["--model", "nowhere"], "no such folder"),
        (["--model", "no-body/no-model"], "is not in the local cache; --download fetches it"),
    ],
)
def test_bad_input(arguments, line, tmp_path, capsys):
    refused(arguments, line, tmp_path, capsys)


def test_an_out_that_is_a_file(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    assert main(["generate", *COMMON, "--out", str(file)]) == 2
    assert "cannot be a folder" in capsys.readouterr().err


def test_the_switch():
    tea = {"DIFFUSION_CACHE_BACKEND": "tea_cache"}
    given = {**tea, "DIFFUSION_CACHE_CONFIG": '{"rel_l1_thresh": 0.4, "max_skip": 2}'}
    assert resolve_cache_config({}) is None
    assert resolve_cache_config({"DIFFUSION_CACHE_BACKEND": ""}) is None
    assert resolve_cache_config(tea) == TeaCacheConfig(rel_l1_thresh=None)
    assert resolve_cache_config(given) == TeaCacheConfig(rel_l1_thresh=0.4, max_skip=2)
    assert resolve_cache_config(given, threshold=0.1) == TeaCacheConfig(
        rel_l1_thresh=0.1, max_skip=2
    )
    argument = '{"rel_l1_thresh": 0.3}'
    assert resolve_cache_config(given, config=argument) == TeaCacheConfig(rel_l1_thresh=0.3)
    assert resolve_cache_config(given, backend="none") is None
    with pytest.raises(UserError, match="DIFFUSION_CACHE_BACKEND: unknown backend 'deep_cache'"):
        resolve_cache_config({"DIFFUSION_CACHE_BACKEND": "deep_cache"})
    with pytest.raises(UserError, match="DIFFUSION_CACHE_CONFIG: unknown setting"):
        resolve_cache_config({**tea, "DIFFUSION_CACHE_CONFIG": '{"thresh": 1}'})


def test_without_the_extra(monkeypatch, capsys, tmp_path):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "diffusers" else real(name)
    )
    refused([], "pip install 'teacache-studio[diffusers]'", tmp_path, capsys)


def test_nothing_is_fetched(tmp_path, monkeypatch):
    """Loading opens no connection, not even to ask."""
    import socket

    def refuse(*args):
        raise AssertionError(f"a connection was tried: {args}")

    from teacache.hosts.diffusers.loading import load_pipeline

    folder = export_diffusers(tmp_path / "model")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_pipeline(str(folder))
    with pytest.raises(UserError, match="is not in the local cache"):
        load_pipeline("no-body/no-model")
    assert os.environ.get("HF_HUB_OFFLINE") is None
