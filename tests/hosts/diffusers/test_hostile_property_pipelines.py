"""Random pipelines, settings, schedulers, prompts and callbacks; copies, threads, own loops.

    TEACACHE_LONG=500 python run.py test --only-tests \
        tests/hosts/diffusers/test_hostile_property_pipelines.py

tries that many new cases, of all pipelines; without it, the same few cases every time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import event, given, note
from hypothesis import strategies as st

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

import tiny_pipelines
from foreign_pipelines import SCHEDULERS, copy_of, in_threads, own_loop
from pipeline_sampling import SKIP_NONE, assert_nothing_is_left, spying, state_of
from random_runs import (
    LONG,
    Built,
    check_policy,
    configs,
    leaving_nothing,
    raises_alike,
    random_cases,
    same,
)
from tiny_pipelines import NEGATIVE, TINY, generate, transformers

from teacache.engine.decision import MIXED
from teacache.hosts.diffusers.enable import enable_teacache
from teacache.report import RunReport

pytestmark = pytest.mark.slow
NAMES = tuple(TINY) if LONG else ("sd3", "flux1", "lumina2", "wan21")
PLACES = ("pipeline", "pipeline", "pipeline", "copy", "threads", "own loop")


class Stopped(Exception):
    """The run breaks off."""


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        scheduler: one of `SCHEDULERS`, empty for the pipeline's own.
        place: what runs: the pipeline, a copy with a scheduler of its own, two copies in threads,
            or a loop of the user's own over the transformer of `sd3`.
        at_step: what the callback does in step `step`: nothing, interrupt, raise, or turn the
            guidance off.
        stop: the call of a transformer in which the run breaks off.
    """

    steps: int
    seed: int
    scheduler: str
    guided: bool
    equal_prompts: bool
    place: str
    at_step: str
    step: int
    stop: int | None

    def inputs(self, name: str) -> dict[str, Any]:
        tiny = TINY[name]
        inputs = dict(tiny.inputs())
        if not self.guided:
            inputs |= tiny.unguided
        if self.equal_prompts:
            named = {key.removeprefix(NEGATIVE): key for key in inputs if NEGATIVE in key}
            inputs |= {key: inputs[of] for of, key in named.items() if of in inputs}
        if self.at_step:
            inputs["callback_on_step_end"] = self._callback
        return inputs

    def _callback(self, pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> Any:
        if step == self.step and self.at_step == "raise":
            raise Stopped
        if step == self.step and self.at_step == "interrupt":
            pipe._interrupt = True
        if step == self.step and self.at_step == "guidance off":
            pipe._guidance_scale = 1.0
        return inputs

    @property
    def complete(self) -> bool:
        return self.at_step != "interrupt" and self.scheduler != "few settings"

    def run(self, pipe: Any, name: str) -> torch.Tensor:
        """The latents of what is run; raises Stopped where it is to break off."""
        calls: list[int] = []

        def count(*_: Any) -> None:
            calls.append(1)
            if len(calls) == self.stop:
                raise Stopped

        torch.manual_seed(3)  # of schedulers that add noise
        hooks = [each.register_forward_pre_hook(count) for each in transformers(pipe)]
        scheduler = pipe.scheduler
        if self.scheduler:
            pipe.scheduler = SCHEDULERS[self.scheduler]()
        try:
            return self._run(pipe, name)
        finally:
            pipe.scheduler = scheduler
            vars(pipe).pop("_interrupt", None)
            for hook in hooks:
                hook.remove()

    def _run(self, pipe: Any, name: str) -> torch.Tensor:
        if self.place == "own loop":
            texts = (1, 1) if self.equal_prompts else (1, 2) if self.guided else (1,)
            return own_loop(pipe.transformer, self.steps, self.seed, texts)
        given = {"steps": self.steps, **self.inputs(name)}
        if self.place == "threads":
            copies = [copy_of(pipe, shift) for shift in (1.0, 3.0)]
            return torch.cat(
                in_threads(
                    *(
                        lambda barrier, copied=copied, seed=seed: generate(
                            copied, name, seed=seed, **given
                        )
                        for copied, seed in zip(copies, (self.seed, self.seed + 1), strict=True)
                    )
                )
            )
        target = copy_of(pipe, 2.0) if self.place == "copy" else pipe
        out = generate(target, name, seed=self.seed, **given)
        return torch.stack(out) if isinstance(out, list) else out


cases = st.builds(
    Case,
    steps=st.sampled_from((1, 2, 3, 5, 7, 9)),
    seed=st.integers(0, 9),
    scheduler=st.sampled_from(("", "", *SCHEDULERS)),
    guided=st.sampled_from((True, True, False)),
    equal_prompts=st.sampled_from((False, False, True)),
    place=st.sampled_from(PLACES),
    at_step=st.sampled_from(("", "", "", "nothing", "interrupt", "raise", "guidance off")),
    step=st.integers(0, 4),
    stop=st.one_of(st.none(), st.none(), st.none(), st.integers(1, 16)),
)


@pytest.fixture(scope="module")
def built() -> dict[str, Any]:
    return Built()


@random_cases(quick=12)
@given(
    name=st.sampled_from(NAMES),
    config=configs(),
    runs=st.lists(cases, min_size=1, max_size=2),
)
def test_whatever_a_pipeline_is_made_to_do(
    built: dict[str, Any], name: str, config: dict[str, Any], runs: list[Case]
) -> None:
    if any(run.place == "own loop" for run in runs):
        name = "sd3"
        runs = [replace(run, place="own loop") for run in runs]
    if name not in built:
        built[name] = tiny_pipelines.build(name)
        generate(built[name], name, steps=3)  # Mochi cannot sample in one
    pipe, config = built[name], dict(config)
    if not TINY[name].flow:
        runs = [
            replace(run, scheduler="", place="pipeline" if run.place != "own loop" else run.place)
            for run in runs
        ]
    if pipe.components.get("vae") is not None:  # an autoencoder is one thread's at a time
        runs = [replace(run, place="copy") if run.place == "threads" else run for run in runs]
    before, values = state_of(pipe), weights(pipe)
    with leaving_nothing():
        scene = Scene(pipe, name, config)
        with scene:
            for run in runs:
                note(f"{run}")
                scene.play(run)
    assert state_of(pipe) == before and "step" not in vars(pipe.scheduler)
    assert all(map(torch.equal, weights(pipe), values))


def weights(pipe: Any) -> list[torch.Tensor]:
    return [
        value.clone() for module in transformers(pipe) for value in module.state_dict().values()
    ]


class Scene:
    """A pipeline with the cache on, on which runs follow one another."""

    def __init__(self, pipe: Any, name: str, config: dict[str, Any]) -> None:
        self._pipe, self._name, self._config = pipe, name, config
        self._handle: Any = None

    def __enter__(self) -> None:
        self._handle = None

    def __exit__(self, *_: Any) -> None:
        self._off()

    def _on(self, run: Case) -> None:
        own = run.place == "own loop"
        config = {**self._config, **({"num_steps": run.steps} if own else {})}
        target = self._pipe.transformer if own else self._pipe
        self._handle = enable_teacache(target, config.pop("threshold"), **config)

    def _off(self) -> None:
        if self._handle is not None:
            self._handle.disable()
        self._handle = None

    def _sample(self, run: Case) -> torch.Tensor:
        return run.run(self._pipe, self._name)

    def play(self, run: Case) -> None:
        if self._handle is None or run.place == "own loop":
            self._off()
            self._on(run)
        handle, earlier = self._handle, list(self._handle.reports)
        try:
            with spying(self._pipe) as spy:
                got = self._sample(run)
        except Stopped:
            event("broken off")
            return
        except Exception as error:
            self._off()
            raises_alike(error, lambda: self._sample(run))
            event("the pipeline without the cache raises")
            return
        again = self._sample(run)
        assert same(again, got), "the second run differs from the first"
        if run.place == "own loop":
            self._off()
        made = [new for new in handle.reports if all(new is not known for known in earlier)]
        self._check_reports(run, made, spy.per_call)
        self._off()
        native = self._sample(run)
        threshold, skipped = self._config["threshold"], any(report.skipped for report in made)
        if threshold == 0:
            assert not skipped and same(got, native), "off is not native"
        elif threshold == SKIP_NONE and not skipped and not any(map(mixed, made)):
            assert same(got, native), "nothing was skipped, and the result is another one"
        if not torch.isfinite(got).all():
            assert not torch.isfinite(native).all()

    def _check_reports(self, run: Case, reports: list[RunReport], per_call: list[int]) -> None:
        for report in reports:
            event(f"{report.method}: {'skips' if report.skipped else '-'}")
            complete = run.complete and bool(report.records)
            check_policy(report, self._config, complete)
        if run.place != "threads" and not any(
            report.skipped or mixed(report) for report in reports
        ):
            assert all(per_call), "a call was skipped that the report does not show"


def mixed(report: RunReport) -> bool:
    return MIXED in report.warnings


def test_nothing_is_left_of_random_pipelines(built: dict[str, Any]) -> None:
    for pipe in built.values():
        assert_nothing_is_left(pipe)
