"""Diffusers: steps whose calls equal each other in name and text, and change within the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

from diffusers import DiffusionPipeline
from hostile import MODES
from pipeline_sampling import SKIP_ALL, SKIP_NONE, report_of
from tiny_image_pipelines import sd3
from tiny_pipelines import flow, noise, set_weights

from teacache.hosts.diffusers.enable import teacache
from teacache.hosts.diffusers.equal_calls import EqualCalls
from teacache.hosts.diffusers.reads import TensorReads
from teacache.report import Reason

STEPS = 10
CHANGE = 5
LEVELS = [1.0, 0.9, 0.8, 0.7, 0.6, 0.6, 0.5, 0.4, 0.3, 0.2]
"""The level of step `CHANGE` is that of the step before, whose step does not move the latent."""
both_modes = pytest.mark.parametrize("mode", MODES)
Controls = Callable[[int], list[list[torch.Tensor]]]


class ControlledPipeline(DiffusionPipeline):
    """Calls its transformer once for each control of a step, with the same text."""

    def __init__(self, transformer: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, controls: Controls, sigmas: list[float] | None = None) -> torch.Tensor:
        text = {
            "encoder_hidden_states": noise(1, 1, 5, 32),
            "pooled_projections": noise(11, 1, 12),
        }
        self.scheduler.set_timesteps(STEPS if sigmas is None else None, sigmas=sigmas)
        latents = noise(0, 1, 4, 8, 8)
        with self.progress_bar(total=STEPS) as bar:
            for index, t in enumerate(self.scheduler.timesteps):
                out = [
                    self.transformer(
                        latents,
                        timestep=t.expand(1),
                        block_controlnet_hidden_states=control,
                        return_dict=False,
                        **text,
                    )[0]
                    for control in controls(index)
                ]
                prediction = out[-1] + 2.0 * (out[0] - out[-1])
                latents = self.scheduler.step(prediction, t, latents, return_dict=False)[0]
                bar.update()
        return latents


@pytest.fixture(scope="module")
def pipe() -> ControlledPipeline:
    transformer = sd3().transformer
    set_weights(transformer.eval())
    made = ControlledPipeline(transformer, flow())
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many values were compared for each call, to know which of the equal calls it is."""
    made: list[int] = []
    place = EqualCalls.place

    def noted(self: EqualCalls, *args: Any) -> Any:
        reads, own = self._reads, TensorReads()
        self._reads = own
        found = place(self, *args)
        made.append(own.take())
        self._reads = reads
        return found

    monkeypatch.setattr(EqualCalls, "place", noted)
    return made


def control(pipe: Any, seed: int, scale: float = 1.0) -> list[torch.Tensor]:
    return [scale * noise(seed, 1, 16, 32) for _ in pipe.transformer.transformer_blocks]


def plan(pipe: Any, name: str) -> Controls:
    """The controls of each step."""
    image, other, blank = control(pipe, 5), control(pipe, 6), control(pipe, 5, 0.0)
    before, after = {
        "first dropped": ([image, blank], [blank]),
        "last dropped": ([image, blank], [image]),
        "first added": ([blank], [image, blank]),
        "order turned": ([image, blank], [blank, image]),
        "exchanged": ([image], [other]),
        "one of two exchanged": ([image, blank], [other, blank]),
    }[name]
    return lambda step: before if step < CHANGE else after


PLANS = (
    "first dropped", "last dropped", "first added", "order turned", "exchanged",
    "one of two exchanged",
)  # fmt: skip


@both_modes
@pytest.mark.parametrize("name", PLANS)
def test_under_the_smallest_threshold_it_is_native(pipe: Any, name: str, mode: str) -> None:
    """Also where the step moved nothing, so that the inputs of the calls are those before."""
    controls = plan(pipe, name)
    for sigmas in (None, LEVELS):
        native = pipe(controls, sigmas)
        with teacache(pipe, SKIP_NONE, mode=mode) as handle:
            got = pipe(controls, sigmas)
        if report_of(handle).skipped:  # the same call of the same latent: right but for rounding
            assert (name, sigmas) == ("last dropped", LEVELS)
            torch.testing.assert_close(got, native)
        else:
            assert torch.equal(got, native)
        assert len(report_of(handle).records) == STEPS


@pytest.mark.parametrize("name", PLANS)
def test_the_step_that_changes_is_computed(pipe: Any, name: str) -> None:
    """Each of its calls gives what the bare transformer does."""
    controls, ran = plan(pipe, name), [0]
    native = pipe(controls)
    block = pipe.transformer.transformer_blocks[0]
    hook = block.register_forward_pre_hook(lambda *_: ran.__setitem__(0, ran[0] + 1))
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        cached = pipe(controls)
    hook.remove()
    records = report_of(handle).records
    skipped = [record.step for record in records if record.skipped]
    if name == "last dropped":  # the call that is left is the one that it was
        assert skipped == [step for step in range(1, STEPS - 1) if step != CHANGE + 1]
        assert records[CHANGE + 1].reason is Reason.MISMATCH
    else:
        assert CHANGE not in skipped
        assert records[CHANGE].reason in (Reason.MISMATCH, Reason.NEW_BRANCH)
        assert set(skipped) >= {*range(1, CHANGE), *range(CHANGE + 2, STEPS - 1)}
    assert ran[0] == sum(len(controls(record.step)) for record in records if not record.skipped)
    assert (cached - native).norm() < 0.2 * native.norm()


def test_the_same_tensors_in_every_step_are_not_compared(pipe: Any, comparisons: list[int]) -> None:
    image, blank = control(pipe, 5), control(pipe, 5, 0.0)
    reads = []
    for same in (True, False):
        with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
            if same:
                pipe(lambda step: [image, blank])
            else:
                pipe(lambda step: [[part.clone() for part in each] for each in (image, blank)])
        assert report_of(handle).skipped == STEPS - 2
        reads.append(sum(comparisons))
        comparisons.clear()
    assert reads == [0, (STEPS - 1) * 2 * len(image)]


def test_an_input_that_changes_with_the_steps_is_no_reason(
    pipe: Any, comparisons: list[int]
) -> None:
    """As the residuals of a ControlNet do: looked at once."""
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        pipe(lambda step: [control(pipe, step), control(pipe, 100 + step)])
    assert report_of(handle).skipped == STEPS - 2
    assert sum(comparisons) <= 4


def test_an_input_that_begins_to_change_with_the_steps(pipe: Any) -> None:
    """It costs the steps in which that is not known yet, and no others."""
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        pipe(lambda step: [control(pipe, max(step, 3))])
    skipped = [record.step for record in report_of(handle).records if record.skipped]
    assert skipped == [1, 2, 3, 6, 7, 8]


def test_a_control_written_into_in_place(pipe: Any) -> None:
    def drawn() -> Controls:
        image = control(pipe, 5)

        def controls(step: int) -> list[list[torch.Tensor]]:
            if step == CHANGE:
                for part in image:
                    part.neg_()
            return [image]

        return controls

    native = pipe(drawn(), LEVELS)
    with teacache(pipe, SKIP_NONE, mode="faithful"):
        assert torch.equal(pipe(drawn(), LEVELS), native)


@both_modes
def test_calls_equal_in_every_input(pipe: Any, mode: str) -> None:
    """Nothing tells which of them is left: the step after is computed, and what was cached goes."""
    image = control(pipe, 5)
    with teacache(pipe, SKIP_ALL, mode=mode) as handle:
        pipe(lambda step: [image, image] if step < CHANGE else [image])
    records = report_of(handle).records
    expected = {"faithful": (Reason.MISMATCH,), "forecast": (Reason.NEW_BRANCH,)}
    computed = next(record for record in records[CHANGE:] if not record.skipped)
    assert computed.step <= CHANGE + 1
    assert computed.step == CHANGE or computed.reason in expected[mode]
