"""Cached tensors go to main memory and come back without making the host wait."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hostile import MODES, patched, run, small_model
from sampling import SKIP_ALL, cached, report_of
from torch.overrides import TorchFunctionMode

from teacache.engine import forward, predictors
from teacache.engine.run import Run
from teacache.engine.transfer import beside, to_main_memory


class OnCard:
    """A tensor of a graphics card, as far as its way to main memory looks at it."""

    device = SimpleNamespace(type="cuda")
    shape, dtype = torch.Size([2, 3]), torch.float32

    def to(self, device: str) -> str:
        return f"pageable, on {device}"


def test_from_a_graphics_card_into_pinned_memory_without_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []

    def pinned(shape: torch.Size, **options: Any) -> Any:
        def copy_(source: Any, non_blocking: bool) -> str:
            made.append((shape, options, source, non_blocking))
            return "pinned"

        return SimpleNamespace(copy_=copy_)

    monkeypatch.setattr(torch, "empty", pinned)
    source: Any = OnCard()
    assert to_main_memory(source) == "pinned"
    options = {"dtype": torch.float32, "pin_memory": True}
    assert made == [(source.shape, options, source, True)]


def test_where_nothing_can_be_pinned_the_copy_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no more memory can be pinned")

    monkeypatch.setattr(torch, "empty", refused)
    source: Any = OnCard()
    assert to_main_memory(source) == "pageable, on cpu"


def test_what_is_there_already_is_not_copied() -> None:
    value = torch.ones(3)
    assert to_main_memory(value) is value and beside(value, torch.zeros(1)) is value


class OnlyFetched(TorchFunctionMode):
    """Fails where a tensor in main memory is used for anything but the copy to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: set[int] = set()
        self.fetched = 0

    def fetch(self, held: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        """In place of `beside`."""
        self.fetched += 1
        with torch._C.DisableTorchFunction():
            return held.clone()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = [each for each in args if isinstance(each, torch.Tensor)]
        for each in args:
            if isinstance(each, (list, tuple)):
                given += [item for item in each if isinstance(item, torch.Tensor)]
        held = any(each.untyped_storage().data_ptr() in self.waiting for each in given)
        looks = getattr(function, "__name__", "")
        assert not held or looks in ("__get__", "numel", "element_size", "untyped_storage"), looks
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("predictor", ["auto", "linear"])
@pytest.mark.parametrize("indicator", ["auto", "rate"])
@pytest.mark.parametrize("mode", MODES)
def test_nothing_but_the_copy_back_reads_what_waits(
    comfy: Any, mode: str, indicator: str, predictor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy to main memory may not have arrived when the host goes on."""
    clone, handle = cached(
        small_model(), SKIP_ALL, mode=mode, indicator=indicator, predictor=predictor
    )
    expected = run(clone, steps=12)
    spy = OnlyFetched()
    kept: list[torch.Tensor] = []

    def elsewhere(place: Any) -> Any:
        def put(self: Run, held: torch.Tensor) -> torch.Tensor:
            with torch._C.DisableTorchFunction():
                copy = held.clone()
                kept.append(copy)
                spy.waiting.add(copy.untyped_storage().data_ptr())
            return copy

        return put

    for module in (predictors, forward):
        monkeypatch.setattr(module, "beside", spy.fetch)
    with patched(Run, "to_cache_device", elsewhere), spy:
        got = run(clone, steps=12)
    assert torch.equal(got, expected)
    assert report_of(handle).skipped and spy.fetched
