"""Observes cached runs of diffusers pipelines independently of their reports."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from tiny_pipelines import stack_blocks, transformers
from torch import nn

from teacache.hosts.diffusers.enable import CachedPipeline
from teacache.report import RunReport

SKIP_ALL = 90.0
SKIP_NONE = 1e-12


def report_of(handle: CachedPipeline) -> RunReport:
    """The report of the last run."""
    report = handle.report_for()
    assert report is not None
    return report


@dataclass
class Spy:
    """Observations of a run, made by forward hooks of the test.

    Attributes:
        per_call: Block calls within each call of a transformer.
        outputs: What each call returned.
    """

    per_call: list[int] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)


@contextmanager
def spying(pipe: Any) -> Iterator[Spy]:
    """Observes the calls of the pipeline's transformers and of their blocks."""
    spy = Spy()

    def called(module: nn.Module, args: Any) -> None:
        spy.per_call.append(0)

    def block_called(module: nn.Module, args: Any) -> None:
        spy.per_call[-1] += 1

    def answered(module: nn.Module, args: Any, out: Any) -> None:
        sample = out[0]
        spy.outputs.append(torch.stack(sample) if isinstance(sample, list) else sample.clone())

    hooks = []
    for transformer in transformers(pipe):
        hooks.append(transformer.register_forward_pre_hook(called))
        hooks.append(transformer.register_forward_hook(answered))
        hooks += [b.register_forward_pre_hook(block_called) for b in stack_blocks(transformer)]
    try:
        yield spy
    finally:
        for hook in hooks:
            hook.remove()


def state_of(pipe: Any) -> list[Any]:
    """What a run must leave unchanged: attributes of the pipeline, forwards, and modules."""
    parts: list[Any] = [name in vars(pipe) for name in ("teacache", "progress_bar")]
    for transformer in transformers(pipe):
        parts += ["forward" in vars(transformer), [id(m) for m in transformer.modules()]]
    return parts


def assert_nothing_is_left(pipe: Any) -> None:
    """Checks that no object of a run is in memory and no proxy of a block is installed."""
    from teacache.engine.blocks import BlockProxy, BlockStack
    from teacache.engine.decision import BranchState
    from teacache.engine.run import Run

    gc.collect()
    live = [o for o in gc.get_objects() if type(o) in (Run, BranchState, BlockStack)]
    assert not live
    for transformer in transformers(pipe):
        assert not any(isinstance(module, BlockProxy) for module in transformer.modules())
