"""Models that the table does not know, and those it knows and leaves alone."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import tiny_models
import torch
from sampling import SKIP_ALL, cached, report_of, sample
from stand_in_models import STAND_INS
from tiny_image import with_unknown_class
from tiny_recent import RECENT
from torch import nn

from teacache.families.registry import FAMILIES, UNCACHEABLE, find_family, find_uncacheable
from teacache.families.spec import class_name

pytestmark = pytest.mark.usefixtures("comfy")


def assert_native(model: Any, name: str, native: torch.Tensor, caplog: Any, told: str) -> None:
    """The picture is right, nothing was skipped, and one warning says why."""
    clone, handle = cached(model, SKIP_ALL)
    with caplog.at_level(logging.WARNING, logger="teacache"):
        assert torch.equal(sample(clone, name), native)
    report = report_of(handle)
    assert report.skipped == 0
    assert len(report.warnings) == 1 and told in report.warnings[0]
    warnings = [record.getMessage() for record in caplog.records if record.name == "teacache"]
    assert len(warnings) == 1 and told in warnings[0]


def test_the_report_says_that_the_family_is_not_recognised() -> None:
    _, handle = cached(tiny_models.build("generic"), SKIP_ALL)
    told = handle.describe()
    assert "UnknownPixArtMS (family not recognised: generic indicator)" in told
    assert "uncalibrated" in told


def test_blocks_that_return_more_than_the_stream_run_natively(caplog: Any) -> None:
    model = tiny_models.build("qwen_image")
    native = sample(model, "qwen_image")
    with_unknown_class(model.model.diffusion_model)
    told = "QwenImageTransformerBlock does not return one tensor in the shape of its input"
    assert_native(model, "qwen_image", native, caplog, told)


def test_a_stack_that_runs_twice_within_a_call_runs_natively(caplog: Any) -> None:
    model = tiny_models.build("pixart_sigma")
    transformer = model.model.diffusion_model
    kind = type(transformer)

    class Windowed(kind):
        def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            return super().forward(x, *args, **kwargs) + super().forward(-x, *args, **kwargs)

    transformer.__class__ = Windowed
    native = sample(model, "pixart_sigma")
    assert_native(model, "pixart_sigma", native, caplog, "its blocks run more than once")


class Block(nn.Module):
    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return x + c


class TextFirst(nn.Module):
    def forward(self, context: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x + context


class AnyArguments(nn.Module):
    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        return args[0]


def blocks(kind: type[nn.Module], count: int = 4) -> nn.ModuleList:
    return nn.ModuleList([kind() for _ in range(count)])


@pytest.mark.parametrize(
    ("lists", "stack"),
    [
        ({"blocks": blocks(Block)}, "blocks"),
        ({"layers": blocks(Block), "noise_refiner": blocks(Block)}, "layers"),
        ({"transformer_blocks": blocks(Block, 3)}, None),
        ({"blocks": blocks(TextFirst)}, None),
        ({"blocks": blocks(AnyArguments)}, None),
        ({"blocks": blocks(Block), "layers": blocks(Block)}, None),
        ({"blocks": blocks(Block) + blocks(TextFirst)}, None),
        ({"blocks": nn.Sequential(Block(), Block(), Block(), Block())}, None),
        ({"output_blocks": blocks(Block)}, None),
        ({}, None),
    ],
    ids=lambda value: "-".join(value) or "none" if isinstance(value, dict) else str(value),
)
def test_only_one_plain_list_of_blocks_is_taken(
    lists: dict[str, nn.Module], stack: str | None
) -> None:
    transformer = nn.Module()
    for name, box in lists.items():
        transformer.add_module(name, box)
    family = find_family(transformer)
    assert family is not None and family.forecast_only is (stack is None)
    assert [blocks.path for blocks in family.block_lists] == ([stack] if stack else [])


def named(full_name: str) -> nn.Module:
    """A module whose class has that name, with blocks that a generic entry would take."""
    module, _, name = full_name.rpartition(".")
    transformer: nn.Module = type(name, (nn.Module,), {"__module__": module})()
    transformer.add_module("blocks", blocks(Block))
    return transformer


@pytest.mark.parametrize("entry", UNCACHEABLE, ids=lambda entry: entry.name)
def test_a_model_known_to_be_unfit_gets_no_generic_entry(entry: Any) -> None:
    assert entry.reason
    for name in entry.classes:
        assert find_uncacheable(named(name)) is entry
        family = find_family(named(name))
        assert family is None or (entry.forecast and family.forecast_only)
        assert (family is None) is not entry.forecast


def test_every_family_said_to_be_run_has_a_tiny_model() -> None:
    """Those of newer ComfyUI too, whether or not it is the one at hand."""
    models = tiny_models.TINY | RECENT
    tiny = {model.family_id(name) for name, model in models.items()}
    assert {family.id for family in FAMILIES if family.tested == "run"} <= tiny
    assert {family.tested for family in FAMILIES} <= {"run", "newer", "stand_in", "read"}
    standing_in = {class_name(build()) for build in STAND_INS}
    assert {c for f in FAMILIES if f.tested == "stand_in" for c in f.classes} == standing_in
    newer = {model.family_id(name) for name, model in RECENT.items()}
    assert not newer & {family.id for family in FAMILIES if family.tested == "read"}
