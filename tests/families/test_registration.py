"""Families that users register: right in ComfyUI and in diffusers, refused whole or not at all."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import tiny_models
import tiny_pipelines
import torch
from paths import ROOT
from sampling import SKIP_ALL, SKIP_NONE, cached, report_of, sample, spying
from tiny_image import with_unknown_class
from torch import nn

from teacache import BlockList, ConfigError, Family, Role, Stream, register_family
from teacache.families.comfyui.image import QWEN_DOUBLE, SD3
from teacache.families.comfyui.modulation import qwen_image_block
from teacache.families.registry import REGISTRY, find_family, known_profiles, unregister_family
from teacache.profiles.profile import load_profiles

QWEN_COEFFICIENTS = (45.1443, -52.9113, 17.0784, 0.10393, 0.0)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    for family in list(REGISTRY):
        unregister_family(family.id)
    assert not list(REGISTRY)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.mix(x) + context)


class Unknown(nn.Module):
    """A transformer of nobody's table, whose text argument has a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Block() for _ in range(4))

    def forward(
        self, x: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor
    ) -> torch.Tensor:
        x = x * (1 + timestep.view(-1, 1, 1))
        for block in self.stages:
            x = block(x, context)
        return x


STAGES = BlockList("stages", inputs=(Stream(Role.IMAGE, 0, "x"),), outputs=(Role.IMAGE,))


def unknown(**changed: Any) -> Family:
    family = Family("mine", "Mine", (Unknown,), (STAGES,), text_arguments=("context",))
    return replace(family, **changed)


# --- in ComfyUI ----------------------------------------------------------------------------------


def test_a_registered_model_runs_in_comfyui_as_the_table_would_have_it(comfy: Any) -> None:
    """Qwen-Image under another class: decisions and latents are those of the table's entry."""
    known = tiny_models.build("qwen_image")
    clone, handle = cached(known, 0.35)
    expected = sample(clone, "qwen_image", steps=12)
    decisions = [(record.skipped, record.reason) for record in report_of(handle).records]
    assert {skipped for skipped, _ in decisions} == {True, False}

    with_unknown_class(known.model.diffusion_model)
    kind = type(known.model.diffusion_model)
    family = Family("my-qwen", "My Qwen", (kind,), (QWEN_DOUBLE,), modulated_input=qwen_image_block)
    register_family(family, coefficients=QWEN_COEFFICIENTS, source="a test")
    clone, handle = cached(known, 0.35)
    assert "My Qwen" in handle.describe() and "profile my-qwen" in handle.describe()
    assert torch.equal(sample(clone, "qwen_image", steps=12), expected)
    report = report_of(handle)
    assert [(record.skipped, record.reason) for record in report.records] == decisions
    assert (report.family, report.profile, report.calibrated) == ("my-qwen", "my-qwen", True)
    with spying(known) as spy:
        sample(cached(known, SKIP_ALL)[0], "qwen_image", steps=6)
    assert len(spy.per_call) == 6, "blocks ran on a skipped step"


# --- in diffusers --------------------------------------------------------------------------------


def loop(transformer: nn.Module, steps: int, **config: Any) -> tuple[torch.Tensor, Any]:
    """Euler steps with guidance, two calls each, through the cache where `config` is given."""
    from teacache import disable_teacache, enable_teacache

    generator = torch.Generator().manual_seed(3)
    x, *texts = (torch.randn(1, 5, 8, generator=generator) for _ in range(3))
    handle = enable_teacache(transformer, num_steps=steps, **config) if config else None
    with torch.no_grad():
        for step in range(steps):
            timestep = torch.tensor([1 - step / steps])
            positive, negative = (transformer(x, timestep, context=text) for text in texts)
            x = x - (negative + 3 * (positive - negative)) / steps / 4
    disable_teacache(transformer)
    return x, handle


def test_a_registered_model_runs_in_a_loop_of_the_users_own() -> None:
    """Its text argument tells the branches apart: where nothing may be skipped nothing changes."""
    torch.manual_seed(0)
    transformer = Unknown()
    native, _ = loop(transformer, 12)
    register_family(unknown(), transformer=transformer)
    never, handle = loop(transformer, 12, rel_l1_thresh=SKIP_NONE, mode="faithful")
    assert handle.report_for().skipped == 0 and handle.report_for().family_name == "Mine"
    assert torch.equal(never, native)
    _, handle = loop(transformer, 12, rel_l1_thresh=SKIP_ALL, mode="faithful")
    assert handle.report_for().skipped == 10


def test_a_registered_model_runs_in_a_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """SD3 under another class: latents are those of the table's entry, in both modes."""
    from teacache import teacache

    pipe = tiny_pipelines.build("sd3")
    expected = {}
    for mode in ("faithful", "forecast"):
        with teacache(pipe, 0.4, mode=mode, coefficients=None) as handle:
            expected[mode] = tiny_pipelines.generate(pipe, "sd3")
            assert handle.report_for().family == "sd3"
    entry = find_family(pipe.transformer)
    assert entry is not None
    with_unknown_class(pipe.transformer)
    profile = load_profiles()[entry.profile_of(pipe.transformer)]
    register_family(
        replace(entry, id="my-sd3", name="My SD3", classes=(type(pipe.transformer),)),
        coefficients=profile.coefficients,
    )
    for mode, latents in expected.items():
        with teacache(pipe, 0.4, mode=mode) as handle:
            assert torch.equal(tiny_pipelines.generate(pipe, "sd3"), latents)
            assert handle.report_for().family == "my-sd3"


def test_the_example_of_the_docs_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "own-models.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "own-models.md", "exec"), {"__name__": "own_models"})
    line = capsys.readouterr().out.strip()
    shown = re.search(r"`(My Model: \d+ of 20 steps computed, \d+ skipped)", page)
    assert shown is not None and line.startswith(shown[1])


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "arguments", "told"),
    [
        ({"id": "sd3"}, {}, "family 'sd3': a shipped family has this id"),
        ({"id": ""}, {}, "id must be a text that is not empty"),
        ({"id": "flux1-dev"}, {}, "profile 'flux1-dev' exists: give the family another id"),
        ({"classes": ()}, {}, "classes is empty"),
        ({"classes": ("Unknown",)}, {}, "full names such as 'package.module.Class'"),
        ({"classes": (int,)}, {}, "classes of torch.nn.Module, not <class 'int'>"),
        ({"classes": Unknown}, {}, "classes must be a list"),
        ({"classes": SD3.classes}, {}, f"class {SD3.classes[0]} belongs to the family 'sd3'"),
        ({"classes": ("comfy.ldm.wan.ar_model.CausalWanModel",)}, {}, "known and left as it is"),
        ({"block_lists": ()}, {}, "block_lists is empty"),
        ({"block_lists": ("stages",)}, {}, "must hold BlockList, not 'stages'"),
        ({"block_lists": (replace(STAGES, inputs=()),)}, {}, "a stream that carries the image"),
        ({"block_lists": (replace(STAGES, outputs=()),)}, {}, "the role that carries the image"),
        (
            {"block_lists": (replace(STAGES, outputs=(Role.IMAGE, Role.TEXT)),)},
            {},
            "outputs holds TEXT, which inputs lacks",
        ),
        (
            {"block_lists": (replace(STAGES, path="stage"),)},
            {"transformer": Unknown()},
            "has no blocks in 'stage'; did you mean 'stages'? it has stages",
        ),
        ({}, {"transformer": Block()}, "the transformer is a "),
        ({}, {"coefficients": [1.0, math.nan]}, "two or more finite numbers"),
        ({}, {"coefficients": [1.0]}, "two or more finite numbers"),
        ({}, {"coefficients": ["1", 2]}, "two or more finite numbers"),
        ({}, {"rel_l1_thresh": math.inf}, "rel_l1_thresh must be a number from 0 to 100"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_registered(
    changed: dict[str, Any], arguments: dict[str, Any], told: str
) -> None:
    profiles = known_profiles()
    with pytest.raises(ConfigError) as caught:
        register_family(unknown(**changed), **arguments)
    message = str(caught.value)
    assert told in message and "\n" not in message
    assert not list(REGISTRY) and known_profiles() == profiles
    register_family(unknown())  # what was refused left nothing in the way


def test_a_family_is_registered_once() -> None:
    first = register_family(unknown())
    for again, told in (
        (unknown(), r"family 'mine' is registered already: unregister_family\('mine'\)"),
        (unknown(id="other"), "class .*Unknown belongs to the family 'mine' already"),
    ):
        with pytest.raises(ConfigError, match=told):
            register_family(again)
        assert list(REGISTRY) == [first]
    unregister_family("mine")
    unregister_family("mine")
    register_family(unknown(id="other"))


def test_what_is_no_family_is_refused() -> None:
    with pytest.raises(ConfigError, match="a Family is needed, not str"):
        register_family("mine")  # type: ignore[arg-type]


def test_block_lists_that_do_not_exist_are_noticed_when_the_model_runs() -> None:
    """Registered without an instance to check: the model runs without the cache, and says why."""
    torch.manual_seed(0)
    transformer = Unknown()
    native, _ = loop(transformer, 6)
    register_family(unknown(block_lists=(replace(STAGES, path="stage"),)))
    got, handle = loop(transformer, 6, rel_l1_thresh=SKIP_ALL, mode="faithful")
    assert torch.equal(got, native)
    (warning,) = [w for w in handle.report_for().warnings if "stage" in w]
    assert warning == "Mine: runs without the cache: LookupError: Unknown has no stage"
