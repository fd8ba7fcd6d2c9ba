"""What a run keeps: how much, where, and that it is told."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hostile import MODES, live_objects, patched, run, small_model
from sampling import SKIP_ALL, cached, report_of

from teacache.engine.run import Run

pytestmark = pytest.mark.usefixtures("comfy")
RESIDUAL = 4 * 128 * 4
"""Bytes of one branch's residual: tokens, width, fp32."""
LATENT = 16 * 4 * 4 * 4
METHODS: dict[str, tuple[dict[str, Any], int]] = {
    "forecast": ({"mode": "forecast"}, 3 * LATENT),
    "faithful": ({"mode": "faithful"}, 2 * (RESIDUAL + RESIDUAL)),
    "faithful, continued": (
        {"mode": "faithful", "predictor": "linear", "start_percent": 0.4},
        2 * (2 * RESIDUAL + RESIDUAL),
    ),
    "residuals continued": (
        {"mode": "forecast", "cached": "residual"},
        2 * (2 * RESIDUAL) + 3 * LATENT,
    ),
}
"""Settings, and the most bytes: predictions with the sum of what was skipped, residuals of two
branches, and what is compared."""
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def model(comfy: Any) -> Any:
    return small_model(depth=2)


def reachable(root: Any) -> list[torch.Tensor]:
    """The tensors that `root` keeps in memory, through this package's objects and containers.

    Without single numbers, such as an error that waits to be read.
    """
    seen, waiting, found = {id(root)}, [root], []
    while waiting:
        for item in gc.get_referents(waiting.pop()):
            if id(item) in seen:
                continue
            seen.add(id(item))
            if isinstance(item, torch.Tensor):
                found += [item] if item.numel() > 1 else []
            elif isinstance(item, (dict, list, tuple, set, deque)) or (
                type(item).__module__.startswith("teacache.")
            ):
                waiting.append(item)
    return found


@contextmanager
def holding() -> Iterator[list[list[torch.Tensor]]]:
    """The tensors that the run holds after each evaluation."""
    seen: list[list[torch.Tensor]] = []

    def ending(end: Any) -> Any:
        def noted(self: Run, *args: Any) -> None:
            end(self, *args)
            seen.append(reachable(self))

        return noted

    with patched(Run, "end_evaluation", ending):
        yield seen


def occupied(tensors: list[torch.Tensor]) -> int:
    """Bytes of the memory behind `tensors`, that of views in full."""
    behind = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(behind.values())


@every_method
@pytest.mark.parametrize("steps", [8, 24])
def test_what_is_held_is_bounded_and_told(model: Any, method: str, steps: int) -> None:
    """By residuals per branch, or predictions; not by steps. No view keeps a larger tensor."""
    settings, most = METHODS[method]
    clone, handle = cached(model, SKIP_ALL, **settings)
    with holding() as seen:
        run(clone, steps=steps)
    report = report_of(handle)
    assert report.skipped and len(seen) == steps
    assert max(map(occupied, seen)) == report.bytes_held == most
    seen.clear()
    assert live_objects() == []
    assert f"{report.bytes_held / 1e3:.0f} kB held" in report.summary


@every_method
def test_all_that_waits_is_put_where_it_is_to_wait(model: Any, method: str) -> None:
    """Another type stands for another device: all goes there, and comes back for its use."""
    settings, _ = METHODS[method]
    clone, handle = cached(model, SKIP_ALL, **settings)
    expected = run(clone, steps=16)
    skipped = report_of(handle).skipped

    def elsewhere(place: Any) -> Any:
        return lambda self, held: place(self, held).to(torch.float64)

    with patched(Run, "to_cache_device", elsewhere), holding() as seen:
        got = run(clone, steps=16)
    assert {t.dtype for tensors in seen for t in tensors} == {torch.float64}
    assert got.dtype == torch.float32 and report_of(handle).skipped == skipped
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


class Elsewhere:
    """A tensor of another device, as far as it is asked where it is."""

    device = torch.device("xpu")

    def to(self, device: str) -> str:
        return device


@pytest.mark.parametrize(
    ("cache_device", "memory", "moved"),
    [
        ("auto", "NORMAL_VRAM", False),
        ("auto", "HIGH_VRAM", False),
        ("auto", "LOW_VRAM", True),
        ("auto", "NO_VRAM", True),
        ("device", "NO_VRAM", False),
        ("cpu", "HIGH_VRAM", True),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_where_it_waits(
    model: Any, cache_device: str, memory: str, moved: bool, mode: str, monkeypatch: Any
) -> None:
    """`auto` gives the device's memory back where ComfyUI runs with --lowvram or --novram."""
    import comfy.model_management as management

    expected = run(cached(model, SKIP_ALL, mode=mode)[0], steps=10)
    monkeypatch.setattr(management, "vram_state", management.VRAMState[memory])
    places: list[Any] = []

    def asking(place: Any) -> Any:
        def asked(self: Run, held: torch.Tensor) -> torch.Tensor:
            given = Elsewhere()
            places.append(place(self, given) is not given)
            return place(self, held)

        return asked

    with patched(Run, "to_cache_device", asking):
        got = run(cached(model, SKIP_ALL, mode=mode, cache_device=cache_device)[0], steps=10)
    assert set(places) == {moved}
    assert torch.equal(got, expected)
