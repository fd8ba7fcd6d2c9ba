"""Samples tiny models with ComfyUI's KSampler, and observes runs independently of reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import tiny_models
import torch
from torch import nn
from watched_blocks import stack_of, watch

from teacache.config import TeaCacheConfig
from teacache.families.spec import Family
from teacache.families.streams import BlockArguments
from teacache.report import RunReport

SKIP_ALL = 90.0
"""A threshold with which every step is skipped that may be."""
SKIP_NONE = 1e-12
"""A threshold with which no step is skipped."""


def sample(
    model: Any,
    name: str,
    *,
    steps: int = 6,
    cfg: float = 3.0,
    seed: int = 1,
    sampler: str = "euler",
    scheduler: str = "simple",
    batch: int = 1,
    denoise: float = 1.0,
    positive: Any = None,
    negative: Any = None,
    latent: torch.Tensor | None = None,
) -> torch.Tensor:
    """The sampled latent of `common_ksampler`, as the KSampler node calls it."""
    import nodes

    positive = tiny_models.cond(name, 1) if positive is None else positive
    negative = tiny_models.cond(name, 2) if negative is None else negative
    samples = tiny_models.latent(name, batch) if latent is None else latent
    with torch.inference_mode():
        (out,) = nodes.common_ksampler(
            model, seed, steps, cfg, sampler, scheduler, positive, negative,
            {"samples": samples}, denoise=denoise,
        )  # fmt: skip
    return out["samples"]


def sample_part(
    model: Any, name: str, start: int, end: int, steps: int, latent: torch.Tensor | None = None
) -> torch.Tensor:
    """The latent of a KSampler (Advanced) node over the steps from `start` to `end` of `steps`.

    Args:
        latent: of the node before; None for the first one, which adds the noise.
    """
    import nodes

    samples = tiny_models.latent(name) if latent is None else latent
    with torch.inference_mode():
        (out,) = nodes.common_ksampler(
            model, 1, steps, 3.0, "euler", "simple",
            tiny_models.cond(name, 1), tiny_models.cond(name, 2), {"samples": samples},
            disable_noise=start > 0, start_step=start, last_step=end,
            force_full_denoise=end == steps,
        )  # fmt: skip
    return out["samples"]


def sample_in_two(models: tuple[Any, Any], name: str, steps: int, at: int) -> torch.Tensor:
    """High-noise, then low-noise expert, as two KSampler (Advanced) nodes."""
    between = sample_part(models[0], name, 0, at, steps)
    return sample_part(models[1], name, at, steps, steps, between)


def cached(model: Any, threshold: float, **config: Any) -> tuple[Any, Any]:
    """`model` with the cache, and its handle; the mode is faithful unless `config` has another."""
    from teacache.hosts.comfyui.patch import apply_teacache

    settings = {"mode": "faithful", **config}
    clone, handle = apply_teacache(model, TeaCacheConfig(rel_l1_thresh=threshold, **settings))
    assert handle is not None, "the family was not recognised"
    return clone, handle


def report_of(handle: Any) -> RunReport:
    """The report of the last run."""
    report = handle.report_for()
    assert report is not None
    return report


def stack_blocks(model: Any) -> list[nn.Module]:
    """The model's own blocks, by the paths of its family."""
    return [block for block, _ in stack_of(model.model.diffusion_model, family_of(model))]


def family_of(model: Any) -> Family:
    from teacache.families.registry import find_family

    family = find_family(model.model.diffusion_model)
    assert family is not None
    return family


@dataclass
class Spy:
    """Counts calls of the model and of its blocks, by hooks of the test."""

    per_call: list[int] = field(default_factory=list)
    """Block calls within each call of the transformer."""

    @property
    def skipped_calls(self) -> int:
        """Calls of the transformer in which no block was called."""
        return sum(count == 0 for count in self.per_call)


@contextmanager
def spying(model: Any) -> Iterator[Spy]:
    """Observes the calls of the transformer and of its blocks."""
    spy = Spy()

    def model_called(module: nn.Module, args: Any) -> None:
        spy.per_call.append(0)

    def block_called(arguments: BlockArguments) -> None:
        spy.per_call[-1] += 1

    transformer = model.model.diffusion_model
    with ExitStack() as hooks:
        hooks.enter_context(transformer.register_forward_pre_hook(model_called))
        for block, blocks in stack_of(transformer, family_of(model)):
            hooks.enter_context(watch(block, blocks, before=block_called))
        yield spy


@dataclass
class Call:
    """One call of the model: its inputs and its output."""

    x: torch.Tensor
    t: torch.Tensor
    c: dict[str, Any]
    out: torch.Tensor


def recording(model: Any, inject: Callable[[Call], None] | None = None) -> tuple[Any, list[Call]]:
    """A clone of `model` whose calls are recorded; `inject` may change inputs before the call."""
    calls: list[Call] = []
    clone = model.clone()

    def wrapper(apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
        c = dict(args["c"])
        call = Call(args["input"].clone(), args["timestep"].clone(), c, torch.empty(0))
        if inject is not None:
            inject(call)
        call.out = apply_model(args["input"], args["timestep"], **call.c)
        calls.append(call)
        return call.out

    clone.set_model_unet_function_wrapper(wrapper)
    return clone, calls
