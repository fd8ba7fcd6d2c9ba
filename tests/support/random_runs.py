"""Random settings of the cache, and what must hold of every run under them."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tiny_models
import torch
from hostile import patched, small_model, state_of, track_objects
from hypothesis import HealthCheck, Phase, assume, settings
from hypothesis import strategies as st
from sampling import SKIP_NONE, Spy, sample

from teacache.config import INDICATORS, PREDICTORS
from teacache.engine.run import Run
from teacache.report import RunReport
from teacache.schedule import Schedule

LONG = int(os.environ.get("TEACACHE_LONG", "0"))
"""Number of random cases of each test; 0 for the few that are the same every time."""
QUICK = ("small", "small", "flux1", "wan21")
FAMILIES = (*["small"] * 3 * len(tiny_models.TINY), *tiny_models.TINY) if LONG else QUICK
"""Mostly the small model, which samples in milliseconds."""


def random_cases(quick: int) -> Any:
    """The settings of a test of random cases. quick: how many there are without `LONG`."""
    return settings(
        max_examples=LONG or quick,
        derandomize=not LONG,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )


ranges = st.tuples(st.sampled_from((0.0, 0.0, 0.2, 0.5)), st.sampled_from((1.0, 1.0, 0.9, 0.6)))
thresholds = st.sampled_from((0.0, SKIP_NONE, 0.1, 0.3, 0.5, 1.0, 3.0, 60.0, 60.0, 60.0))


@st.composite
def configs(draw: Any) -> dict[str, Any]:
    """Settings of every widget, with the threshold."""
    start, end = draw(ranges)
    config: dict[str, Any] = {
        "threshold": draw(thresholds),
        "mode": draw(st.sampled_from(("forecast", "faithful"))),
        "start_percent": start,
        "end_percent": end,
        "max_skip": draw(st.sampled_from((0, 0, 1, 3))),
        "cache_device": draw(st.sampled_from(("auto", "cpu"))),
    }
    if draw(st.integers(0, 2)) == 0:
        config["cached"] = draw(st.sampled_from(("auto", "residual", "prediction")))
        config["indicator"] = draw(st.sampled_from(INDICATORS))
        config["predictor"] = draw(st.sampled_from(PREDICTORS))
    return config


class Built(dict[str, Any]):
    """Models made so far, by name; not shown where a case fails."""

    def __repr__(self) -> str:
        return "built"


def model_of(built: dict[str, Any], family: str) -> tuple[Any, str, torch.Tensor]:
    """The model, the name of its conds, a latent of one row.

    Args:
        built: the models made so far, by family.
        family: a tiny model, or `small`.
    """
    name = "sd3" if family == "small" else family
    shape = (16, 4, 4) if family == "small" else tiny_models.TINY[name].latent
    latent = torch.zeros(1, *shape)
    import comfy.supported_models

    assume(hasattr(comfy.supported_models, tiny_models.TINY[name].config))
    if family not in built:
        built[family] = small_model() if family == "small" else tiny_models.build(name)
        sample(built[family], name, steps=1, latent=latent)  # ComfyUI notes what it has loaded
    return built[family], name, latent


_CASES = itertools.count()
FULL_COLLECTIONS = 16
"""After how many cases everything is walked, not only what a case has made."""


@contextmanager
def leaving_nothing(*models: Any) -> Iterator[None]:
    """Checks that the models are unchanged afterwards, and that no object of a run is left."""
    before = [state_of(model) for model in models]
    if next(_CASES) % FULL_COLLECTIONS == 0:
        gc.collect()
    gc.freeze()  # what exists now need not be walked again
    try:
        with track_objects() as held:
            yield
        gc.collect()
    finally:
        gc.unfreeze()
    assert not [ref for ref in held if ref() is not None]
    for model, known in zip(models, before, strict=True):
        after = state_of(model)
        weights, known_weights = after.pop("weights"), known.pop("weights")
        assert after == known
        assert all(torch.equal(weights[key], known_weights[key]) for key in known_weights)


@contextmanager
def counting_evaluations(spies: Sequence[Spy]) -> Iterator[list[list[int]]]:
    """For each spy, how many calls it has seen at the end of each evaluation."""
    ends: list[list[int]] = [[] for _ in spies]

    def ending(end: Any) -> Any:
        def ended(self: Run, *args: Any) -> None:
            end(self, *args)
            for spy, places in zip(spies, ends, strict=True):
                places.append(len(spy.per_call))

        return ended

    with patched(Run, "end_evaluation", ending):
        yield ends


def check_spy(reports: Sequence[RunReport], spy: Spy, ends: list[int]) -> None:
    """Each evaluation is what the blocks saw of it. ends: calls of the model up to its end."""
    records = [(report, record) for report in reports for record in report.records]
    for (report, record), begin, end in zip(records, [0, *ends], ends, strict=False):
        calls = spy.per_call[begin:end]
        if record.skipped and report.cached == "prediction":
            assert calls == []
        elif record.skipped:
            assert calls and set(calls) == {0}
        else:
            assert calls and calls[-1] > 0


class Apart:
    """Whether the first two branches of a call gave the same, where blocks ran and on skips."""

    def __init__(self) -> None:
        self.spy = Spy()
        self.same: set[bool] = set()

    def watch(self, patcher: Any) -> None:
        """Watches the calls of the model of `patcher` and of its clones, which copy objects."""
        patcher.set_model_unet_function_wrapper(lambda *given: self._called(*given))

    def _called(self, apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
        out = apply_model(args["input"], args["timestep"], **args["c"])
        branches = out.chunk(len(args["cond_or_uncond"]))
        if len(branches) > 1 and torch.equal(branches[0], branches[1]):
            self.same.add(self.spy.per_call[-1] > 0)
        return out

    def check(self) -> None:
        assert self.same != {False}, "a branch took another one's residual"


def check_policy(report: RunReport, config: dict[str, Any], complete: bool) -> None:
    """Skips stay in their range and below `max_skip`; first and last evaluation are computed.

    A forecast that leaves noise for another run may skip its last one.

    Args:
        complete: whether the run went through its schedule to the end.
    """
    in_a_row = 0
    for record in report.records:
        in_a_row = in_a_row + 1 if record.skipped else 0
        if record.skipped:
            assert config["start_percent"] * report.steps <= record.step
            assert record.step < config["end_percent"] * report.steps
            assert not config["max_skip"] or in_a_row <= config["max_skip"]
    if report.records:
        assert not report.records[0].skipped
    if complete:
        leaves_noise = report.indicator == "rate" and Schedule(report.sigmas).leaves_noise
        assert leaves_noise or not report.records[-1].skipped
        assert {record.step for record in report.records} <= set(range(max(report.steps, 1)))


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two latents are bit-identical; NaN equals NaN."""
    return one.shape == other.shape and torch.equal(
        one.contiguous().view(torch.int32), other.contiguous().view(torch.int32)
    )


def raises_alike(error: Exception, run: Callable[[], Any]) -> None:
    """Checks that `run` raises what the same run with the cache has raised; else raises that."""
    try:
        run()
    except type(error):
        return
    raise error
