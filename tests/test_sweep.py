"""The sweep: what it takes, how it measures, and the command on workflows and pipelines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from teacache.cli import main
from teacache.config import ConfigError, TeaCacheConfig
from teacache.errors import GraphFailed, UserError
from teacache.graph import NodeKind, as_graph
from teacache.pictures.pixels import to_picture
from teacache.pictures.sweep import Layout, sweep_picture
from teacache.sweep import Sample, Sweep, grid_points, parse_axis
from teacache.sweep.results import notes, results, table
from teacache.sweep.surgery import (
    PICTURE,
    apply_nodes,
    find_picture,
    only_picture,
    set_prompt,
    set_seed,
    shortened,
    uncached,
    with_settings,
)

ROOT = Path(__file__).parent.parent
API = ROOT / "workflows" / "api"
QUICKSTART = API / "quickstart.json"


@pytest.fixture(autouse=True)
def without_lpips(monkeypatch):
    """Its weights would be asked for from the network."""

    def missing(a, b):
        raise ImportError

    monkeypatch.setattr("teacache.metrics.lpips", missing)


# --- axes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "setting", "values"),
    [
        ("rel_l1_thresh=0.1,0.2", "rel_l1_thresh", (0.1, 0.2)),
        (" rel_l1_thresh : 0 , auto,1e-1", "rel_l1_thresh", (0.0, None, 0.1)),
        ("mode: forecast, faithful", "mode", ("forecast", "faithful")),
        ("max_skip=0,3", "max_skip", (0, 3)),
        ("preset=quality,2.0x", "preset", ("quality", "2.0x")),
        ("profile=auto,sd3-uncalibrated", "profile", ("auto", "sd3-uncalibrated")),
    ],
)
def test_axes(text, setting, values):
    axis = parse_axis(text, "x")
    assert (axis.setting, axis.values) == (setting, values)
    assert [type(value) for value in axis.values] == [type(value) for value in values]


def test_points_are_every_combination_row_by_row():
    x, y = parse_axis("rel_l1_thresh=0,0.25", "x"), parse_axis("mode=forecast,faithful", "y")
    points = grid_points(x, y)
    assert [point.label for point in points] == [
        "rel_l1_thresh 0, mode forecast",
        "rel_l1_thresh 0.25, mode forecast",
        "rel_l1_thresh 0, mode faithful",
        "rel_l1_thresh 0.25, mode faithful",
    ]
    assert [(point.column, point.row) for point in points] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    config = points[3].config(TeaCacheConfig(max_skip=2, preset="fast"))
    assert config == TeaCacheConfig(rel_l1_thresh=0.25, mode="faithful", max_skip=2)


def test_a_preset_is_not_held_back_by_a_threshold():
    (point,) = grid_points(parse_axis("preset=fast", "x"))
    config = point.config(TeaCacheConfig(rel_l1_thresh=0.0))
    assert config == TeaCacheConfig(rel_l1_thresh=None, preset="fast")


W = [str(QUICKSTART)]
REFUSED = [
    ([], "name either a workflow file or a pipeline with --model"),
    ([*W, "--model", "demo"], "name either a workflow file or a pipeline"),
    (["--model", "demo"], "--model: needs --prompt TEXT"),
    ([*W, "--x", ""], "--x: write a setting and its values, such as rel_l1_thresh=0.1"),
    ([*W, "--x", "rel_l1_thresh"], "--x: write a setting and its values"),
    ([*W, "--x", "=0.1"], "--x: write a setting and its values"),
    ([*W, "--x", "predicter=reuse"], "unknown setting 'predicter'; did you mean 'predictor'?"),
    ([*W, "--x", "zzz=1"], "--x: unknown setting 'zzz'. Known: rel_l1_thresh, start_percent"),
    ([*W, "--y", "mode="], "--y: no values for mode; separate them by commas"),
    ([*W, "--thresholds", ""], "--thresholds: no values for rel_l1_thresh"),
    ([*W, "--thresholds", "0.1,,0.2"], "--thresholds: an empty value in '0.1,,0.2'"),
    ([*W, "--thresholds", "0.1,0.10"], "--thresholds: rel_l1_thresh 0.1 is listed twice"),
    ([*W, "--thresholds", "nan"], "rel_l1_thresh must be a number from 0 to 100, not nan"),
    ([*W, "--thresholds", "0.1,inf"], "rel_l1_thresh must be a number from 0 to 100, not inf"),
    ([*W, "--thresholds=-1"], "rel_l1_thresh must be a number from 0 to 100, not -1"),
    ([*W, "--thresholds", "low"], "must be a number from 0 to 100, not str 'low'"),
    ([*W, "--modes", "slow"], "--modes: mode must be one of forecast, faithful, not 'slow'"),
    ([*W, "--presets", "best"], "--presets: preset must be one of auto, faithful, quality"),
    ([*W, "--x", "max_skip=1.5"], "max_skip must be a whole number from 0"),
    ([*W, "--x", "end_percent=0"], "start_percent must be below end_percent"),
    (["--model", "demo", "--prompt", "x", "--x", "profile=zzz"], "unknown profile 'zzz'"),
    ([*W, "--x", "mode=forecast", "--modes", "faithful"], "x and y are both mode"),
    ([*W, "--presets", "fast", "--thresholds", "1"], "a preset decides rel_l1_thresh as well"),
    (
        [*W, "--thresholds", "1", "--modes", "forecast", "--y", "max_skip=1"],
        "at most 2 settings can be varied at once, not rel_l1_thresh, mode, max_skip",
    ),
    ([*W, "--x", "max_skip=" + ",".join(map(str, range(65)))], "65 points are too many"),
    ([*W, "--repeats", "0"], "--repeats: must be a whole number from 1"),
    ([*W, "--seed", "x"], "--seed: must be a whole number"),
    ([*W, "--width", "64"], "--width: needs --model"),
    (["--model", "demo", "--prompt", "x", "--set", "a.b=1"], "--set: needs a workflow file"),
    (["--model", "demo", "--prompt", "x", "--comfyui", "x"], "--comfyui: needs a workflow file"),
    (["--model", "nowhere", "--prompt", "x"], "--model: no such folder: nowhere"),
    (["nowhere.json"], "nowhere.json: no such file"),
    ([*W, "--out", __file__], f"--out {__file__}: cannot be a folder"),
    ([*W, "--node", "5"], "--node 5: 5 (CLIPTextEncode, 'Negative prompt') is no Apply TeaCache"),
    ([*W, "--node", "Aply"], "no node 'Aply' in the workflow"),
    ([*W, "--set", "Samper.steps=3"], "did you mean 'Sampler'?"),
    (W, "COMFYUI_DIR: no such folder"),
]


@pytest.mark.parametrize(("arguments", "told"), REFUSED)
def test_bad_input(arguments, told, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COMFYUI_DIR", "/no/such/comfyui")
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *arguments]) == 2
    captured = capsys.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith("teacache: ") and told in last, captured.err
    assert "Traceback" not in captured.err and captured.out == ""
    assert list(tmp_path.iterdir()) == []


# --- workflows cut down -----------------------------------------------------------------------

KINDS = {
    "SaveImage": NodeKind({"images": "IMAGE"}, (), True),
    "PreviewImage": NodeKind({"images": "IMAGE"}, (), True),
    "SaveVideo": NodeKind({"video": "VIDEO"}, (), True),
    "CreateVideo": NodeKind({"images": "IMAGE"}, ("VIDEO",)),
    "VAEDecode": NodeKind({"samples": "LATENT", "vae": "VAE"}, ("IMAGE",)),
    "ImageInvert": NodeKind({"image": "IMAGE"}, ("IMAGE",)),
    "DiffusionPipelineSampler": NodeKind({"pipeline": "PIPE"}, ("IMAGE", "STRING")),
    "TeaCacheCompareImages": NodeKind({"image_a": "IMAGE", "image_b": "IMAGE"}, ("IMAGE",), True),
    "TeaCacheReport": NodeKind({"latent": "LATENT", "model": "MODEL"}, ("IMAGE", "STRING")),
    "ApplyTeaCache": NodeKind(
        {"model": "MODEL", "rel_l1_thresh": "FLOAT", "auto_threshold": "BOOLEAN", "mode": "COMBO"},
        ("MODEL",),
    ),
}


def kind(name):
    return KINDS.get(name, NodeKind({}, ()))


def graph_of(name="quickstart"):
    path = API / f"{name}.json"
    return as_graph(json.loads(path.read_text()), path.name)


@pytest.mark.parametrize("name", sorted(path.stem for path in API.glob("*.json")))
def test_every_template_can_be_swept(name):
    graph = graph_of(name)
    nodes = apply_nodes(graph, [], name)
    link = find_picture(graph, nodes, kind, None)
    assert kind(graph[link[0]]["class_type"]).outputs[link[1]] == "IMAGE"
    cut = only_picture(graph, link)
    assert PICTURE in cut and nodes[0] in cut
    left = {node["class_type"] for node in cut.values()}
    assert not left & {"SaveImage", "SaveVideo", "TeaCacheReport"}
    bare = uncached(cut)
    assert nodes[0] not in bare
    as_graph(bare, name)  # every link leads somewhere
    if name == "diffusers_image_edit":
        with pytest.raises(UserError, match=r"--prompt: the prompt must be one text, not 2 \(3 "):
            set_prompt(graph, "a red fox")
    else:
        set_prompt(graph, "a red fox")
        assert json.dumps(graph).count('"a red fox"') == 1
    set_seed(graph, 5)
    assert all(n["inputs"].get("seed", 5) == 5 for n in graph.values())
    short = [n["inputs"]["steps"] for n in shortened(graph).values() if "steps" in n["inputs"]]
    assert short and set(short) == {3}


def test_the_picture_is_the_cached_one():
    graph = graph_of("ab_comparison")
    assert find_picture(graph, ["2"], kind, None) == ["14", 0]
    graph = graph_of()
    graph["11"] = {"class_type": "ImageInvert", "inputs": {"image": ["9", 0]}}
    graph["12"] = {"class_type": "PreviewImage", "inputs": {"images": ["11", 0]}}
    with pytest.raises(UserError, match=r"several pictures come out: 10 .*, 12 .*--picture NODE"):
        find_picture(graph, ["2"], kind, None)
    assert find_picture(graph, ["2"], kind, "12") == ["11", 0]
    assert find_picture(graph, ["2"], kind, "11") == ["11", 0]
    assert find_picture(graph, ["2"], kind, "Save") == ["9", 0]
    with pytest.raises(UserError, match=r"--picture 7: node 7 .* has no picture"):
        find_picture(graph, ["2"], kind, "7")
    del graph["10"], graph["12"]
    with pytest.raises(UserError, match="no picture is saved or shown"):
        find_picture(graph, ["2"], kind, None)


def test_apply_nodes():
    graph = graph_of()
    graph["20"] = {"class_type": "ApplyTeaCache", "inputs": {"model": ["2", 0]}}
    graph["7"]["inputs"]["model"] = ["20", 0]
    with pytest.raises(UserError, match=r"w: 2 nodes Apply TeaCache: 2 .*, 20 .*--node ID"):
        apply_nodes(graph, [], "w")
    assert apply_nodes(graph, ["20"], "w") == ["20"]
    assert uncached(graph)["7"]["inputs"]["model"] == ["1", 0]
    del graph["20"]["inputs"]["model"]
    with pytest.raises(UserError, match=r"node 20 .*, input model: is required"):
        apply_nodes(graph, ["2"], "w")
    with pytest.raises(UserError, match="w: no Apply TeaCache in the workflow"):
        apply_nodes({"7": graph["7"]}, [], "w")


def test_settings_on_the_node():
    graph = graph_of()
    points = grid_points(parse_axis("rel_l1_thresh=auto,0.2", "x"))
    one, two = (with_settings(graph, ["2"], point, kind)["2"]["inputs"] for point in points)
    assert (one["rel_l1_thresh"], one["auto_threshold"]) == (0.2, True)
    assert (two["rel_l1_thresh"], two["auto_threshold"]) == (0.2, False)
    assert "preset" not in one  # this node has no such widget
    (point,) = grid_points(parse_axis("token_stride=2", "x"))
    with pytest.raises(UserError, match=r"has no widget 'token_stride'; it has model, rel_l1"):
        with_settings(graph, ["2"], point, kind)


def test_a_prompt_that_is_not_one_text():
    graph = graph_of()
    graph["4"]["inputs"]["text"] = ["3", 0]
    with pytest.raises(UserError, match=r"--prompt: the prompt must be one text, not 0"):
        set_prompt(graph, "x")
    with pytest.raises(UserError, match="--seed: no node"):
        set_seed({"1": graph["1"]}, 3)


# --- measuring --------------------------------------------------------------------------------

SIZE = 16


class FakeHost:
    """Gives each point a grey of its own; remembers who was sampled, and can fail or stop."""

    def __init__(self, failing=(), stop_after=None, greys=None, refused=()):
        self.asked = []
        self.refused = refused
        self.failing, self.stop_after, self.greys = failing, stop_after, greys or {}

    def check(self, point):
        if point.settings[0][1] in self.refused:
            raise UserError(f"{point.settings[0][1]} is refused")

    def sample(self, point, tell, short=False):
        name = "reference" if point is None else point.settings[0][1]
        self.asked.append((name, short))
        if name in self.failing:
            raise GraphFailed(f"{name} does not go")
        if self.stop_after is not None and len(self.asked) > self.stop_after:
            raise KeyboardInterrupt
        tell(0.5)
        grey = 0.5 if name == "reference" else self.greys.get(name, 0.6)
        run = {"evaluations": 10, "computed": 4, "skipped": 6, "bytes_held": 7}
        run |= {"warnings": [], "evidence": f"evidence of {name}"}
        seconds = 2.0 if name == "reference" else 1.0
        runs = [] if name == "reference" else [run]
        return Sample(torch.full((1, SIZE, SIZE, 3), grey), seconds, runs)


def swept(host, values="1,2,3", repeats=1, stop=False):
    x = parse_axis(f"max_skip={values}", "x")
    sweep = Sweep(grid_points(x), repeats)
    sweep.check(host)
    told, kept = [], []
    if stop:
        with pytest.raises(KeyboardInterrupt):
            sweep.run(host, told.append, lambda side, pictures: kept.append(side.label))
    else:
        sweep.run(host, told.append, lambda side, pictures: kept.append(side.label))
    return sweep, results(sweep, x, None, "everything", {}), told, kept


def test_warm_up_then_rounds_in_turn():
    host = FakeHost()
    _, report, told, kept = swept(host, "1,2", repeats=2)
    warm = [("reference", True), (1, True)]
    rounds = ["reference", 1, 2, 2, 1, "reference"]
    assert host.asked == [*warm, *((name, False) for name in rounds)]
    assert kept == ["uncached", "max_skip 1", "max_skip 2"]
    assert [point["speedup"] for point in report["points"]] == [2.0, 2.0]
    assert report["reference"]["all_seconds"] == [2.0, 2.0]
    assert report["reference"]["computed"] == 10 and report["points"][0]["computed"] == 4
    assert (told[-1].run, told[-1].runs) == (6, 6)
    done = [progress.done for progress in told]
    assert done == sorted(done) and told[-1].seconds_left is not None
    assert str(told[-1]).startswith("run 6 of 6: uncached, 0:0")


def test_a_point_that_cannot_run_is_one_line():
    host = FakeHost(failing=(1, 3))
    _, report, told, kept = swept(host, "1,2,3", repeats=2)
    assert [point["status"] for point in report["points"]] == ["failed", "done", "failed"]
    assert [asked for asked in host.asked if asked[0] == 3] == [(3, False)]
    assert "max_skip 3: cannot run: 3 does not go" in table(report).splitlines()
    assert kept == ["uncached", "max_skip 2"]
    assert all(progress.run <= progress.runs for progress in told)
    host = FakeHost(refused=(1,))
    _, report, _, kept = swept(host, "1,2")
    assert kept == ["uncached", "max_skip 2"] and report["points"][0]["error"] == "1 is refused"
    host = FakeHost(refused=(1, 2))
    with pytest.raises(UserError, match="1 is refused"):
        swept(host, "1,2")
    assert host.asked == []
    with pytest.raises(GraphFailed, match="1 does not go"):
        swept(FakeHost(failing=(1, 2)), "1,2")
    with pytest.raises(GraphFailed, match="reference does not go"):
        swept(FakeHost(failing=("reference",)))


def test_interrupted_keeps_what_is_done():
    _, report, _, kept = swept(FakeHost(stop_after=4), "1,2,3", stop=True)
    assert kept == ["uncached", "max_skip 1"]
    assert [p["status"] for p in report["points"]] == ["done", "not sampled", "not sampled"]
    assert "max_skip 3: not sampled" in table(report)


def test_identical_and_another_shape_and_unsteady_times():
    sweep, report, _, _ = swept(FakeHost(greys={1: 0.5}), "1,2")
    one, two = report["points"]
    assert one["identical"] and one["psnr"] is None and one["ssim"] == 1
    assert two["psnr"] == pytest.approx(20, abs=1e-3) and not two["identical"]
    assert "identical" in table(report) and "20.0 dB" in table(report)
    assert {"evidence of 1", "evidence of 2"} <= set(notes(report))
    assert not any("Equal runs differed" in sentence for sentence in notes(report))
    sweep.sides[0].seconds.append(3.0)
    unsteady = results(sweep, parse_axis("max_skip=1,2", "x"), None, "x", {})
    assert any("Equal runs differed by up to 3.0x" in sentence for sentence in notes(unsteady))


# --- the picture ------------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (3, 1), (6, 1), (3, 2), (2, 4)])
def test_every_cell_shows_its_picture(columns, rows):
    x = parse_axis("max_skip=" + ",".join(map(str, range(columns))), "x")
    y = parse_axis("token_stride=" + ",".join(map(str, range(1, rows + 1))), "y")
    y = y if rows > 1 else None
    sweep = Sweep(grid_points(x, y), 1)
    sweep.run(FakeHost(failing=(2,)), lambda progress: None, lambda side, pictures: None)
    report = results(sweep, x, y, "x", {})
    colors = [(20 * n, 255 - 20 * n, 60) for n in range(columns * rows + 1)]
    pictures = [
        None if side.error else Image.new("RGB", (SIZE, SIZE), color)
        for side, color in zip(sweep.everyone, colors, strict=True)
    ]
    image = sweep_picture(report, pictures)
    layout = Layout.of(report, (SIZE, SIZE))
    corners = [layout.corner(cell) for cell in range(len(pictures))]
    assert len(set(corners)) == len(corners)
    for picture, color, (left, top) in zip(pictures, colors, corners, strict=True):
        inside = [(left, top), (left + layout.width - 1, top + layout.height - 1)]
        inside = [image.getpixel(place) for place in inside]
        assert inside == [color] * 2 if picture else color not in inside
    assert image.width >= layout.right and image.height > layout.bottom


def test_large_pictures_are_reduced_and_counted():
    _, report, _, _ = swept(FakeHost(), "1,2")
    big = [Image.new("RGB", (2000, 1000), "red")] * 3
    image = sweep_picture(report, big)
    assert image.width < 1400
    with pytest.raises(ValueError, match="there must be 3 pictures, not 2"):
        sweep_picture(report, big[:2])


# --- for real ---------------------------------------------------------------------------------


def command(comfy_dir, *arguments):
    environment = {**os.environ, "COMFYUI_DIR": str(comfy_dir), "PYTHONPATH": str(ROOT)}
    return {
        "args": [sys.executable, "-m", "teacache", "sweep", *map(str, arguments)],
        "env": environment,
        "cwd": comfy_dir.parent,
        "text": True,
    }


def pixels(path):
    with Image.open(path) as picture:
        return picture.convert("RGB").tobytes()


@pytest.fixture(scope="module")
def workflow(comfy_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "deep" / "er"
    done = subprocess.run(
        **command(
            comfy_dir, QUICKSTART, "--thresholds", "0,0.6", "--y", "profile=auto,flux1-dev",
            "--set", "Sampler.steps=8", "--prompt", "owl", "--seed", "3", "--repeats", "2",
            "--out", out,
        ),
        capture_output=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done, out, json.loads((out / "report.json").read_text())


def test_counts_are_those_of_the_run_reports(workflow):
    _, _, report = workflow
    points = [point for point in report["points"] if point["status"] == "done"]
    assert [point["settings"]["profile"] for point in points] == ["auto"] * 2
    for point in points:
        (run,) = point["runs"]
        assert run["steps"] == 8 and run["threshold"] == point["settings"]["rel_l1_thresh"]
        if run["records"]:
            skipped = sum(record["skipped"] for record in run["records"])
            assert point["skipped"] == run["skipped"] == skipped > 0
            assert point["computed"] == 8 - skipped and point["evaluations"] == 8
        assert point["bytes_held"] == run["bytes_held"]
        assert len(point["all_seconds"]) == 2
        assert point["speedup"] == report["reference"]["seconds"] / point["seconds"]
    assert report["reference"]["computed"] == 8 and report["repeatable"]


def test_threshold_0_is_the_reference(workflow):
    _, out, report = workflow
    off, on = report["points"][:2]
    assert off["identical"] and off["psnr"] is None and off["skipped"] == 0
    assert off["computed"] == off["evaluations"] == 8
    assert pixels(out / off["files"][0]) == pixels(out / "uncached.png")
    assert not on["identical"] and 10 < on["psnr"] < 90
    assert pixels(out / on["files"][0]) != pixels(out / "uncached.png")


def test_a_profile_of_another_family_is_a_line_of_the_table(workflow):
    done, _, report = workflow
    failed = report["points"][2:]
    assert {point["status"] for point in failed} == {"failed"}
    assert "made for the family 'flux1'" in failed[0]["error"]
    line = f"{failed[0]['label']}: cannot run: {failed[0]['error']}"
    assert line in done.stdout.splitlines()


def test_files_table_and_progress(workflow):
    done, out, report = workflow
    names = {"sweep.png", "report.json", "uncached.png"}
    names |= {name for point in report["points"] for name in point.get("files", [])}
    assert {path.name for path in out.iterdir()} == names and len(names) == 5
    row = next(
        line
        for line in done.stdout.splitlines()
        if line.startswith("rel_l1_thresh 0.6, profile auto")
    )
    on = report["points"][1]
    assert f"{on['speedup']:.2f}x" in row and f"{on['computed']} of 8" in row
    assert f"{on['psnr']:.1f} dB" in row
    assert report["prompt"] == "owl" and report["seed"] == 3
    assert " left" in done.stderr and "100%" in done.stderr and "Traceback" not in done.stderr
    with Image.open(out / "sweep.png") as image:
        layout = Layout.of(report, (128, 128))
        for cell, name in ((0, "uncached.png"), (2, on["files"][0])):
            left, top = layout.corner(cell)
            box = (left, top, left + layout.width, top + layout.height)
            with Image.open(out / name) as picture:
                enlarged = picture.convert("RGB").resize((layout.width, layout.height), 0)
            assert image.crop(box).tobytes() == enlarged.tobytes()


def test_ctrl_c_keeps_the_finished_points(comfy_dir, tmp_path):
    options = ["--thresholds", "0.6,0", "--set", "Sampler.steps=10", "--repeats", "99"]
    process = subprocess.Popen(
        **command(comfy_dir, QUICKSTART, *options, "--out", tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not (tmp_path / "01_rel_l1_thresh_0.6.png").exists():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.rstrip().endswith("teacache: interrupted") and "Traceback" not in told
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["status"] == "interrupted"
    assert report["points"][0]["status"] == "done"
    assert len(report["points"][0]["all_seconds"]) < 99
    assert (tmp_path / "sweep.png").exists() and "rel_l1_thresh 0.6" in out


def test_a_pipeline(tmp_path, capsys):
    pytest.importorskip("diffusers")
    common = ["--model", "demo", "--prompt", "butterfly", "--steps", "8", "--guidance", "3"]
    axes = ["--thresholds", "0,0.6", "--modes", "faithful"]
    assert main(["sweep", *common, *axes, "--repeats", "1", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    off, on = report["points"]
    assert off["identical"] and off["computed"] == 8
    assert on["skipped"] == on["runs"][0]["skipped"] > 0 and on["runs"][0]["method"] == "faithful"
    assert pixels(tmp_path / off["files"][0]) == pixels(tmp_path / "uncached.png")
    plain = tmp_path / "plain"
    cache = json.dumps({"rel_l1_thresh": 0.6, "mode": "faithful"})
    options = ["--cache-backend", "tea_cache", "--cache-config", cache]
    assert main(["generate", *common, *options, "--out", str(plain)]) == 0
    assert pixels(plain / "image.png") == pixels(tmp_path / on["files"][0])
    assert json.loads((plain / "report.json").read_text())["run"]["skipped"] == on["skipped"]
    assert "Results in" in capsys.readouterr().out


def test_a_pipeline_interrupted(tmp_path, monkeypatch, capsys):
    pytest.importorskip("diffusers")
    from teacache.hosts import sweep_pipeline

    real, runs = sweep_pipeline.attempt, []

    def attempt(*args, **options):
        runs.append(options)
        if len(runs) == 5:  # two to warm up, the reference, one point
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(sweep_pipeline, "attempt", attempt)
    options = ["--model", "demo", "--prompt", "owl", "--steps", "4", "--thresholds", "0.3,0.5"]
    assert main(["sweep", *options, "--out", str(tmp_path)]) == 130
    report = json.loads((tmp_path / "report.json").read_text())
    assert [point["status"] for point in report["points"]] == ["done", "not sampled"]
    assert capsys.readouterr().err.rstrip().endswith("teacache: interrupted")


def test_pixels_survive_both_ways():
    from teacache.pictures.pixels import to_pixels

    picture = to_picture(torch.rand(5, 7, 3))
    assert to_picture(to_pixels(picture)).tobytes() == picture.tobytes()


def test_a_value_that_only_fails_beside_another_is_a_line(tmp_path, capsys):
    pytest.importorskip("diffusers")
    axes = ["--x", "start_percent=0,0.5", "--y", "end_percent=0.4"]
    options = ["--model", "demo", "--prompt", "owl", "--steps", "4", "--repeats", "1", *axes]
    assert main(["sweep", *options, "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "cannot run: start_percent must be below end_percent, not 0.5" in told
    with pytest.raises(ConfigError):
        grid_points(parse_axis("start_percent=0.5", "x"))[0].config(TeaCacheConfig(end_percent=0.4))
