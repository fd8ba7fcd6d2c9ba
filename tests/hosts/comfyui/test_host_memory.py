"""The host's memory management beside the cache: what sees the blocks, devices, no memory left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
import tiny_models
import torch
from devices import copy_of, split_over_devices
from hostile import (
    MODES,
    SKIP_HALF,
    assert_same_state,
    live_objects,
    patched,
    run,
    skip_pattern,
    small_model,
    state_of,
)
from sampling import SKIP_ALL, cached, report_of, sample, stack_blocks
from torch.utils._python_dispatch import TorchDispatchMode

from teacache.engine.blocks import StackBlockProxy
from teacache.engine.forward import StackForward
from teacache.engine.predictors import Predictor
from teacache.engine.run import Run

pytestmark = pytest.mark.usefixtures("comfy")


@pytest.fixture
def model(comfy: Any) -> Any:
    return small_model()


# --- proxies show their block --------------------------------------------------------------------


@contextmanager
def looking(module: torch.nn.Module, look: Callable[[], Any]) -> Iterator[list[Any]]:
    """What `look` gives inside each call of `module`, while the proxies are in their slots."""
    seen: list[Any] = []
    hook = module.register_forward_pre_hook(lambda *_: seen.append(look()))
    try:
        yield seen
    finally:
        hook.remove()


def test_who_walks_the_model_during_a_call_sees_its_modules(model: Any) -> None:
    """Weight prefetching and attention patches find every module under its name and class."""
    transformer = model.model.diffusion_model
    blocks = stack_blocks(model)

    def look() -> Any:
        walked = dict(transformer.named_modules())
        return (
            [(name, type(module)) for name, module in walked.items()],
            [name for name, _ in transformer.named_parameters()],
            [isinstance(block, type(blocks[0])) for block in transformer.joint_blocks],
            [block.__class__ is type(blocks[0]) for block in transformer.joint_blocks],
            sorted(name for name, _ in transformer.joint_blocks[0].named_children()),
        )

    expected = look()
    clone, handle = cached(model, SKIP_ALL)
    with looking(transformer.final_layer, look) as seen:
        run(clone, steps=6)
    assert report_of(handle).skipped == 4
    assert seen == [expected] * 6
    assert sum(kind.__name__ == "Linear" for _, kind in expected[0]) > 8


def test_weights_are_prefetched_for_the_blocks_that_run(model: Any) -> None:
    """ComfyUI fetches the weights of `block.modules()` ahead: on a skip there are none to fetch."""
    transformer = model.model.diffusion_model

    def look() -> list[int]:
        return [len(list(block.modules())) for block in transformer.joint_blocks]

    expected = look()
    clone, handle = cached(model, SKIP_ALL, mode="faithful")
    with looking(transformer.final_layer, look) as seen:
        run(clone, steps=6, cfg=1.0)
    skipped = [record.skipped for record in report_of(handle).records]
    assert seen == [[0] * len(expected) if skip else expected for skip in skipped]


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "faithful"},
        {"mode": "faithful", "predictor": "damped"},
        {"mode": "forecast", "cached": "residual"},
    ],
    ids=str,
)
def test_what_outlives_a_block_is_allocated_outside_its_recording(
    model: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ComfyUI takes back at a block's end what is allocated in it, unless recording is paused."""
    recording, paused = [0], [0]
    allocated: dict[int, bool] = {}

    @contextmanager
    def counting(counter: list[int]) -> Iterator[None]:
        counter[0] += 1
        try:
            yield
        finally:
            counter[0] -= 1

    class Allocations(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
            out = function(*args, **(kwargs or {}))
            for each in out if isinstance(out, (list, tuple)) else [out]:
                if isinstance(each, torch.Tensor):
                    pointer = each.untyped_storage().data_ptr()
                    allocated[pointer] = bool(recording[0]) and not paused[0]
            return out

    module = ModuleType("comfy.model_prefetch")
    module.__spec__ = ModuleSpec(module.__name__, None)
    vars(module)["pause_malloc_graph"] = lambda: counting(paused)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    clone, handle = cached(model, SKIP_ALL, **settings)
    held: list[bool] = []

    def ending(end: Any) -> Any:
        def noted(self: Run, *args: Any) -> None:
            end(self, *args)
            tensors = list(self.state._tensors())
            held.extend(allocated[each.untyped_storage().data_ptr()] for each in tensors)

        return noted

    forward = StackBlockProxy.forward

    def within(self: Any, *args: Any, **kwargs: Any) -> Any:
        with counting(recording):
            return forward(self, *args, **kwargs)

    monkeypatch.setattr(StackBlockProxy, "forward", within)
    with patched(Run, "end_evaluation", ending), Allocations():
        run(clone, steps=8)
    assert report_of(handle).skipped and held and not any(held)


def test_what_is_set_on_a_block_during_a_call_reaches_the_block(model: Any) -> None:
    transformer = model.model.diffusion_model
    clone, _ = cached(model, 0.4)

    def mark() -> None:
        transformer.joint_blocks[1].marked_by_a_node = True

    with looking(transformer.final_layer, mark):
        run(clone)
    assert stack_blocks(model)[1].marked_by_a_node is True


# --- several devices -----------------------------------------------------------------------------


def test_branches_in_threads_take_the_joint_decision(model: Any) -> None:
    """On two copies of the model, cond and uncond at once: as in one batch, whoever is first."""
    copy = copy_of(model)
    before = state_of(model), state_of(copy)
    skipped = 0
    for threshold in (0.15, 0.25, 0.4, 0.6):
        clone, handle = cached(model, threshold)
        expected = run(clone, steps=12)
        decisions = skip_pattern(report_of(handle))
        skipped += report_of(handle).skipped
        for _ in range(2):
            clone, handle = cached(model, threshold)
            with split_over_devices(model, copy):
                got = run(clone, steps=12)
            assert skip_pattern(report_of(handle)) == decisions
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert skipped > 8 and live_objects() == []
    assert_same_state(model, before[0])
    assert_same_state(copy, before[1])


def test_a_device_that_fails_leaves_every_copy_clean(model: Any) -> None:
    copy = copy_of(model)
    before = state_of(model), state_of(copy)
    calls: list[int] = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("a device failed")

    clone, handle = cached(model, 0.4)
    hook = copy.model.diffusion_model.final_layer.register_forward_pre_hook(fail)
    with split_over_devices(model, copy), pytest.raises(RuntimeError, match="a device failed"):
        run(clone, steps=12)
    hook.remove()
    assert report_of(handle).outcome == "failed" and live_objects() == []
    assert_same_state(model, before[0])
    assert_same_state(copy, before[1])


# --- no memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("call", [1, 2, 4])
@pytest.mark.parametrize("where", ["copy", "observe", "predict", "keep"])
def test_no_memory_for_what_is_cached_costs_speed_and_not_the_run(
    model: Any, mode: str, call: int, where: str
) -> None:
    """From there on every step is computed, nothing is held, and the report says so."""
    owner, name = {
        "copy": (StackForward, "_copy"),
        "observe": (Predictor, "observe"),
        "predict": (Predictor, "predict"),
        "keep": (Run, "to_cache_device"),
    }[where]
    if where == "copy" and mode == "forecast":
        pytest.skip("the prediction is not copied")
    calls: list[int] = []

    def make(original: Any) -> Any:
        def failing(self: Any, *args: Any) -> Any:
            calls.append(1)
            if where == "copy" and len(calls) == call:
                with patched(torch.Tensor, "clone", lambda _: exhausted):
                    return original(self, *args)
            if len(calls) == call:
                raise torch.OutOfMemoryError("out of memory")
            return original(self, *args)

        return failing

    def exhausted(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    clone, handle = cached(model, SKIP_HALF[mode], mode=mode)
    with patched(owner, name, make):
        got = run(clone, steps=12)
    report = report_of(handle)
    assert len(calls) >= call, "nothing failed"
    assert got.isfinite().all() and len(report.records) == 12
    assert "there is no memory left for what it caches" in " ".join(report.warnings)
    after = skip_pattern(report).rstrip("c")
    assert "s" not in skip_pattern(report)[len(after) :] and live_objects() == []
    assert report.outcome == "done"


def test_a_run_without_memory_gives_the_native_picture(model: Any) -> None:
    """Where nothing could ever be cached the picture is that of a run without the cache."""

    def make(original: Any) -> Any:
        def failing(self: Any, image: torch.Tensor) -> None:
            self._run.release()

        return failing

    native = sample(tiny_models.build("sd3"), "sd3")
    clone, _ = cached(tiny_models.build("sd3"), SKIP_ALL)
    with patched(StackForward, "_copy", make):
        assert torch.equal(sample(clone, "sd3"), native)
