"""Random samplers, guiders, wrappers, schedules, masks and devices of foreign make.

The long mode is that of test_hostile_property.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import foreign
import pytest
import torch
from devices import copy_of, split_over_devices
from hostile import distance, live_objects
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
from sampling import SKIP_NONE, cached, spying

from teacache.report import RunReport

pytestmark = [pytest.mark.usefixtures("comfy"), pytest.mark.slow]
COMFYUI_SAMPLERS = ("euler", "euler", "heun", "dpmpp_2m", "euler_ancestral", "dpm_fast", "uni_pc")
SCHEDULES = (
    "plain", "plain", "zeros behind", "zeros in front", "equal in front", "equal inside",
    "equal behind", "cut", "again", "one level",
)  # fmt: skip
NODES = ("tiles", "twice", "shortened", "denser")
NEAR = 1e-3


class Stopped(Exception):
    """The run breaks off."""


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        stop: the call of the model in which it breaks off.
        nodes: names of `NODES` that are put on the model.
        before: whether they are put there before the cache.
        clones: how many times the model is cloned before it is sampled.
        devices: how many there are.
    """

    steps: int
    scheduler: str
    schedule: str
    sampler: str
    guider: str
    batch: int
    seed: int
    mask: bool
    nodes: frozenset[str]
    before: bool
    clones: int
    devices: int
    stop: int | None

    @property
    def complete(self) -> bool:
        """Whether the sampler goes through the schedule that the cache is shown."""
        if self.sampler == "stops early":
            return False
        stops_at_equal = self.sampler == "until the levels stop"
        return not (stops_at_equal and self.schedule in ("equal in front", "equal inside"))

    @property
    def samplings(self) -> int:
        """How many runs the cache sees, if none breaks off."""
        return 2 if "twice" in self.nodes and self.before else 1

    def levels(self, model: Any) -> list[float]:
        import comfy.samplers

        sampling = model.get_model_object("model_sampling")
        values = comfy.samplers.calculate_sigmas(sampling, self.scheduler, self.steps).tolist()
        middle = len(values) // 2
        return {
            "plain": values,
            "zeros behind": [*values, 0.0, 0.0],
            "zeros in front": [0.0, *values],
            "equal in front": [values[0], *values],
            "equal inside": [*values[:middle], values[middle], *values[middle:]],
            "equal behind": [*values[:-1], *values[-2:-1] * 2],
            "cut": values[:-1],
            "again": [*values[:-1], *values],
            "one level": values[:1],
        }[self.schedule]

    def with_nodes(self, model: Any, apart: Apart | None = None) -> Any:
        """A clone of `model` with the case's nodes on it."""
        from comfy.patcher_extension import WrappersMP

        clone = model.clone()
        if "tiles" in self.nodes:
            clone.set_model_unet_function_wrapper(foreign.tiled)
        elif apart is not None:
            apart.watch(clone)
        if "twice" in self.nodes:
            clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "twice", foreign.twice)
        for kind, wrapper in (("shortened", foreign.shortened), ("denser", foreign.denser)):
            if kind in self.nodes:
                clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, kind, wrapper)
        return clone

    def run(self, model: Any, name: str, latent: torch.Tensor, copy: Any) -> torch.Tensor:
        """The sampled latent; raises Stopped where it is to break off."""
        import comfy.sample
        import comfy.samplers

        for _ in range(self.clones):
            model = model.clone()
        if self.guider == "twofold":
            sampler = foreign.SAMPLER_OF_TWO()
        elif self.sampler in COMFYUI_SAMPLERS:
            sampler = comfy.samplers.sampler_object(self.sampler)
        else:
            sampler = foreign.SAMPLERS[self.sampler]()
        start = latent.expand(self.batch, *latent.shape[1:]).clone() + 0.1
        mask = None
        if self.mask:
            mask = torch.zeros(1, 1, *latent.shape[2:])
            mask[..., latent.shape[-1] // 2 :] = 1.0
        guider = foreign.GUIDERS[self.guider](model, name)
        noise = comfy.sample.prepare_noise(start, self.seed)
        levels = torch.tensor(self.levels(model))
        with self._surroundings(model, copy), torch.inference_mode():
            out: torch.Tensor = guider.sample(
                noise, start, sampler, levels, denoise_mask=mask, seed=self.seed, disable_pbar=True
            )
        return out

    @contextmanager
    def _surroundings(self, model: Any, copy: Any) -> Iterator[None]:
        """Devices, and the call that breaks off."""
        calls: list[int] = []

        def count(*_: Any) -> None:
            calls.append(1)
            if len(calls) == self.stop:
                raise Stopped

        with ExitStack() as stack:
            hook = model.model.diffusion_model.register_forward_pre_hook(count)
            stack.callback(hook.remove)
            if self.devices == 2:
                stack.enter_context(split_over_devices(model, copy))
            yield


@st.composite
def cases(draw: Any) -> Case:
    guider = draw(st.sampled_from(sorted(foreign.GUIDERS)))
    case = Case(
        steps=draw(st.sampled_from((1, 2, 3, 4, 6, 8))),
        scheduler=draw(st.sampled_from(("simple", "normal", "beta"))),
        schedule=draw(st.sampled_from(SCHEDULES)),
        sampler=draw(st.sampled_from((*foreign.SAMPLERS, *COMFYUI_SAMPLERS))),
        guider=guider,
        batch=draw(st.integers(1, 2)),
        seed=draw(st.integers(0, 9)),
        mask=draw(st.sampled_from((False, False, True))),
        nodes=draw(st.frozensets(st.sampled_from(NODES), max_size=2))
        if draw(st.integers(0, 2)) == 0
        else frozenset(),
        before=draw(st.booleans()),
        clones=draw(st.integers(0, 2)),
        devices=draw(st.sampled_from((1, 1, 2))),
        stop=draw(st.one_of(st.none(), st.none(), st.none(), st.integers(1, 20))),
    )
    if guider == "twofold":
        case = replace(case, sampler="own steps", mask=False)
    return case


@pytest.fixture(scope="module")
def built(comfy: Any) -> dict[str, Any]:
    return Built()


@random_cases(quick=16)
@given(
    family=st.sampled_from(FAMILIES),
    config=configs(),
    runs=st.lists(cases(), min_size=1, max_size=2),
)
def test_whatever_other_nodes_hand_over(
    built: dict[str, Any], family: str, config: dict[str, Any], runs: list[Case]
) -> None:
    model, name, latent = model_of(built, family)
    if "copy" not in built:
        small, *_ = model_of(built, "small")
        built["copy"] = copy_of(small)
    copy = built["copy"]
    if family != "small":
        runs = [replace(run, devices=1) for run in runs]
    config = dict(config)
    threshold = config.pop("threshold")
    with leaving_nothing(model, copy):
        scene = Scene(model, copy, name, latent, threshold, config)
        for run in runs:
            note(f"{run}")
            scene.play(run)
        scene.apart.check()


class Scene:
    """One cached model and its copy, on which runs follow one another."""

    def __init__(
        self,
        model: Any,
        copy: Any,
        name: str,
        latent: torch.Tensor,
        threshold: float,
        config: dict[str, Any],
    ) -> None:
        self.apart = Apart()
        self._model, self._copy, self._name, self._latent = model, copy, name, latent
        self._threshold, self._config = threshold, config
        self._shared, self._handle = cached(model, threshold, **config)

    def _sample(self, run: Case, model: Any) -> torch.Tensor:
        return run.run(model, self._name, self._latent, self._copy)

    def _fresh(self, run: Case) -> tuple[Any, Any]:
        """The model with the case's nodes and a cache of its own."""
        if run.before:
            nodes = run.with_nodes(self._model, self.apart)
            return cached(nodes, self._threshold, **self._config)
        clone, handle = cached(self._model, self._threshold, **self._config)
        return run.with_nodes(clone, self.apart), handle

    def play(self, run: Case) -> None:
        if run.before:
            model, handle = self._fresh(run)
        else:
            model, handle = run.with_nodes(self._shared, self.apart), self._handle
        bare = run.with_nodes(self._model)
        earlier = list(handle.reports)
        with spying(self._model) as first, spying(self._copy) as second:
            self.apart.spy = first
            with counting_evaluations([first, second]) as ends:
                try:
                    got = self._sample(run, model)
                except Stopped:
                    got = None
                except Exception as error:
                    raises_alike(error, lambda: self._sample(run, bare))
                    event("the graph without the cache raises")
                    return
        made = [new for new in handle.reports if all(new is not known for known in earlier)]
        check_run(run, self._config, made, got)
        for spy, places in zip((first, second), ends, strict=True):
            if spy.per_call:
                check_spy(made, spy, places)
        if got is None:
            return
        again = self._sample(run, self._fresh(run)[0])
        assert same(again, got), "the runs before it had an effect"
        run = replace(run, stop=None)  # without the cache there are more calls
        native = self._sample(run, bare)
        check_result(run, self._threshold, made, got, native)
        once = replace(run, nodes=run.nodes - {"twice"})
        if once != run and same(self._sample(once, once.with_nodes(self._model)), native):
            alone = self._sample(once, self._fresh(once)[0])
            assert same(alone, got), "the first of two samplings had an effect on the second"


def check_run(
    run: Case, config: dict[str, Any], reports: list[RunReport], got: torch.Tensor | None
) -> None:
    """What the reports of one run say."""
    for report in reports:
        ended = "broken off" if got is None else "skips" if report.skipped else "-"
        event(f"{report.method}: {ended}")
        check_policy(report, config, got is not None and run.complete and bool(report.records))
    outcomes = [report.outcome for report in reports]
    if got is None:
        assert outcomes[-1] == "failed" and set(outcomes[:-1]) <= {"done"}
    else:
        assert outcomes == ["done"] * run.samplings


def check_result(
    run: Case, threshold: float, reports: list[RunReport], got: torch.Tensor, native: torch.Tensor
) -> None:
    skipped = any(report.skipped for report in reports)
    if threshold == 0:
        assert not skipped and same(got, native), "off is not native"
    elif threshold == SKIP_NONE and not skipped:
        assert same(got, native), "nothing was skipped, and the result is another one"
    elif threshold == SKIP_NONE and torch.isfinite(native).all():
        assert distance(got, native) < NEAR, "what was skipped was not equal"
    if not torch.isfinite(got).all():
        assert not torch.isfinite(native).all()


def test_nothing_is_left_of_foreign_runs() -> None:
    assert live_objects() == []
