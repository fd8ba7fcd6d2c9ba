"""A model that is not what the table says: one warning, the native path, the right picture."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import tiny_models
import torch
from sampling import SKIP_ALL, SKIP_NONE, cached, report_of, sample

import teacache.families.registry
from teacache.config import TeaCacheConfig
from teacache.errors import ConfigError
from teacache.families.registry import Family
from teacache.families.streams import BlockList, Role, Stream

pytestmark = pytest.mark.usefixtures("comfy")

Change = Callable[..., None]


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Change:
    """Replaces entries of a family in the table, as if its model had changed."""

    def apply(family_id: str, **fields: Any) -> None:
        table = tuple(
            replace(family, **fields) if family.id == family_id else family
            for family in teacache.families.registry.FAMILIES
        )
        monkeypatch.setattr(teacache.families.registry, "FAMILIES", table)

    return apply


def raising(error: type[Exception], text: str, from_call: int = 1) -> Callable[..., Any]:
    """An adapter that raises from its `from_call`-th call on; before, it reads as FLUX's does.

    A fresh exception each time: one that is kept would keep the run's frames alive.
    """
    from teacache.families.comfyui.modulation import flux_double_block

    calls = []

    def adapter(block: Any, arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) >= from_call:
            raise error(text)
        return flux_double_block(block, arguments)

    return adapter


def assert_native(name: str, caplog: pytest.LogCaptureFixture, *told: str) -> None:
    model = tiny_models.build(name)
    native = sample(model, name)
    clone, handle = cached(model, SKIP_ALL)
    with caplog.at_level(logging.WARNING, logger="teacache"):
        assert torch.equal(sample(clone, name), native)
    report = report_of(handle)
    assert report.skipped == 0
    warnings = [r.getMessage() for r in caplog.records if r.name == "teacache"]
    warnings = [text for text in warnings if "runs without" in text]
    assert len(warnings) == len(report.warnings) == 1
    for part in told:
        assert part in warnings[0] and part in report.warnings[0]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (AttributeError, "'Block' object has no attribute 'img_mod'"),
        (KeyError, "vec"),
        (IndexError, "tuple index out of range"),
        (TypeError, "'NoneType' object is not iterable"),
        (RuntimeError, "The size of tensor a (3) must match the size of tensor b (4)"),
    ],
    ids=["AttributeError", "KeyError", "IndexError", "TypeError", "RuntimeError"],
)
def test_an_indicator_that_raises(
    error: type[Exception], text: str, change: Change, caplog: pytest.LogCaptureFixture
) -> None:
    change("flux1", modulated_input=raising(error, text))
    assert_native("flux1", caplog, "FLUX.1", f"{error.__name__}: {error(text)}")


def test_an_indicator_that_raises_later(change: Change, caplog: pytest.LogCaptureFixture) -> None:
    """What was skipped before stays; from there on everything is computed, with one warning."""
    change("flux1", modulated_input=raising(KeyError, "vec", from_call=4))
    clone, handle = cached(tiny_models.build("flux1"), SKIP_ALL)
    sample(clone, "flux1", steps=8)
    report = report_of(handle)
    assert [record.skipped for record in report.records] == [False, True, True] + [False] * 5
    assert len(report.warnings) == 1


def test_a_failure_in_the_second_call_of_a_step_takes_the_skip_of_the_first_back(
    change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Split branches: one was skipped already when the other cannot be read."""
    change("flux1", modulated_input=raising(KeyError, "vec", from_call=4))
    model = tiny_models.build("flux1")
    monkeypatch.setattr(model.model, "memory_required", lambda *args, **kwargs: 1e30)
    native = sample(model, "flux1")
    clone, handle = cached(model, SKIP_ALL)
    assert torch.equal(sample(clone, "flux1"), native)
    assert report_of(handle).skipped == 0
    assert len(report_of(handle).warnings) == 1


def test_no_memory_for_the_indicator_costs_speed_and_not_the_run(change: Change) -> None:
    native = sample(tiny_models.build("flux1"), "flux1")
    change("flux1", modulated_input=raising(torch.OutOfMemoryError, "out of memory"))
    clone, handle = cached(tiny_models.build("flux1"), SKIP_ALL)
    assert torch.equal(sample(clone, "flux1"), native)
    report = report_of(handle)
    assert report.skipped == 0 and "no memory left for what it caches" in report.warnings[0]


def other_streams(image: Stream, text: Stream, returns: tuple[Role, ...]) -> Any:
    return (BlockList("transformer_blocks", inputs=(image, text), outputs=returns),)


@pytest.mark.parametrize(
    ("image", "text", "returns"),
    [
        (Stream(Role.IMAGE, 9, "renamed"), Stream(Role.TEXT, 1, "encoder_hidden_states"), 2),
        (Stream(Role.IMAGE, 0, "hidden_states"), Stream(Role.TEXT, 9, "renamed"), 2),
        (Stream(Role.IMAGE, 0, "hidden_states"), Stream(Role.TEXT, 1, "encoder_hidden_states"), 3),
    ],
    ids=["image argument", "text argument", "returns"],
)
def test_blocks_with_other_arguments_or_returns(
    image: Stream,
    text: Stream,
    returns: int,
    change: Change,
    caplog: pytest.LogCaptureFixture,
) -> None:
    roles = (Role.TEXT, Role.TEXT, Role.IMAGE)[-returns:]
    change("qwen_image", block_lists=other_streams(image, text, roles))
    assert_native("qwen_image", caplog, "Qwen-Image")


def test_a_list_that_is_gone(change: Change, caplog: pytest.LogCaptureFixture) -> None:
    change(
        "wan21", block_lists=(BlockList("layers", (Stream(Role.IMAGE, 0, "x"),), (Role.IMAGE,)),)
    )
    assert_native("wan21", caplog, "Wan", "WanModel has no layers")


def test_side_blocks_that_are_not_what_they_were(
    change: Change, caplog: pytest.LogCaptureFixture
) -> None:
    def runs(transformer: Any) -> Any:
        return transformer.vace_mapping_of_before

    from teacache.families.comfyui.wan import WAN21

    change("wan21", side_block_lists=(replace(WAN21.side_block_lists[0], always_run=runs),))
    assert_native("wan21_vace", caplog, "Wan", "vace_mapping_of_before")


def test_a_schedule_that_cannot_be_planned(
    change: Change, caplog: pytest.LogCaptureFixture
) -> None:
    def embed(transformer: Any, timesteps: torch.Tensor) -> torch.Tensor:
        embedding: torch.Tensor = transformer.time_embedder(timesteps)
        return embedding

    change("wan21", embed_timesteps=embed)
    assert_native("wan21", caplog, "Wan", "time_embedder")


def test_a_family_that_cannot_be_told_apart(
    change: Change, caplog: pytest.LogCaptureFixture
) -> None:
    from teacache.hosts.comfyui.patch import apply_teacache

    def accepts(transformer: Any) -> bool:
        return bool(transformer.params.gone)

    change("flux1", matches=accepts)
    model = tiny_models.build("flux1")
    clone, handle = apply_teacache(model, TeaCacheConfig(rel_l1_thresh=SKIP_NONE, mode="faithful"))
    assert handle is not None and handle.family.forecast_only
    assert torch.equal(sample(clone, "flux1"), sample(model, "flux1"))
    assert caplog.text.count("FLUX.1: can only be forecast: AttributeError") == 1
    assert "gone" in caplog.text


def test_a_default_profile_that_cannot_be_told(
    change: Change, caplog: pytest.LogCaptureFixture
) -> None:
    from teacache.hosts.comfyui.patch import apply_teacache

    change("wan21", default_profile=lambda transformer: transformer.kind)
    _, handle = apply_teacache(tiny_models.build("wan21"), TeaCacheConfig(mode="faithful"))
    assert handle is not None and handle.family.forecast_only
    assert "Wan 2.1 / 2.2: can only be forecast: AttributeError" in caplog.text


@pytest.mark.parametrize(
    ("name", "profile", "family"),
    [
        ("wan21", "flux1-dev", "flux1"),
        ("flux1", "wan21-t2v-14b", "wan21"),
        ("ltx", "mochi", "mochi"),
    ],
)
def test_a_profile_of_another_family_is_refused_with_both_names(
    name: str, profile: str, family: str
) -> None:
    from teacache.hosts.comfyui.patch import apply_teacache

    with pytest.raises(ConfigError, match=f"{profile}.*{family}.*{name}"):
        apply_teacache(tiny_models.build(name), TeaCacheConfig(profile=profile, mode="faithful"))


def test_a_working_adapter_is_not_disturbed(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_models.build("flux1")
    clone, handle = cached(model, SKIP_NONE)
    sample(clone, "flux1")
    assert report_of(handle).warnings == []
    assert isinstance(handle.family, Family)
