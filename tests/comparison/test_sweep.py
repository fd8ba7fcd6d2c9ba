"""The sweep: what it takes, how it measures, and the command on workflows and pipelines."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from fake_sampling import SIZE, FakeBackend, swept, table_of
from paths import ROOT
from PIL import Image

from teacache.comparison import (
    Comparison,
    Point,
    compare_with_uncached,
    grid_points,
    parse_axis,
)
from teacache.comparison.results import figures, notes, results, table
from teacache.config import TeaCacheConfig
from teacache.errors import ConfigError, ExecutionError, UserError
from teacache.plots.pixels import to_pil
from teacache.plots.sweep import Layout, sweep_plot
from teacache.workflows.definitions import NodeKind
from teacache.workflows.edits import (
    PICTURE,
    only_picture,
    set_prompt,
    set_seed,
    shortened,
    uncached,
    with_settings,
)
from teacache.workflows.graph import as_graph
from teacache.workflows.selection import apply_nodes, find_picture

API = ROOT / "workflows" / "api"
QUICKSTART = API / "quickstart.json"

pytestmark = pytest.mark.usefixtures("without_lpips")


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


CACHED = sorted(path.stem for path in API.glob("*.json") if "ApplyTeaCache" in path.read_text())


@pytest.mark.parametrize("name", CACHED)
def test_every_template_with_a_cache_can_be_swept(name):
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
    graph["2"]["inputs"]["preset"] = "fast"
    known = NodeKind({**KINDS["ApplyTeaCache"].inputs, "preset": "COMBO"}, ("MODEL",))
    changed = with_settings(graph, ["2"], points[1], lambda name: known)["2"]["inputs"]
    assert changed["preset"] == "auto", "the preset would decide, and not the threshold"
    graph["2"]["inputs"]["rel_l1_thresh"] = 0.0
    (point,) = grid_points(parse_axis("preset=2.0x", "x"))
    changed = with_settings(graph, ["2"], point, lambda name: known)["2"]["inputs"]
    assert (changed["preset"], changed["rel_l1_thresh"]) == ("2.0x", 0.2)
    (point,) = grid_points(parse_axis("max_skip=2", "x"))
    with pytest.raises(UserError, match=r"has no widget 'max_skip'; it has model, rel_l1"):
        with_settings(graph, ["2"], point, kind)


@pytest.mark.parametrize(
    ("axis", "told"),
    [
        ("token_stride=1,2", "unknown setting 'token_stride', which was removed: leave it out."),
        ("token_strade=1,2", "unknown setting 'token_strade'"),
        ("predictor=linear,blend", "predictor=blend was removed"),
    ],
)
def test_what_was_removed_cannot_be_varied(axis, told):
    with pytest.raises(ConfigError, match=f"^--x: {told}"):
        parse_axis(axis, "--x")


def test_a_prompt_that_is_not_one_text():
    graph = graph_of()
    graph["4"]["inputs"]["text"] = ["3", 0]
    with pytest.raises(UserError, match=r"--prompt: the prompt must be one text, not 0"):
        set_prompt(graph, "x")
    with pytest.raises(UserError, match="--seed: no node"):
        set_seed({"1": graph["1"]}, 3)


# --- measuring --------------------------------------------------------------------------------


def test_warm_up_then_rounds_in_turn():
    backend = FakeBackend()
    _, report, told, kept = swept(backend, "1,2", repeats=2)
    warm = [("reference", True), (1, True)]
    rounds = ["reference", 1, 2, 2, 1, "reference"]
    assert backend.asked == [*warm, *((name, False) for name in rounds)]
    assert kept == ["uncached", "max_skip 1", "max_skip 2"]
    assert [point["speedup"] for point in report["points"]] == [2.0, 2.0]
    assert report["reference"]["all_seconds"] == [2.0, 2.0]
    assert report["reference"]["computed"] == 10 and report["points"][0]["computed"] == 4
    assert (told[-1].done, told[-1].total) == (5.5, 6)
    done = [progress.done for progress in told]
    assert done == sorted(done) and told[-1].seconds_left is not None
    assert str(told[-1]).startswith("run 6 of 6: uncached, 0:0")


def test_a_point_that_cannot_run_is_one_line():
    backend = FakeBackend(failing=(1, 3))
    _, report, told, kept = swept(backend, "1,2,3", repeats=2)
    assert [point["status"] for point in report["points"]] == ["failed", "done", "failed"]
    assert [asked for asked in backend.asked if asked[0] == 3] == [(3, False)]
    assert "max_skip 3: cannot run: 3 does not go" in table_of(report).splitlines()
    assert kept == ["uncached", "max_skip 2"]
    assert all(progress.done < progress.total for progress in told)
    backend = FakeBackend(refused=(1,))
    _, report, _, kept = swept(backend, "1,2")
    assert kept == ["uncached", "max_skip 2"] and report["points"][0]["error"] == "1 is refused"
    backend = FakeBackend(refused=(1, 2))
    with pytest.raises(UserError, match="1 is refused"):
        swept(backend, "1,2")
    assert backend.asked == []
    with pytest.raises(ExecutionError, match="1 does not go"):
        swept(FakeBackend(failing=(1, 2)), "1,2")
    with pytest.raises(ExecutionError, match="reference does not go"):
        swept(FakeBackend(failing=("reference",)))


def test_pictures_that_hold_no_numbers_are_one_line():
    backend = FakeBackend(greys={2: float("nan")})
    _, report, _, kept = swept(backend, "1,2,3", repeats=2)
    assert [point["status"] for point in report["points"]] == ["done", "failed", "done"]
    assert "max_skip 2: cannot run: its pictures hold values that are no" in table_of(report)
    assert kept == ["uncached", "max_skip 1", "max_skip 3"]

    class Broken(FakeBackend):
        def sample(self, point, on_step, short=False, steps=None):
            sample = super().sample(point, on_step, short, steps)
            return replace(sample, pictures=sample.pictures * float("inf"))

    with pytest.raises(ExecutionError, match="without the cache: its pictures hold"):
        swept(Broken(), "1,2")


def test_interrupted_keeps_what_is_done():
    _, report, _, kept = swept(FakeBackend(stop_after=4), "1,2,3", stop=True)
    assert kept == ["uncached", "max_skip 1"]
    assert [p["status"] for p in report["points"]] == ["done", "not sampled", "not sampled"]
    assert "max_skip 3: not sampled" in table_of(report)


def test_identical_and_another_shape_and_unsteady_times():
    comparison, report, _, _ = swept(FakeBackend(greys={1: 0.5}), "1,2")
    one, two = report["points"]
    assert one["identical"] and one["psnr"] is None and one["ssim"] == 1
    assert two["psnr"] == pytest.approx(20, abs=1e-3) and not two["identical"]
    assert "identical" in table_of(report) and "20.0 dB" in table_of(report)
    assert {"evidence of 1", "evidence of 2"} <= set(notes(report))
    assert not any("Equal runs differed" in sentence for sentence in notes(report))
    comparison.variants[0].seconds.append(3.0)
    unsteady = results(comparison, parse_axis("max_skip=1,2", "x"), None, "x", {})
    assert any("Equal runs differed by up to 3.0x" in sentence for sentence in notes(unsteady))


def test_the_cache_as_configured_against_no_cache():
    backend = FakeBackend()
    comparison, pictures = compare_with_uncached(backend, 2, lambda progress: None)
    names = ["reference", "cached", "cached", "reference"]
    assert backend.asked[2:] == [(name, False) for name in names]
    assert [float(picture.mean()) for picture in pictures] == pytest.approx([0.5, 0.6])
    reference, cached = figures(comparison)
    assert (reference["label"], cached["label"], cached["speedup"]) == ("uncached", "cached", 2.0)
    point, base = Point(()), TeaCacheConfig(rel_l1_thresh=0.3, preset="auto", max_skip=2)
    assert point.config(base) == base


def test_a_cache_that_only_fails_in_the_timed_run_is_an_error():
    class Failing(FakeBackend):
        def sample(self, point, on_step, short=False, steps=None):
            if point is not None and not short:
                raise ExecutionError("out of memory")
            return super().sample(point, on_step, short, steps)

    with pytest.raises(ExecutionError, match="out of memory"):
        compare_with_uncached(Failing(), 1, lambda progress: None)


@pytest.mark.parametrize(("speedup", "shown"), [(2.4, "2.40x"), (3.5, "≤ 2.50x"), (0.9, "0.90x")])
def test_a_speedup_that_skipping_cannot_give_is_not_claimed(speedup, shown):
    row = {"label": "x", "status": "done", "seconds": 2, "computed": 4, "evaluations": 10}
    assert shown in table([row | {"skipped": 6, "speedup": speedup}])


def test_the_table_has_no_empty_columns():
    row = {"label": "no cache", "status": "done", "seconds": 2, "computed": 8, "evaluations": 8}
    assert table([row]).splitlines() == ["            time  computed", "no cache  2.00 s    8 of 8"]


# --- the picture ------------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (3, 1), (6, 1), (3, 2), (2, 4)])
def test_every_cell_shows_its_picture(columns, rows):
    x = parse_axis("max_skip=" + ",".join(map(str, range(columns))), "x")
    y = parse_axis("end_percent=" + ",".join(f"{1 - row / 10:g}" for row in range(rows)), "y")
    y = y if rows > 1 else None
    comparison = Comparison(grid_points(x, y), 1)
    comparison.run(FakeBackend(failing=(2,)), lambda progress: None, lambda variant, _: None)
    report = results(comparison, x, y, "x", {})
    colors = [(20 * n, 255 - 20 * n, 60) for n in range(columns * rows + 1)]
    pictures = [
        None if variant.failure else Image.new("RGB", (SIZE, SIZE), color)
        for variant, color in zip(comparison.all_variants, colors, strict=True)
    ]
    image = sweep_plot(report, pictures)
    layout = Layout.of(report, (SIZE, SIZE))
    corners = [layout.corner(cell) for cell in range(len(pictures))]
    assert len(set(corners)) == len(corners)
    for picture, color, (left, top) in zip(pictures, colors, corners, strict=True):
        inside = [(left, top), (left + layout.width - 1, top + layout.height - 1)]
        inside = [image.getpixel(place) for place in inside]
        assert inside == [color] * 2 if picture else color not in inside
    assert image.width >= layout.right and image.height > layout.bottom


def test_large_pictures_are_reduced_and_counted():
    _, report, _, _ = swept(FakeBackend(), "1,2")
    big = [Image.new("RGB", (2000, 1000), "red")] * 3
    image = sweep_plot(report, big)
    assert image.width < 1400
    with pytest.raises(ValueError, match="there must be 3 pictures, not 2"):
        sweep_plot(report, big[:2])


def test_pixels_survive_both_ways():
    from teacache.plots.pixels import to_tensor_image

    picture = to_pil(torch.rand(5, 7, 3))
    assert to_pil(to_tensor_image(picture)).tobytes() == picture.tobytes()
