"""Calls of a block stack that adds a number, on runs without a host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lone_runs import CPU, EULER, profile, run_of
from torch import nn

from teacache.config import TeaCacheConfig
from teacache.engine.forward import StackForward
from teacache.engine.run import Run
from teacache.engine.strategy import settings_from_config
from teacache.families.streams import BlockArguments, Role, Stream


def full(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError


class Observer:
    """Notes what a run computes."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, Any, float]] = []
        self.residuals: list[tuple[int, Any, torch.Tensor]] = []

    def on_prediction(self, step: int, derivative: torch.Tensor) -> None: ...

    def on_indicator_change(self, step: int, branch: Any, change: float) -> None:
        self.changes.append((step, branch, change))

    def on_residual(self, step: int, branch: Any, residual: torch.Tensor) -> None:
        self.residuals.append((step, branch, residual.clone()))


def stack_input_run(threshold: float = 0.5, **more: Any) -> Run:
    """A run whose indicator is the input of the stack, its change being the distance."""
    config = {key: more.pop(key) for key in ("cache_device",) if key in more}
    settings = settings_from_config(
        TeaCacheConfig(rel_l1_thresh=threshold, mode="faithful", **config),
        profile(indicator="stack_input", coefficients=()),
        EULER,
    )
    return run_of(settings=settings, **more)


def image(*rows: float, tokens: int = 4) -> torch.Tensor:
    return torch.stack([torch.full((tokens, 2), value) for value in rows])


def call_of(
    run: Run,
    sigma: float,
    given: torch.Tensor,
    keys: Sequence[str] = ("cond",),
    layout: str = "layout",
    add: float = 10.0,
    measure_only: bool = False,
    parts: tuple[int, ...] = (),
) -> tuple[StackForward, torch.Tensor]:
    """One evaluation with one call whose blocks add `add`: the forward, and the stack's output.

    Args:
        parts: tokens of the parts that the image stream packs.
    """
    run.begin_evaluation(sigma, CPU)
    forward = StackForward(run, run.decide("pass"), keys, layout, measure_only)
    stream = Stream(Role.IMAGE, 0, "x", part_sizes=lambda _: parts)
    forward.on_stack_input(nn.Identity(), BlockArguments((given,), {}, stream), given)
    if forward.skipping:
        out = forward.predicted_output()
    else:
        out = given + add
        forward.on_stack_output(out)
    run.end_evaluation()
    return forward, out
