"""Random families, samplers, settings and conds, in sequences of runs of which some break off.

    TEACACHE_LONG=3000 python run.py test --only-tests tests/hosts/comfyui/test_hostile_property.py

tries that many new cases, of all families; without it, the same few cases every time.
"""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import tiny_models
import torch
from hostile import live_objects, patched, small_model, state_of, track_objects
from hypothesis import HealthCheck, Phase, assume, event, given, note, settings
from hypothesis import strategies as st
from sampling import Spy, cached, report_of, sample, spying

from teacache.config import INDICATORS, PREDICTORS
from teacache.engine.run import Run
from teacache.report import RunReport

pytestmark = [pytest.mark.usefixtures("comfy"), pytest.mark.slow]
LONG = int(os.environ.get("TEACACHE_LONG", "0"))
QUICK = ("small", "small", "flux1", "wan21")
FAMILIES = ("small", *tiny_models.TINY) if LONG else QUICK
SAMPLERS = (
    "euler", "heun", "dpm_2", "dpmpp_2m", "lms", "uni_pc", "res_multistep", "heunpp2", "ddim",
    "euler_ancestral", "dpmpp_sde", "euler_cfg_pp", "lcm", "dpm_adaptive", "dpm_fast", "seeds_2",
    "sa_solver", "gradient_estimation",
)  # fmt: skip
SCHEDULERS = ("simple", "normal", "karras", "beta", "linear_quadratic", "sgm_uniform")
CONDS = ("one", "two", "early", "late", "area", "long")


class Stopped(Exception):
    """The run breaks off."""


@dataclass(frozen=True)
class Case:
    """One run. stop: the call of the model in which it breaks off; split: branches one by one."""

    steps: int
    sampler: str
    scheduler: str
    cfg: float
    batch: int
    denoise: float
    seed: int
    conds: str
    split: bool
    stop: int | None

    def conditioning(self, name: str) -> dict[str, Any]:
        positive = tiny_models.cond(name, 1)
        if self.conds == "two":
            positive += tiny_models.cond(name, 3)
        if self.conds == "early":
            positive[0][1]["end_percent"] = 0.6
            positive += tiny_models.cond(name, 3)
        if self.conds == "late":
            late = tiny_models.cond(name, 3)
            late[0][1]["start_percent"] = 0.4
            positive += late
        if self.conds == "area" and len(tiny_models.TINY[name].latent) == 3:
            part = tiny_models.cond(name, 3)
            part[0][1]["area"] = (4, 4, 0, 0)
            positive += part
        return {"positive": positive, "negative": tiny_models.cond(name, 2)}

    def run(self, model: Any, name: str, latent: torch.Tensor) -> torch.Tensor:
        """The sampled latent; raises Stopped where it is to break off."""
        calls: list[int] = []

        def count(*_: Any) -> None:
            calls.append(1)
            if len(calls) == self.stop:
                raise Stopped

        needs = mock.Mock(return_value=1e30) if self.split else model.model.memory_required
        hook = model.model.diffusion_model.register_forward_pre_hook(count)
        try:
            with mock.patch.object(model.model, "memory_required", needs):
                return sample(
                    model, name, steps=self.steps, cfg=self.cfg, seed=self.seed,
                    sampler=self.sampler, scheduler=self.scheduler, denoise=self.denoise,
                    latent=latent.expand(self.batch, *latent.shape[1:]).clone(),
                    **self.conditioning(name),
                )  # fmt: skip
        finally:
            hook.remove()


cases = st.builds(
    Case,
    steps=st.integers(1, 9),
    sampler=st.sampled_from(SAMPLERS),
    scheduler=st.sampled_from(SCHEDULERS),
    cfg=st.sampled_from((1.0, 3.0)),
    batch=st.integers(1, 3),
    denoise=st.sampled_from((1.0, 1.0, 0.6)),
    seed=st.integers(0, 9),
    conds=st.sampled_from(CONDS),
    split=st.booleans(),
    stop=st.one_of(st.none(), st.none(), st.integers(1, 20)),
)
ranges = st.tuples(st.sampled_from((0.0, 0.0, 0.2, 0.5)), st.sampled_from((1.0, 1.0, 0.9, 0.6)))


@st.composite
def configs(draw: Any) -> dict[str, Any]:
    start, end = draw(ranges)
    config: dict[str, Any] = {
        "threshold": draw(st.sampled_from((0.0, 0.1, 0.2, 0.5, 1.0, 3.0, 60.0, 60.0))),
        "mode": draw(st.sampled_from(("forecast", "faithful"))),
        "start_percent": start,
        "end_percent": end,
        "max_skip": draw(st.sampled_from((0, 0, 1, 3))),
        "cache_device": draw(st.sampled_from(("auto", "cpu"))),
        "token_stride": draw(st.sampled_from((1, 1, 3))),
    }
    if draw(st.integers(0, 2)) == 0:
        config["cached"] = draw(st.sampled_from(("auto", "residual", "prediction")))
        config["indicator"] = draw(st.sampled_from(INDICATORS))
        config["predictor"] = draw(st.sampled_from(PREDICTORS))
    return config


@pytest.fixture(scope="module")
def built(comfy: Any) -> dict[str, Any]:
    return {}


def model_of(built: dict[str, Any], family: str) -> tuple[Any, str, torch.Tensor]:
    """The model, the name of its conds, a latent of one row."""
    name = "sd3" if family == "small" else family
    shape = (16, 4, 4) if family == "small" else tiny_models.TINY[name].latent
    latent = torch.zeros(1, *shape)
    import comfy.supported_models

    assume(hasattr(comfy.supported_models, tiny_models.TINY[name].config))
    if family not in built:
        built[family] = small_model() if family == "small" else tiny_models.build(name)
        sample(built[family], name, steps=1, latent=latent)  # ComfyUI notes what it has loaded
    return built[family], name, latent


def check_spy(report: RunReport, spy: Spy, ends: list[int]) -> None:
    """Each evaluation is what the blocks saw of it. ends: calls of the model up to its end."""
    lead = 1 if report.indicator == "first_block" else 0
    begins = [0, *ends]
    for record, begin, end in zip(report.records, begins, ends, strict=False):
        calls = spy.per_call[begin:end]
        if record.skipped and report.cached == "prediction":
            assert calls == []
        elif record.skipped:
            assert calls and set(calls) == {lead}
        else:
            assert calls and calls[-1] > lead


class Apart:
    """Whether the first two branches of a call gave the same, where blocks ran and on skips."""

    def __init__(self) -> None:
        self.spy = Spy()
        self.same: set[bool] = set()

    def __call__(self, apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
        out = apply_model(args["input"], args["timestep"], **args["c"])
        branches = out.chunk(len(args["cond_or_uncond"]))
        if len(branches) > 1 and torch.equal(branches[0], branches[1]):
            self.same.add(self.spy.per_call[-1] > 0)
        return out


def check_policy(report: RunReport, config: dict[str, Any], complete: bool) -> None:
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
        assert not report.records[-1].skipped
        assert {record.step for record in report.records} <= set(range(report.steps))


@settings(
    max_examples=LONG or 24,
    derandomize=not LONG,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)
@given(
    family=st.sampled_from(FAMILIES),
    config=configs(),
    runs=st.lists(cases, min_size=1, max_size=3),
)
def test_whatever_is_done(
    built: dict[str, Any], family: str, config: dict[str, Any], runs: list[Case]
) -> None:
    model, name, latent = model_of(built, family)
    before = state_of(model)
    config = dict(config)
    threshold = config.pop("threshold")
    if not tiny_models.TINY[name].splits:
        runs = [run for run in runs if not run.split]
    with track_objects() as held:
        shared, handle = cached(model, threshold, **config)
        apart = Apart()
        shared.set_model_unet_function_wrapper(apart)
        for run in runs:
            note(f"{run}")
            one_run(model, name, latent, shared, handle, apart, run, threshold, config)
        assert apart.same != {False}, "a branch took another one's residual"
    after = state_of(model)
    weights, known = after.pop("weights"), before.pop("weights")
    assert after == before
    assert all(torch.equal(weights[key], known[key]) for key in known)
    gc.collect()
    assert not [ref for ref in held if ref() is not None]


def one_run(
    model: Any,
    name: str,
    latent: torch.Tensor,
    shared: Any,
    handle: Any,
    apart: Apart,
    run: Case,
    threshold: float,
    config: dict[str, Any],
) -> None:
    ends: list[int] = []
    with spying(model) as spy:
        apart.spy = spy

        def ending(end: Any) -> Any:
            return lambda self, *args: (end(self, *args), ends.append(len(spy.per_call)))[0]

        with patched(Run, "end_evaluation", ending):
            try:
                got = run.run(shared, name, latent)
            except Stopped:
                got = None
            except Exception as error:  # a cond that the model itself cannot take
                with pytest.raises(type(error)):
                    run.run(model, name, latent)
                return
    report = report_of(handle)
    event(f"{report.method}: {'broken off' if got is None else 'skips' if report.skipped else '-'}")
    check_spy(report, spy, ends)
    check_policy(report, config, got is not None and bool(report.records))
    assert report.outcome == ("failed" if got is None else "done")
    if got is None:
        return
    fresh, _ = cached(model, threshold, **config)
    assert torch.equal(run.run(fresh, name, latent), got), "the runs before it had an effect"
    if threshold == 0:
        assert torch.equal(run.run(model, name, latent), got), "off is not native"
    elif not torch.isfinite(got).all():
        assert not torch.isfinite(run.run(model, name, latent)).all()


def test_nothing_is_left_in_memory() -> None:
    assert live_objects() == []
