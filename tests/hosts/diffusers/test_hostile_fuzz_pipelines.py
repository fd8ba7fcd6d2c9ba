"""Random pipelines with what other packages do to them, and the cache at threshold 0.

What is compared is the same pipeline without the cache, as in test_hostile_fuzz.py. The long mode
is that of test_hostile_property_pipelines.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

import tiny_pipelines
from foreign_graphs import FAILURES, Calls
from foreign_pipelines import SCHEDULERS, copy_of
from pipeline_sampling import state_of
from random_runs import LONG, Built, leaving_nothing, random_cases, same
from tiny_pipelines import TINY, generate, stack_blocks, transformers

from teacache.hosts.diffusers.enable import enable_teacache

pytestmark = [pytest.mark.usefixtures("comfy"), pytest.mark.slow]
NAMES = tuple(TINY) if LONG else ("sd3", "flux1", "lumina2", "wan21")


def hook(pipe: Any, calls: Calls) -> Callable[[], None]:
    """A forward hook on the transformer."""
    handle = transformers(pipe)[0].register_forward_pre_hook(lambda *_: calls())
    return handle.remove


def block_hook(pipe: Any, calls: Calls) -> Callable[[], None]:
    """A forward hook on a block that changes what it returns."""
    block = stack_blocks(transformers(pipe)[0])[-1]
    return block.register_forward_hook(lambda module, args, out: calls(out)).remove


def forward(pipe: Any, calls: Calls) -> Callable[[], None]:
    """A forward on the transformer itself, as accelerate's hooks set it."""
    transformer = transformers(pipe)[0]
    original = transformer.forward

    def replaced(*args: Any, **options: Any) -> Any:
        out = original(*args, **options)
        calls()
        return out

    transformer.forward = replaced
    return lambda: vars(transformer).pop("forward")


def bar(pipe: Any, calls: Calls) -> Callable[[], None]:
    """A progress bar of the pipeline object's own."""
    kind = type(pipe)

    def own(iterable: Any = None, total: int | None = None) -> Any:
        calls()
        return kind.progress_bar(pipe, iterable, total)

    pipe.progress_bar = own
    return lambda: vars(pipe).pop("progress_bar")


def step(pipe: Any, calls: Calls) -> Callable[[], None]:
    """A step of the scheduler object's own that changes the prediction."""
    scheduler = pipe.scheduler
    original = scheduler.step

    def replaced(prediction: torch.Tensor, *args: Any, **options: Any) -> Any:
        return original(calls(prediction), *args, **options)

    scheduler.step = replaced

    def undo() -> None:
        del scheduler.step

    return undo


def swapped(pipe: Any, calls: Calls) -> Callable[[], None]:
    """A class of its own for the pipeline object."""
    kind = type(pipe)

    def progress_bar(self: Any, *args: Any, **options: Any) -> Any:
        calls()
        return kind.progress_bar(self, *args, **options)

    pipe.__class__ = type("Patched", (kind,), {"progress_bar": progress_bar})

    def undo() -> None:
        pipe.__class__ = kind

    return undo


CHANGES = {
    "hook": hook, "block hook": block_hook, "forward": forward, "bar": bar, "step": step,
    "swapped": swapped,
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One of `CHANGES`, with its calls as `foreign_graphs.Calls` describes them."""

    name: str
    fails_at: int | None
    kind: str
    scale: float


@dataclass(frozen=True)
class Case:
    """One call of a pipeline.

    Attributes:
        changes: made one after another.
        place: how many of them are made before the cache is turned on.
        callback: at the end of each step: nothing, or as in `Change`; `interrupt` stops the loop.
    """

    name: str
    scheduler: str
    steps: int
    seed: int
    guided: bool
    tuples: bool
    copied: bool
    changes: tuple[Change, ...]
    place: int
    mode: str
    callback: Change | None

    def sampled(self, pipe: Any, with_cache: bool) -> tuple[Any, ...]:
        """The latents, or what was raised; what the callback saw; the next random number."""
        seen: list[torch.Tensor] = []
        torch.manual_seed(3)
        try:
            with ExitStack() as stack:
                outcome: tuple[Any, ...] = (self._sample(pipe, with_cache, seen, stack),)
        except (Exception, KeyboardInterrupt) as error:
            outcome = (type(error), re.sub(r"0x[0-9a-f]+", "0x", str(error)))
        return (*outcome, *seen, torch.rand(1))

    def _sample(
        self, pipe: Any, with_cache: bool, seen: list[torch.Tensor], stack: ExitStack
    ) -> Any:
        scheduler = pipe.scheduler

        def restore() -> None:
            pipe.scheduler = scheduler
            vars(pipe).pop("_interrupt", None)

        stack.callback(restore)
        if self.scheduler and TINY[self.name].flow:
            pipe.scheduler = SCHEDULERS[self.scheduler]()
        for place, change in enumerate(self.changes):
            if with_cache and place == self.place:
                stack.callback(enable_teacache(pipe, 0.0, mode=self.mode).disable)
            calls = Calls(change.fails_at, change.kind, change.scale)
            stack.callback(CHANGES[change.name](pipe, calls))
        if with_cache and self.place == len(self.changes):
            stack.callback(enable_teacache(pipe, 0.0, mode=self.mode).disable)
        given: dict[str, Any] = {} if self.guided else dict(TINY[self.name].unguided)
        if self.tuples:
            given["return_dict"] = False
        if self.callback is not None:
            given["callback_on_step_end"] = self._callback(self.callback, seen)
        target = copy_of(pipe) if self.copied and TINY[self.name].flow else pipe
        return generate(target, self.name, steps=self.steps, seed=self.seed, **given)

    def _callback(self, change: Change, seen: list[torch.Tensor]) -> Callable[..., Any]:
        calls = Calls(change.fails_at, change.kind, change.scale)

        def callback(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> Any:
            if change.name == "interrupt" and step == 1:
                pipe._interrupt = True
            seen.append(inputs["latents"].clone())
            return {**inputs, "latents": calls(inputs["latents"])}

        return callback


def changes(names: tuple[str, ...]) -> Any:
    return st.builds(
        Change,
        name=st.sampled_from(names),
        fails_at=st.one_of(st.none(), st.none(), st.none(), st.integers(1, 8)),
        kind=st.sampled_from(FAILURES),
        scale=st.sampled_from((1.0, 0.97, 1.02)),
    )


@st.composite
def cases(draw: Any) -> Case:
    made = draw(st.lists(changes(tuple(CHANGES)), max_size=3, unique_by=lambda made: made.name))
    kinds = {change.name for change in made}
    if {"bar", "swapped"} <= kinds:  # the one would be taken off the other's object
        made = [change for change in made if change.name != "bar"]
    scheduler = draw(st.sampled_from(("", "", *SCHEDULERS)))
    if scheduler in ("proxy", "own step", "few settings"):  # a step cannot be taken off a proxy
        made = [change for change in made if change.name != "step"]
    return Case(
        name=draw(st.sampled_from(NAMES)),
        scheduler=scheduler,
        steps=draw(st.integers(1, 5)),
        seed=draw(st.integers(0, 9)),
        guided=draw(st.booleans()),
        tuples=draw(st.booleans()),
        copied=draw(st.booleans()),
        changes=tuple(made),
        place=draw(st.integers(0, len(made))),
        mode=draw(st.sampled_from(("forecast", "faithful"))),
        callback=draw(st.one_of(st.none(), changes(("callback", "interrupt")))),
    )


def alike(one: Any, other: Any) -> bool:
    """Whether two results are equal, tensors bit by bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return same(one, other)
    if isinstance(one, (tuple, list)) and type(one) is type(other):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


@pytest.fixture(scope="module")
def built() -> dict[str, Any]:
    return Built()


@random_cases(quick=12)
@given(case=cases())
def test_a_pipeline_with_the_cache_switched_off_is_the_pipeline_without_it(
    built: dict[str, Any], case: Case
) -> None:
    if case.name not in built:
        built[case.name] = tiny_pipelines.build(case.name)
    pipe = built[case.name]
    before, kind = state_of(pipe), type(pipe)
    with leaving_nothing():
        native, off = (case.sampled(pipe, with_cache) for with_cache in (False, True))
    event("raises" if isinstance(native[0], type) else "samples")
    assert alike(native, off), f"{native[:2]} without the cache, {off[:2]} with it"
    assert state_of(pipe) == before and type(pipe) is kind and "teacache" not in vars(pipe)
