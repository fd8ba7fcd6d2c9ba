"""A model that samples in milliseconds, with failures to inject and invariants to check."""

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

FAMILY = "sd3"
"""The family of the small model, and the name of a tiny model whose conds fit it."""
MODES = ("forecast", "faithful")
SKIP_HALF = {"forecast": 2.0, "faithful": 0.4}
"""Thresholds at which the small model skips about half of its steps."""


def small_model(depth: int = 2) -> Any:
    """An SD3 model of `depth` blocks with seeded weights."""
    tiny = tiny_models.TINY[FAMILY]
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
    """An empty latent for the small model."""
    return torch.zeros(batch, 16, height, width)


def run(model: Any, **settings: Any) -> torch.Tensor:
    """`sampling.sample` of the small model on a small latent."""
    settings.setdefault("latent", latent(settings.pop("batch", 1)))
    return sample(model, FAMILY, **settings)


def cached_run(
    model: Any, mode: str, threshold: float | None = None, **settings: Any
) -> tuple[torch.Tensor, RunReport]:
    """The latent and the report of one run with the cache.

    Args:
        model: The small model, without the cache.
        mode: `forecast` or `faithful`.
        threshold: If None, the one of `SKIP_HALF`.
        settings: Further arguments of `run`.
    """
    clone, handle = cached(model, SKIP_HALF[mode] if threshold is None else threshold, mode=mode)
    return run(clone, **settings), report_of(handle)


def sample_custom(
    model: Any,
    sigmas: list[float],
    *,
    noise: torch.Tensor | None = None,
    start: torch.Tensor | None = None,
    sampler: Any = "euler",
    cfg: float = 3.0,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Samples over `sigmas` from `start` with `noise` added, as the custom sampler nodes do."""
    import comfy.sample
    import comfy.samplers

    start = latent() if start is None else start
    noise = comfy.sample.prepare_noise(start, 1) if noise is None else noise
    chosen = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    conds = (tiny_models.cond(FAMILY, seed) for seed in (1, 2))
    with torch.inference_mode():
        return comfy.sample.sample_custom(
            model, noise, cfg, chosen, torch.tensor(sigmas), *conds, start, noise_mask=mask, seed=1
        )


def skip_pattern(report: RunReport) -> str:
    """`c` for each computed evaluation, `s` for each skipped one."""
    return "".join("s" if record.skipped else "c" for record in report.records)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean absolute difference, relative to the mean absolute value of `other`."""
    return float((one - other).abs().mean() / other.abs().mean())


def live_objects() -> list[object]:
    """All objects of runs that are still in memory."""
    gc.collect()
    return [o for o in gc.get_objects() if isinstance(o, (Run, PassState, BranchState, BlockStack))]


def state_of(model: Any) -> dict[str, Any]:
    """Everything of a `ModelPatcher` that a run could leave changed."""
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
    """Checks that `state_of(model)` is what it was before."""
    after = state_of(model)
    for part in before:
        if part != "weights":
            assert after[part] == before[part], part
    for name, weight in before["weights"].items():
        assert torch.equal(after["weights"][name], weight), name


@contextmanager
def patched(module: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Replaces `module.name` by `make(original)` within the context."""
    original = getattr(module, name)
    with mock.patch.object(module, name, make(original)):
        yield


def make_failure(kind: str) -> BaseException:
    """An exception that can occur while sampling."""
    from comfy.model_management import InterruptProcessingException

    return {
        "interrupt": InterruptProcessingException,
        "error": lambda: RuntimeError("a node failed"),
        "memory": lambda: torch.OutOfMemoryError("out of memory"),
        "ctrl-c": KeyboardInterrupt,
    }[kind]()


@contextmanager
def failing(module: nn.Module, call: int, kind: str) -> Iterator[list[int]]:
    """Makes the `call`-th call of `module` fail; the list has an entry for each call so far."""
    calls: list[int] = []

    def count(*_: Any) -> None:
        calls.append(1)
        if len(calls) == call:
            raise make_failure(kind)

    hook = module.register_forward_pre_hook(count)
    try:
        yield calls
    finally:
        hook.remove()


@contextmanager
def track_objects() -> Iterator[list[weakref.ref[Any]]]:
    """Collects weak references to runs, pass states, and tensors that predictors hold."""
    references: list[weakref.ref[Any]] = []

    def track_instances(init: Any) -> Any:
        def tracking_init(self: Any, *args: Any, **kwargs: Any) -> None:
            init(self, *args, **kwargs)
            references.append(weakref.ref(self))

        return tracking_init

    def track_values(observe: Any) -> Any:
        def tracking_observe(self: Predictor, sigma: float, value: torch.Tensor) -> None:
            observe(self, sigma, value)
            references.append(weakref.ref(value))

        return tracking_observe

    with (
        patched(Run, "__init__", track_instances),
        patched(PassState, "__init__", track_instances),
        patched(Predictor, "observe", track_values),
    ):
        yield references
