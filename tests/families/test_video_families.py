"""What is particular to video families: noise-level indicators, side blocks, experts, variants."""

from __future__ import annotations

import traceback
from itertools import pairwise
from typing import Any

import pytest
import tiny_models
import torch
from sampling import (
    SKIP_ALL,
    SKIP_NONE,
    cached,
    report_of,
    sample,
    sample_in_two,
    stack_blocks,
)
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from teacache.engine.device import SigmaReader
from teacache.engine.regions import relative_change
from teacache.families.comfyui import wan
from teacache.families.spec import RunScope
from teacache.profiles.profile import load_profiles
from teacache.report import Reason

pytestmark = pytest.mark.usefixtures("comfy")

WAN = "wan21"


def count_calls(modules: Any) -> list[str]:
    """Grows by one entry for each call of one of `modules`."""
    calls: list[str] = []
    for module in modules:
        module.register_forward_pre_hook(lambda module, args: calls.append(type(module).__name__))
    return calls


# --- the indicator ------------------------------------------------------------------------------


READS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.item.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.nonzero.default,
)


class Reads(TorchDispatchMode):
    """Where the library reads values from tensors into Python: the functions that do it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def note(self) -> None:
        stack = traceback.extract_stack()
        callers = [f for f in stack if "/torch/" not in f.filename and f.filename != __file__]
        if "/teacache/" in callers[-1].filename:
            self.seen.append(callers[-1].name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            self.note()
        return func(*args, **(kwargs or {}))


def reads_while_sampling(
    name: str, monkeypatch: pytest.MonkeyPatch, **config: Any
) -> tuple[list[str], Any]:
    """The library's reads of a run of 8 steps, with "block" for each call of the first block."""
    model = tiny_models.build(name)
    clone, handle = cached(model, SKIP_ALL, **config)
    reads = Reads()
    for method in ("tolist", "numpy", "cpu"):
        real = getattr(torch.Tensor, method)

        def noting(tensor: Any, *args: Any, real: Any = real) -> Any:
            reads.note()
            return real(tensor, *args)

        monkeypatch.setattr(torch.Tensor, method, noting)
    block = stack_blocks(model)[0]
    block.register_forward_pre_hook(lambda module, args: reads.seen.append("block"))
    with reads:
        sample(clone, name, steps=8)
    return reads.seen, report_of(handle)


@pytest.mark.parametrize("profile", ["wan21-t2v-1.3b", "wan21-t2v-1.3b-ret"])
def test_nothing_is_read_from_tensors_while_a_scheduled_run_samples(
    profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apart from the plan, once, before the first block; nothing else where the schedule is
    known, as it is where reading the sampler's noise level would make the host wait."""
    monkeypatch.setattr(SigmaReader, "is_cheap", staticmethod(lambda timestep: False))
    seen, report = reads_while_sampling(WAN, monkeypatch, profile=profile)
    assert report.skipped > 0
    first, last = seen.index("block"), len(seen) - 1 - seen[::-1].index("block")
    assert seen[:first].count("read") == 1, "the schedule is planned before the first block"
    assert set(seen[first : last + 1]) == {"block"}


def test_the_same_watch_sees_an_indicator_that_is_read_every_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, _ = reads_while_sampling("hunyuan_video", monkeypatch)
    assert seen.count("read") >= 6


@pytest.mark.parametrize(
    ("name", "profile", "layers"),
    [
        (WAN, "wan21-t2v-1.3b", "time_embedding"),
        (WAN, "wan21-t2v-1.3b-ret", "time_projection"),
        ("cogvideox", "cogvideox-2b", "time_embedding_linear_2"),
    ],
)
def test_the_planned_distances_are_those_of_the_models_own_embedding(
    name: str, profile: str, layers: str
) -> None:
    model = tiny_models.build(name)
    seen: list[torch.Tensor] = []
    hook = model.model.diffusion_model.get_submodule(layers).register_forward_hook(
        lambda module, args, out: seen.append(out[:1].flatten(1).clone())
    )
    sample(model, name, steps=10)
    hook.remove()
    changes = [relative_change(b, a).item() for a, b in pairwise(seen)]
    chosen = load_profiles()[profile]
    clone, handle = cached(model, SKIP_NONE, profile=profile)
    sample(clone, name, steps=10)
    records = report_of(handle).records[1:-1]
    told = {record.step: record.distance for record in records if record.distance is not None}
    assert len(told) >= 4
    for step, distance in told.items():
        assert distance == pytest.approx(chosen.distance(changes[step - 1]), rel=1e-3, abs=1e-6)


def test_the_warm_up_of_a_profile_is_computed() -> None:
    clone, handle = cached(tiny_models.build(WAN), SKIP_ALL, profile="wan21-t2v-1.3b-ret")
    sample(clone, WAN, steps=9)
    reasons = [record.reason for record in report_of(handle).records]
    assert reasons[0] is Reason.FIRST
    assert reasons[1:5] == [Reason.WARMUP] * 4
    assert reasons[5:8] == [Reason.UNDER_THRESHOLD] * 3
    assert reasons[8] is Reason.LAST


ATTENTION = {
    "hunyuan_video": ("double_blocks.0", "img_attn.qkv"),
    "hunyuan_image": ("double_blocks.0", "img_attn.qkv"),
    "ltx": ("transformer_blocks.0", "attn1"),
    "mochi": ("blocks.0", "attn.qkv_x"),
    "cosmos1": ("blocks.block0", "blocks.0.block"),
    "cosmos_predict2": ("blocks.0", "self_attn"),
    "anima": ("blocks.0", "self_attn"),
    "kandinsky5": ("visual_transformer_blocks.0", "self_attention"),
}


@pytest.mark.parametrize("name", list(ATTENTION))
def test_the_modulated_input_is_what_enters_the_first_attention(name: str) -> None:
    from teacache.families.registry import find_family
    from teacache.families.streams import BlockArguments

    model = tiny_models.build(name)
    transformer = model.model.diffusion_model
    family = find_family(transformer)
    path, attention = ATTENTION[name]
    block = transformer.get_submodule(path)
    read: list[torch.Tensor] = []
    entered: list[torch.Tensor] = []
    block.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(
            family.modulated_input(module, BlockArguments(args, kwargs))
        ),
        with_kwargs=True,
    )
    block.get_submodule(attention).register_forward_pre_hook(
        lambda module, args: entered.append(args[0].clone())
    )
    sample(model, name, steps=2, cfg=1.0)
    for mine, theirs in zip(read, entered, strict=True):
        seen = theirs.movedim(3, 0) if name == "cosmos1" else theirs.reshape(mine.shape)
        torch.testing.assert_close(mine, seen, rtol=1e-5, atol=1e-5)


def test_a_guiding_frame_is_modulated_by_its_own_row() -> None:
    from teacache.families.comfyui.video_modulation import hunyuan_double_block
    from teacache.families.streams import BlockArguments

    block = tiny_models.build("hunyuan_video").model.diffusion_model.double_blocks[0]
    img, vec = torch.randn(1, 8, tiny_models.WIDTH), torch.randn(1, 2, tiny_models.WIDTH)
    spans = [(0, 3, 0), (3, None, 1)]
    arguments = BlockArguments((), {"img": img, "vec": vec, "modulation_dims_img": spans})
    entered: list[torch.Tensor] = []
    block.img_attn.qkv.register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    with torch.inference_mode():
        read = hunyuan_double_block(block, arguments)
        block(img, img, vec, None, modulation_dims_img=spans, modulation_dims_txt=[(0, None, 1)])
    torch.testing.assert_close(read, entered[0])


# --- what is added between and after the blocks -----------------------------------------------

SIDES = {
    "wan21_vace": ("vace_blocks", False),
    "wan21_vace_to_the_end": ("vace_blocks", True),
    "wan22_s2v": ("audio_injector.injector", False),
    "wan22_s2v_to_the_end": ("audio_injector.injector.1", True),
    "wan22_animate": ("face_adapter.fuser_blocks", False),
}


@pytest.mark.parametrize("name", list(SIDES))
def test_side_blocks_run_on_a_skip_only_where_they_feed_the_end(name: str) -> None:
    path, at_end = SIDES[name]
    model = tiny_models.build(name)
    found = model.model.diffusion_model.get_submodule(path)
    calls = count_calls([found] if path[-1].isdigit() else found)
    sample(model, name, steps=6)
    native = len(calls)
    assert native > 0
    calls.clear()
    clone, handle = cached(model, SKIP_ALL)
    sample(clone, name, steps=6)
    assert report_of(handle).skipped == 4
    assert len(calls) == (native if at_end else native // 3)


def test_an_injection_that_does_not_feed_the_end_is_passed_over() -> None:
    name = "wan22_s2v_to_the_end"
    model = tiny_models.build(name)
    first = model.model.diffusion_model.audio_injector.injector[0]
    calls = count_calls([first])
    clone, _ = cached(model, SKIP_ALL)
    sample(clone, name, steps=6)
    assert len(calls) == 2


# --- experts and variants ----------------------------------------------------------------------


def test_nothing_carries_over_from_one_expert_to_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wan, "WIDTH_14B", tiny_models.WIDTH)
    high, low = tiny_models.build(WAN, seed=1), tiny_models.build(WAN, seed=2)
    first, one = cached(high, SKIP_ALL)
    second, two = cached(low, SKIP_ALL)
    together = sample_in_two((first, second), WAN, steps=10, at=5)
    for handle in (one, two):
        report = report_of(handle)
        assert [record.skipped for record in report.records] == [False, True, True, True, False]
        assert (report.profile, report.calibrated) == ("wan22-uncalibrated", False)
    plain = sample_in_two((first, low), WAN, steps=10, at=5)
    assert not torch.equal(together, plain)
    _, alone = cached(low, SKIP_ALL)
    again = sample_in_two((first, cached(low, SKIP_ALL)[0]), WAN, steps=10, at=5)
    assert torch.equal(together, again)
    assert alone.report_for() is None


def test_a_whole_run_of_the_same_weights_is_wan_21(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wan, "WIDTH_14B", tiny_models.WIDTH)
    clone, handle = cached(tiny_models.build(WAN), 0.1)
    sample(clone, WAN)
    assert report_of(handle).profile == "wan21-t2v-14b"


@pytest.mark.parametrize(
    ("pixels", "profile", "threshold"),
    [(10**9, "wan21-i2v-480p", 0.19), (1000, "wan21-i2v-720p", 0.2)],
)
def test_the_latents_size_chooses_480p_or_720p(
    pixels: int, profile: str, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from teacache.config import TeaCacheConfig
    from teacache.hosts.comfyui.patch import apply_teacache

    monkeypatch.setattr(wan, "WIDTH_14B", tiny_models.WIDTH)
    monkeypatch.setattr(wan, "PIXELS_720P", pixels)
    clone, handle = apply_teacache(
        tiny_models.build("wan21_i2v"), TeaCacheConfig(rel_l1_thresh=None, mode="faithful")
    )
    assert handle is not None and "by latent size" in handle.describe()
    sample(clone, "wan21_i2v", steps=3)
    assert (report_of(handle).profile, report_of(handle).threshold) == (profile, threshold)


def test_a_chosen_profile_is_kept_whatever_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wan, "PIXELS_720P", 1)
    clone, handle = cached(tiny_models.build("wan21_i2v"), 0.1, profile="wan21-i2v-480p")
    sample(clone, "wan21_i2v", steps=3)
    assert report_of(handle).profile == "wan21-i2v-480p"


@pytest.mark.parametrize(
    ("size", "whole", "expected"),
    [
        ((60, 104), True, "wan21-i2v-480p"),
        ((104, 60), True, "wan21-i2v-480p"),
        ((90, 160), True, "wan21-i2v-720p"),
        ((160, 90), False, "wan21-i2v-720p"),
    ],
)
def test_the_published_sizes(size: tuple[int, int], whole: bool, expected: str) -> None:
    transformer = nn.Module()
    vars(transformer).update(dim=5120, in_dim=36, out_dim=16, model_type="i2v")
    transformer.add_module("img_emb", nn.Identity())
    assert wan.WAN21.profile_for_run is not None
    assert wan.WAN21.profile_for_run(transformer, RunScope((1, 16, 21, *size), whole)) == expected


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("wan22_i2v", "wan22-uncalibrated"),
        ("wan22_s2v", "wan22-uncalibrated"),
        ("wan22_animate", "wan22-uncalibrated"),
        ("wan21_humo", "wan21-uncalibrated"),
    ],
)
def test_what_has_no_published_coefficients_is_said_to_be_uncalibrated(
    name: str, profile: str
) -> None:
    _, handle = cached(tiny_models.build(name), 0.2)
    assert f"{profile}, uncalibrated" in handle.describe()


def test_wan_22_ti2v_5b_has_published_coefficients() -> None:
    _, handle = cached(tiny_models.build("wan22_5b"), 0.2)
    assert "profile wan22-ti2v-5b" in handle.describe()
    assert "uncalibrated" not in handle.describe()
