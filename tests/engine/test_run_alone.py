"""One run without a host: its decisions, its records, and what it frees."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from lone_runs import CPU, EULER, SIGMAS, evaluating, profile, run_of, timestep_settings

from teacache.config import TeaCacheConfig
from teacache.engine.decision import RecomputePass
from teacache.engine.device import DeferredScalar
from teacache.engine.forward import PredictionForward, branch_state
from teacache.engine.policy import AccumulatedDistance, EveryStep, PlannedSteps
from teacache.engine.run import SCHEDULE_LEFT, Run
from teacache.engine.strategy import (
    SamplerTraits,
    planned_settings,
    settings_from_config,
)
from teacache.families.comfyui.image import SD3
from teacache.families.streams import FamilyMismatch
from teacache.report import Reason


def tensors_reached_from(start: object) -> list[torch.Tensor]:
    """The tensors that are reachable from `start` without going through a module or a class."""
    seen: set[int] = set()
    found: list[torch.Tensor] = []
    left: list[object] = [start]
    while left:
        item = left.pop()
        if id(item) in seen or isinstance(item, (type, type(gc), torch.dtype)):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            found.append(item)
        elif not callable(item) or isinstance(item, Run):
            left += gc.get_referents(item)
    return found


def test_a_finished_run_that_something_still_holds_keeps_no_tensor() -> None:
    """The traceback of an interruption holds the run's frames until the next error."""
    run = run_of(rel_l1_thresh=0.5)
    run.begin_evaluation(1.0, CPU)
    decision = run.decide("prediction")
    PredictionForward(run, decision, "prediction", "layout").observe(torch.ones(1, 3))
    branch = decision.state.branches["prediction"]
    run.state.defer_indicator_input(branch, torch.ones(2))
    run.reader.defer(DeferredScalar(torch.ones(()), lambda value: None))
    assert len(tensors_reached_from(run)) >= 3
    run.finish("interrupted")
    assert tensors_reached_from(run) == []
    assert run.state.bytes_held == 0 and run.report.outcome == "interrupted"


def test_a_finished_run_lets_the_model_go() -> None:
    class Model:
        def embed(self, levels: list[float]) -> torch.Tensor:
            return torch.ones(len(levels), 2)

    model = Model()
    gone = weakref.ref(model)
    run = run_of(mode="faithful", settings=timestep_settings())
    run.prepare_timestep_changes(model.embed)
    del model
    assert gone() is not None
    run.finish("done")
    assert gone() is None


# --- the policy ----------------------------------------------------------------------------------


def policy_of(run: Run) -> Any:
    return run._policy


def test_an_adaptive_sampler_is_computed_in_every_step() -> None:
    sampler = SamplerTraits(
        "dpm_adaptive",
        forecast=False,
        computed_in_full="chooses its own noise levels",
        adaptive=True,
    )
    assert isinstance(policy_of(run_of(sampler=sampler)), EveryStep)


def test_a_plan_is_followed_between_the_first_and_the_last_step_that_moves() -> None:
    padded = [*SIGMAS, 0.0]
    settings = planned_settings(TeaCacheConfig(), profile(), (0, 2))
    assert policy_of(run_of(padded, settings=settings)) == PlannedSteps(
        frozenset({0, 2}), frozenset({0}), 4
    )
    every = replace(EULER, visits_every_level=True)
    assert policy_of(run_of(padded, every, settings)).last_step == 5


def test_the_policy_has_the_users_range_and_limits() -> None:
    policy = policy_of(
        run_of(rel_l1_thresh=0.3, mode="faithful", start_percent=0.1, end_percent=0.9, max_skip=4)
    )
    assert policy == AccumulatedDistance(
        threshold=0.3,
        steps=5,
        start=0.1,
        end=0.9,
        max_skip=4,
        warmup=0,
        first_steps=frozenset({0}),
        last_step=4,
    )


def test_the_first_step_after_each_turn_is_the_policys() -> None:
    turning = [0.2, 1.0, 0.6, 0.2, 0.0]
    assert policy_of(run_of(turning)).first_steps == {0, 1}


def test_the_profiles_warm_up_holds_where_the_profile_decides() -> None:
    config, warm = TeaCacheConfig(mode="faithful"), profile(warmup_steps=3)
    assert policy_of(run_of(settings=settings_from_config(config, warm, EULER))).warmup == 3
    other = replace(config, indicator="rate")
    assert policy_of(run_of(settings=settings_from_config(other, warm, EULER))).warmup == 0


# --- the report ----------------------------------------------------------------------------------


def test_the_report_says_what_decides() -> None:
    calibrated = profile(calibrated=True)
    config = TeaCacheConfig(rel_l1_thresh=0.3, mode="faithful")
    settings = replace(
        settings_from_config(config, calibrated, EULER), notes=("Said.",), evidence="because"
    )
    report = run_of(settings=settings).report
    assert (report.host, report.family, report.family_name) == ("test", SD3.id, SD3.name)
    assert (report.profile, report.calibrated) == (calibrated.name, True)
    assert (report.method, report.cached, report.predictor) == ("faithful", "residual", "reuse")
    assert (report.indicator, report.sampler) == (calibrated.indicator, "euler")
    assert (report.threshold, report.steps, report.sigmas) == (0.3, 5, SIGMAS)
    assert (report.warnings, report.evidence) == (["Said."], "because")
    assert not run_of(
        settings=replace(settings, profile=profile(calibrated=False))
    ).report.calibrated


def test_a_profile_that_decides_nothing_is_not_reported() -> None:
    settings = settings_from_config(TeaCacheConfig(), profile(calibrated=True), EULER)
    report = run_of(settings=settings).report
    assert (report.profile, report.calibrated, report.indicator) == ("", False, "rate")


# --- one evaluation ------------------------------------------------------------------------------


def test_a_run_tells_its_listener_when_it_starts_steps_and_ends() -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    run = run_of(listener=lambda event, data: events.append((event, data)))
    for sigma in SIGMAS[:2]:
        run.begin_evaluation(sigma, CPU)
        run.end_evaluation()
    run.finish("done")
    assert [event for event, _ in events] == ["start", "step", "step", "end"]
    assert events[0][1]["report"]["outcome"] == "running"
    assert [data["record"]["sigma"] for _, data in events[1:3]] == SIGMAS[:2]
    assert all(data["record"]["seconds"] is not None for _, data in events[1:3])
    assert events[3][1]["report"] == run.report.to_json() and run.report.outcome == "done"


def test_the_host_may_say_which_step_it_is() -> None:
    run = run_of()
    run.begin_evaluation(torch.tensor([0.6, 0.6]), CPU)
    assert run.position.sigma == pytest.approx(0.6) and run.position.step == 2
    run.begin_evaluation(0.6, CPU, 3)
    assert run.position.step == 3


def test_levels_that_leave_the_schedule_are_noticed_with_the_next_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where reading makes the host wait, the schedule's level is taken at first."""
    monkeypatch.setattr("teacache.engine.device.SigmaReader.is_cheap", lambda *_: False)
    run = run_of()
    run.begin_evaluation(torch.tensor([0.97]), CPU)
    assert run.position.sigma == 1.0 and run.report.warnings == []
    run.reader.read()
    run.begin_evaluation(torch.tensor([0.81]), CPU)
    assert run.position.sigma == pytest.approx(0.81)
    assert run.report.warnings == [SCHEDULE_LEFT]


def test_times_run_from_the_marks_that_the_host_gives() -> None:
    run = run_of()
    run.begin_evaluation(1.0, CPU)
    begun = run.mark()
    run.end_evaluation(begun)
    over = run.mark()
    run.begin_evaluation(0.8, CPU, start=begun)
    run.end_evaluation(over)
    run.finish("done")
    first, second = run.report.records
    assert first.seconds is not None and first.seconds >= 0
    assert second.seconds == over.host - begun.host
    assert run.report.seconds == pytest.approx(first.seconds + second.seconds)


def test_a_run_that_never_began_has_a_report() -> None:
    report = run_of().finish("interrupted")
    assert report.records == [] and report.outcome == "interrupted"


# --- decisions -----------------------------------------------------------------------------------


def test_the_same_key_again_is_another_pass_and_the_same_one_in_the_next_evaluation() -> None:
    run = evaluating(1)
    first, second, other = run.decide("pass"), run.decide("pass"), run.decide("other")
    assert len({id(made.state) for made in (first, second, other)}) == 3
    run.end_evaluation()
    run.begin_evaluation(0.6, CPU)
    assert run.decide("pass").state is first.state
    assert run.decide("pass").state is second.state


def test_passes_of_one_window_are_computed_together() -> None:
    run = evaluating()
    run.decide("one", window="w").require_compute(Reason.MISMATCH)
    assert run.decide("two", window="w").reason is Reason.MISMATCH
    assert run.decide("three", window="other").reason is None
    assert run.decide("four").reason is None


def test_passes_without_a_window_are_decided_by_themselves() -> None:
    run = evaluating()
    run.decide("one").require_compute(Reason.MISMATCH)
    assert run.decide("two").reason is None


@pytest.mark.parametrize("can_repeat", [True, False])
def test_a_decision_knows_whether_the_host_can_repeat(can_repeat: bool) -> None:
    decision = evaluating().decide("pass", can_repeat)
    decision.consider(0.1)
    decision.mark_call_skipped()
    if can_repeat:
        with pytest.raises(RecomputePass):
            decision.consider(9.0)
    else:
        decision.consider(9.0)
    assert decision.mixed is not can_repeat


def test_a_pass_can_be_repeated_unless_the_host_says_otherwise() -> None:
    decision = evaluating().decide("pass")
    decision.consider(0.1)
    decision.mark_call_skipped()
    with pytest.raises(RecomputePass):
        decision.consider(9.0)


def test_the_policy_decides_for_the_step_at_hand() -> None:
    assert evaluating(0).decide("pass").reason is Reason.FIRST
    assert evaluating(2).decide("pass").reason is None
    assert evaluating(4).decide("pass").reason is Reason.LAST


def test_recomputing_forgets_the_evaluation_so_far_and_computes_once() -> None:
    run = evaluating(1)
    first = run.decide("pass")
    state = branch_state(run, first, "cond", "layout")
    run.state.defer_indicator_input(state, torch.ones(1))
    run.recompute(Reason.MISMATCH)
    again = run.decide("pass")
    assert again.state is first.state and again.reason is Reason.MISMATCH
    run.end_evaluation()
    assert state.indicator_input is None
    run.begin_evaluation(0.6, CPU)
    assert run.decide("pass").reason is None


def test_a_fixed_reason_to_compute_is_kept_when_recomputing() -> None:
    run = evaluating(0)
    run.recompute(Reason.MISMATCH)
    assert run.decide("pass").reason is Reason.FIRST


def test_after_giving_up_every_decision_is_to_compute() -> None:
    run = evaluating()
    run.give_up("no reason")
    run.give_up("another one")
    assert run.decide("pass").reason is Reason.UNCACHED
    assert run.report.warnings == [f"{SD3.name}: runs without the cache: no reason"]
    assert run.gave_up is True and not evaluating().gave_up


def test_without_memory_what_is_held_and_pending_is_dropped() -> None:
    run = evaluating(1)
    decision = run.decide("pass")
    branch_state(run, decision, "cond", "layout").predictor.observe(1.0, torch.ones(3))
    read: list[float] = []
    run.reader.defer(DeferredScalar(torch.ones(()), read.append))
    run.release()
    run.reader.read()
    assert run.state.bytes_held == 0 and read == [] and run.gave_up
    assert "no memory left" in run.report.warnings[0]


def test_memory_that_ends_while_the_model_is_read_is_told_as_such() -> None:
    run = run_of(rel_l1_thresh=0.5)
    run.begin_evaluation(0.8, CPU)
    PredictionForward(run, run.decide("pass"), "key", "layout").observe(torch.ones(1, 2))
    mismatch = FamilyMismatch("a block")
    mismatch.__cause__ = torch.OutOfMemoryError("full")
    run.give_up(mismatch)
    assert "no memory left" in run.report.warnings[-1] and run.state.bytes_held == 0
    other = run_of(rel_l1_thresh=0.5)
    other.give_up(FamilyMismatch("a block"))
    assert other.gave_up and "memory" not in other.report.warnings[-1]


def test_times_that_are_known_at_the_end_are_in_the_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = run_of(rel_l1_thresh=0.5)
    run.begin_evaluation(0.8, CPU)
    run.end_evaluation()
    monkeypatch.setattr(run._timer, "resolve", lambda: ([7.0], 9.0))
    report = run.finish("done")
    assert report.records[0].seconds == 7.0 and report.seconds == 9.0
