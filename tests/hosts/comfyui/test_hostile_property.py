"""Random families, samplers, settings and conds, in sequences of runs of which some break off.

    TEACACHE_LONG=3000 python run.py test --only-tests tests/hosts/comfyui/test_hostile_property.py

tries that many new cases, of all families; without it, the same few cases every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import tiny_models
import torch
from hostile import live_objects
from hypothesis import event, given, note
from hypothesis import strategies as st
from random_runs import (
    FAMILIES,
    Apart,
    Built,
    check_policy,
    check_spy,
    configs,
    counting_evaluations,
    leaving_nothing,
    model_of,
    raises_alike,
    random_cases,
    same,
)
from sampling import SKIP_NONE, cached, report_of, sample, spying

pytestmark = [pytest.mark.usefixtures("comfy"), pytest.mark.slow]
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


@pytest.fixture(scope="module")
def built(comfy: Any) -> dict[str, Any]:
    return Built()


@random_cases(quick=24)
@given(
    family=st.sampled_from(FAMILIES),
    config=configs(),
    runs=st.lists(cases, min_size=1, max_size=3),
)
def test_whatever_is_done(
    built: dict[str, Any], family: str, config: dict[str, Any], runs: list[Case]
) -> None:
    model, name, latent = model_of(built, family)
    config = dict(config)
    threshold = config.pop("threshold")
    if not tiny_models.TINY[name].splits:
        runs = [run for run in runs if not run.split]
    with leaving_nothing(model):
        shared, handle = cached(model, threshold, **config)
        apart = Apart()
        apart.watch(shared)
        for run in runs:
            note(f"{run}")
            one_run(model, name, latent, shared, handle, apart, run, threshold, config)
        apart.check()


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
    with spying(model) as spy, counting_evaluations([spy]) as (ends,):
        apart.spy = spy
        try:
            got = run.run(shared, name, latent)
        except Stopped:
            got = None
        except Exception as error:  # a cond that the model itself cannot take
            raises_alike(error, lambda: run.run(model, name, latent))
            return
    report = report_of(handle)
    event(f"{report.method}: {'broken off' if got is None else 'skips' if report.skipped else '-'}")
    check_spy([report], spy, ends)
    check_policy(report, config, got is not None and bool(report.records))
    assert report.outcome == ("failed" if got is None else "done")
    if got is None:
        return
    fresh, _ = cached(model, threshold, **config)
    assert same(run.run(fresh, name, latent), got), "the runs before it had an effect"
    if threshold == 0 or (threshold == SKIP_NONE and not report.skipped):
        assert same(run.run(model, name, latent), got), "off is not native"
    elif not torch.isfinite(got).all():
        assert not torch.isfinite(run.run(model, name, latent)).all()


def test_nothing_is_left_in_memory() -> None:
    assert live_objects() == []
