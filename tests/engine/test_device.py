"""Times of evaluations: on the model's own device, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models
import torch
from sampling import SKIP_ALL, cached, report_of, sample

from teacache.engine import run as run_module
from teacache.engine.device import Clock, RunTimer
from teacache.plots.timeline import timeline
from teacache.report import Reason, RunReport, StepRecord

UNTIMED = torch.device("privateuseone", 0)
"""What DirectML calls itself; PyTorch has no module of that name."""


class Backend:
    """A module such as `torch.cuda`, whose devices work `pace` milliseconds for each event."""

    def __init__(self, pace: dict[str, float], several: bool = True) -> None:
        self.pace, self.current = pace, "here"
        self.waited: list[str] = []
        self.clocks = dict.fromkeys(pace, 0.0)
        backend = self

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                assert enable_timing
                self.made_on, self.at = backend.current, None

            def record(self) -> None:
                assert backend.current == self.made_on
                backend.clocks[backend.current] += backend.pace[backend.current]
                self.at = backend.clocks[backend.current]

            def elapsed_time(self, end: Any) -> float:
                assert end.made_on == self.made_on and backend.waited, "not waited for"
                return end.at - self.at

        @contextmanager
        def device(chosen: torch.device) -> Iterator[None]:
            before, backend.current = backend.current, str(chosen)
            yield
            backend.current = before

        self.module = SimpleNamespace(
            Event=Event, synchronize=lambda: self.waited.append(self.current)
        )
        if several:
            self.module.device = device


def measured(device: torch.device) -> tuple[list[float] | None, float | None]:
    timer = RunTimer(device)
    for _ in range(3):
        timer.begin()
        assert timer.end() is None, "the device need not be done yet"
    return timer.resolve()


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_events_are_made_on_the_models_own_device(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current device is another one, as with a model on the second of two cards."""
    backend = Backend({"here": 1000.0, f"{kind}:1": 200.0})
    monkeypatch.setattr(torch, kind, backend.module)
    seconds, whole = measured(torch.device(kind, 1))
    assert seconds == pytest.approx([0.2] * 3) and whole == pytest.approx(1.0)
    assert backend.waited == [f"{kind}:1"] and backend.clocks["here"] == 0


def test_a_backend_of_one_device_has_no_device_to_select(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend({"here": 30.0}, several=False)
    monkeypatch.setattr(torch, "mps", backend.module)
    seconds, whole = measured(torch.device("mps"))
    assert seconds == pytest.approx([0.03] * 3) and whole == pytest.approx(0.15)


def no_module(patch: pytest.MonkeyPatch) -> torch.device:
    return UNTIMED


def no_event(patch: pytest.MonkeyPatch) -> torch.device:
    patch.setattr(torch, "mps", SimpleNamespace(synchronize=lambda: None))
    return torch.device("mps")


def no_timing(patch: pytest.MonkeyPatch) -> torch.device:
    class Event:
        def __init__(self) -> None:
            pass

    patch.setattr(torch, "xpu", SimpleNamespace(Event=Event, synchronize=lambda: None))
    return torch.device("xpu", 0)


def no_elapsed_time(patch: pytest.MonkeyPatch) -> torch.device:
    backend = Backend({"xpu:0": 1.0})

    def elapsed_time(self: Any, end: Any) -> float:
        raise NotImplementedError("elapsed_time needs a newer compiler")

    backend.module.Event.elapsed_time = elapsed_time
    patch.setattr(torch, "xpu", backend.module)
    return torch.device("xpu", 0)


@pytest.mark.parametrize("make", [no_module, no_event, no_timing, no_elapsed_time])
def test_times_are_unknown_where_no_event_takes_them(
    make: Callable[[pytest.MonkeyPatch], torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = make(monkeypatch)
    assert measured(device) == (None, None)
    clock = Clock(device)
    assert clock.resolve([(clock.mark(), clock.mark())]) is None


def test_on_the_cpu_the_hosts_clock_is_the_devices() -> None:
    timer = RunTimer(torch.device("cpu"))
    timer.begin()
    seconds = timer.end()
    assert seconds is not None and timer.resolve() == ([seconds], seconds)
    assert RunTimer(torch.device("cpu")).resolve() == ([], 0.0)


# --- what is shown --------------------------------------------------------------------------------


def test_a_run_on_such_a_device_shows_no_time_and_no_speedup(
    comfy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from teacache.config import TeaCacheConfig
    from teacache.hosts.comfyui.patch import apply_teacache

    events: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(run_module, "RunTimer", lambda device: RunTimer(UNTIMED))
    config = TeaCacheConfig(rel_l1_thresh=SKIP_ALL, mode="faithful")
    clone, handle = apply_teacache(
        tiny_models.build("sd3"), config, lambda *event: events.append(event)
    )
    sample(clone, "sd3", steps=12)
    report = report_of(handle)
    assert report.skipped == 10
    assert report.summary.startswith(
        "Stable Diffusion 3 / 3.5: 2 of 12 steps computed, 10 skipped · "
    )
    assert report.summary.endswith(" held") and " s" not in report.summary.split("skipped")[1]
    data = json.loads(json.dumps(report.to_json()))
    unknown = {name for name, value in data.items() if value is None}
    assert unknown == {
        "seconds", "seconds_per_computed", "seconds_per_skipped", "estimated_speedup",
        "saved_seconds", "expected_psnr", "wanted_steps",
    }  # fmt: skip
    assert all(record["seconds"] is None for record in data["records"])
    steps = [event["record"] for name, event in events if name == "step"]
    assert len(steps) == 12 and all(record["seconds"] is None for record in steps)
    assert timeline(data).size == timeline(report_of(timed()).to_json()).size


def timed() -> Any:
    """The handle of the same run on a device whose times are known."""
    clone, handle = cached(tiny_models.build("sd3"), SKIP_ALL)
    sample(clone, "sd3", steps=12)
    return handle


def report(*records: tuple[bool, float | None]) -> RunReport:
    made = RunReport(
        host="", family="", family_name="M", profile="", calibrated=False, method="", cached="",
        indicator="", predictor="", sampler="", threshold=0.2, steps=len(records), sigmas=[],
    )  # fmt: skip
    for step, (skipped, seconds) in enumerate(records):
        reason = Reason.UNDER_THRESHOLD if skipped else Reason.OVER_THRESHOLD
        made.records.append(StepRecord(step, 1.0, skipped, reason, None, 0.0, seconds))
    return made


def test_the_speedup_of_known_times() -> None:
    known = report((False, 2.0), (True, 0.5), (True, 0.5), (False, 2.0))
    assert known.saved_seconds == 3.0 and known.estimated_speedup == pytest.approx(1.6)
    assert "1.60x · saved 3.0 s" in known.summary
    assert report((False, 2.0)).estimated_speedup == 1.0
    assert report((True, 2.0)).estimated_speedup == 1.0  # nothing to compare with
    assert report().saved_seconds == 0.0
    for missing in ((False, None), (True, None)):
        partly = report((False, 2.0), (True, 0.5), missing)
        assert partly.saved_seconds is None and partly.estimated_speedup is None
    partly.set_times([2.0, 0.5, 0.5])
    assert partly.estimated_speedup == pytest.approx(2.0)
