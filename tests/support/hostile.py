"""A model that samples in milliseconds, and what must hold whatever is done to it."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import tiny_models
import torch
from sampling import cached, report_of, sample
from torch import nn

from teacache.engine.blocks import BlockStack
from teacache.engine.decision import BranchState, PassState
from teacache.engine.predictors import Predictor
from teacache.engine.run import Run
from teacache.report import RunReport

NAME = "sd3"
"""The family of the small model: its conds fit."""
MODES = ("forecast", "faithful")
MANY = {"forecast": 2.0, "faithful": 0.4}
"""Thresholds at which the small model skips about half of its steps."""


def small(depth: int = 2) -> Any:
    """An SD3 of `depth` blocks; its weights are seeded."""
    tiny = tiny_models.TINY[NAME]
    embedder = {"in_features": 64, "out_features": 64 * depth}
    kwargs = {
        **tiny.kwargs,
        "depth": depth,
        "context_embedder_config": {"target": "torch.nn.Linear", "params": embedder},
    }
    reduced = dataclasses.replace(tiny, kwargs=kwargs, control=None)
    with mock.patch.dict(tiny_models.TINY, {"small": reduced}):
        return tiny_models.build("small")


def latent(batch: int = 1, height: int = 4, width: int = 4) -> torch.Tensor:
    return torch.zeros(batch, 16, height, width)


def run(model: Any, **settings: Any) -> torch.Tensor:
    """`sampling.sample` of the small model on a small latent."""
    settings.setdefault("latent", latent(settings.pop("batch", 1)))
    return sample(model, NAME, **settings)


def cached_run(
    model: Any, mode: str, threshold: float | None = None, **settings: Any
) -> tuple[torch.Tensor, RunReport]:
    """The latent and the report of one run with the cache, put on for it."""
    clone, handle = cached(model, MANY[mode] if threshold is None else threshold, mode=mode)
    return run(clone, **settings), report_of(handle)


def custom(
    model: Any,
    sigmas: list[float],
    *,
    noise: torch.Tensor | None = None,
    start: torch.Tensor | None = None,
    sampler: Any = "euler",
    cfg: float = 3.0,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """A run over `sigmas`, from `start` with `noise` added, as the custom sampler nodes run it."""
    import comfy.sample
    import comfy.samplers

    start = latent() if start is None else start
    noise = comfy.sample.prepare_noise(start, 1) if noise is None else noise
    chosen = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    conds = (tiny_models.cond(NAME, seed) for seed in (1, 2))
    with torch.inference_mode():
        return comfy.sample.sample_custom(
            model, noise, cfg, chosen, torch.tensor(sigmas), *conds, start, noise_mask=mask, seed=1
        )


def pattern(report: RunReport) -> str:
    """`c` for each computed evaluation, `s` for each skipped one."""
    return "".join("s" if record.skipped else "c" for record in report.records)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean difference, in parts of the other's mean."""
    return float((one - other).abs().mean() / other.abs().mean())


def alive() -> list[object]:
    """What of any run is still in memory."""
    gc.collect()
    return [o for o in gc.get_objects() if isinstance(o, (Run, PassState, BranchState, BlockStack))]


def state_of(model: Any) -> dict[str, Any]:
    """All of a patcher that a run could leave changed: modules, slots, hooks, options, weights."""
    modules = list(model.model.named_modules(remove_duplicate=False))
    return {
        "modules": [(name, id(module)) for name, module in modules],
        "attributes": [(name, sorted(vars(module))) for name, module in modules],
        "hooks": [_hooks(module) for _, module in modules],
        "options": repr(model.model_options),
        "wrappers": repr(model.wrappers),
        "patches": sorted(map(str, model.patches)),
        "weights": {name: value.clone() for name, value in model.model.state_dict().items()},
    }


def _hooks(module: nn.Module) -> tuple[int, ...]:
    return (
        len(module._forward_hooks),
        len(module._forward_pre_hooks),
        len(module._backward_hooks),
    )


def assert_same_state(model: Any, before: dict[str, Any]) -> None:
    after = state_of(model)
    for part in before:
        if part != "weights":
            assert after[part] == before[part], part
    for name, weight in before["weights"].items():
        assert torch.equal(after["weights"][name], weight), name


@contextmanager
def patched(module: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """`module.name` is `make(original)` for a while."""
    original = getattr(module, name)
    with mock.patch.object(module, name, make(original)):
        yield


def failure(kind: str) -> BaseException:
    from comfy.model_management import InterruptProcessingException

    return {
        "interrupt": InterruptProcessingException,
        "error": lambda: RuntimeError("a node failed"),
        "memory": lambda: torch.OutOfMemoryError("out of memory"),
        "ctrl-c": KeyboardInterrupt,
    }[kind]()


@contextmanager
def failing(module: nn.Module, call: int, kind: str) -> Iterator[list[int]]:
    """The `call`-th call of `module` fails; the list grows with each one."""
    calls: list[int] = []

    def count(*_: Any) -> None:
        calls.append(1)
        if len(calls) == call:
            raise failure(kind)

    hook = module.register_forward_pre_hook(count)
    try:
        yield calls
    finally:
        hook.remove()


@contextmanager
def watched() -> Iterator[list[weakref.ref[Any]]]:
    """Weak references to each run, each track, and each tensor that a run holds."""
    held: list[weakref.ref[Any]] = []

    def made(kind: type) -> Callable[[Any], Any]:
        def wrap(init: Any) -> Any:
            def noted(self: Any, *args: Any, **kwargs: Any) -> None:
                init(self, *args, **kwargs)
                held.append(weakref.ref(self))

            return noted

        return wrap

    def observing(observe: Any) -> Any:
        def noted(self: Predictor, sigma: float, value: torch.Tensor) -> None:
            observe(self, sigma, value)
            held.append(weakref.ref(value))

        return noted

    with (
        patched(Run, "__init__", made(Run)),
        patched(PassState, "__init__", made(PassState)),
        patched(Predictor, "observe", observing),
    ):
        yield held
