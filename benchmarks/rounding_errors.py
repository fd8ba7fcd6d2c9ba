"""How large the rounding errors of models are that compute in half precision.

The derivative that a model gives in half precision is compared with that of the same model, with
the same weights, that computes in float32, at the same latents. The figures are part of the page of
`benchmarks.half_precision`.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.drawing import draw
from benchmarks.testbeds import COMFYUI, Pair, Testbed

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
HEAD = ("ground", "type", "of a branch", "after guidance", "taken off", "correlation of two steps")
"""Of the table."""


def in_precision(testbed: Testbed, dtype: torch.dtype) -> Testbed:
    """The same model, all of which computes in `dtype`, in ComfyUI alone."""
    import comfy.model_patcher

    shared = testbed.patcher.model
    model = copy.copy(shared)  # not deep: newer versions of ComfyUI hold what cannot be copied
    model._modules = dict(shared._modules)
    model.diffusion_model = copy.deepcopy(shared.diffusion_model)
    transformer = model.diffusion_model.to(dtype)
    transformer.dtype = dtype
    if testbed.name == "digits":
        transformer.patch_embedding.float()  # in every precision, as ComfyUI's Wan model has it
    names = {module: name for name, module in shared.named_modules()}
    middle = model.get_submodule(names[testbed.middle_layers[COMFYUI]])
    cpu = torch.device("cpu")
    return replace(
        testbed,
        patcher=comfy.model_patcher.ModelPatcher(model, cpu, cpu),
        middle_layers={**testbed.middle_layers, COMFYUI: middle},
    )


class Call(NamedTuple):
    """One call of a model by ComfyUI.

    Args:
        latent, sigma: of each branch of guidance.
        conds: the other arguments.
        branches: 0 for the positive branch, 1 for the negative one.
    """

    latent: Tensor
    sigma: Tensor
    conds: dict[str, Any]
    branches: list[int]


def calls_of(testbed: Testbed, pair: Pair) -> list[Call]:
    """The calls of an uncached run."""
    calls: list[Call] = []

    def keep(apply: Any, given: dict[str, Any]) -> Any:
        calls.append(Call(given["input"], given["timestep"], given["c"], given["cond_or_uncond"]))
        return apply(given["input"], given["timestep"], **given["c"])

    @contextmanager
    def enable(testbed: Testbed) -> Iterator[Any]:
        patcher = testbed.patcher.clone()
        patcher.set_model_unet_function_wrapper(keep)
        yield patcher

    draw(testbed, enable, pair)
    return calls


def derivatives(testbed: Testbed, call: Call) -> Tensor:
    """The derivative of each branch in a call, and, of two, that after guidance behind them."""
    sigma = call.sigma.reshape(-1, *[1] * (call.latent.ndim - 1))
    denoised = testbed.patcher.model.apply_model(call.latent, call.sigma, **call.conds)
    found: Tensor = (call.latent - denoised) / sigma
    if len(found) < 2:
        return found
    positive = found[call.branches.index(0)]
    negative = found[call.branches.index(1)]
    guided = negative + testbed.ground.guidance * (positive - negative)
    return torch.cat([found, guided[None]])


class Errors(NamedTuple):
    """Rounding errors along a run: root mean squares, in parts of the value's and of epsilon.

    Args:
        branch, guided: of a branch, and after guidance, at each step.
        correlation: of each step's error after guidance with that of the step before.
    """

    branch: list[float]
    guided: list[float]
    correlation: list[float]


def rounding_errors(testbed: Testbed, calls: Sequence[Call], dtype: torch.dtype) -> Errors:
    """Those of the model in `dtype`, beside one with the same weights that computes in float32."""
    half, exact = in_precision(testbed, dtype), in_precision(testbed, dtype)
    exact.patcher.model.diffusion_model.float().dtype = torch.float32
    errors, before = Errors([], [], []), None
    with torch.inference_mode():
        for call in calls:
            values = derivatives(exact, call)
            missed = derivatives(half, call) - values
            sizes = missed.flatten(1).norm(dim=1) / values.flatten(1).norm(dim=1)
            relative = (sizes / torch.finfo(dtype).eps).tolist()
            errors.branch.append(relative[0])
            errors.guided.append(relative[-1])
            if before is not None:
                both = torch.stack([before.flatten(), missed[-1].flatten()])
                errors.correlation.append(float(torch.corrcoef(both)[0, 1]))
            before = missed[-1]
    return errors


def span(values: Sequence[float], digits: int = 1) -> str:
    """Least and most, with the mean in between."""
    shown = (min(values), statistics.fmean(values), max(values))
    return " / ".join(f"{value:.{digits}f}" for value in shown)


def error_rows(testbed: Testbed, pair: Pair) -> list[list[str]]:
    """The rows of the table of rounding errors."""
    calls = calls_of(testbed, pair)
    rows = []
    for name, dtype in DTYPES.items():
        errors = rounding_errors(testbed, calls, dtype)
        gain = 1.0
        if testbed.branches == 2:
            gain = math.hypot(testbed.ground.guidance, testbed.ground.guidance - 1)
        shown = [span(errors.branch), span(errors.guided), f"{gain:.1f}"]
        rows.append([testbed.ground.name, name, *shown, span(errors.correlation, 2)])
    return rows
