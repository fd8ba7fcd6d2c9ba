"""Calibrations of a tiny model in ComfyUI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny_models

from teacache.calibration.calibrator import Calibrator
from teacache.calibration.journal import Journal
from teacache.calibration.override import RunOverride
from teacache.calibration.shards import Sampling, in_turn
from teacache.profiles.calibrated import Calibration

STEPS = 14


def backend_of(model: Any, runs: int = 2, **changed: Any) -> Any:
    from teacache.hosts.comfyui.backend import ModelCalibrationBackend, Prompt, SamplerSettings

    prompts = [
        Prompt(tiny_models.cond("sd3", run + 1), tiny_models.cond("sd3", 9), run, f"prompt {run}")
        for run in range(runs)
    ]
    settings = {
        "steps": STEPS, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", **changed,
    }  # fmt: skip
    latent = {"samples": tiny_models.latent("sd3", 1)}
    return ModelCalibrationBackend(model, latent, SamplerSettings(**settings), prompts)


class Interrupted(Exception):
    pass


class Counting:
    """A backend that counts its runs, and breaks off after some."""

    def __init__(self, backend: Any, breaks_after: int | None = None) -> None:
        self._backend, self._breaks_after = backend, breaks_after
        self.runs = 0
        self.profile, self.steps, self.cases = backend.profile, backend.steps, backend.cases
        self.about, self.key = backend.about, backend.key

    def sample(self, case: int, override: RunOverride) -> Any:
        if self.runs == self._breaks_after:
            raise Interrupted
        self.runs += 1
        return self._backend.sample(case, override)


def calibrate(
    backend: Any,
    path: Path | None = None,
    trials: int = 1,
    quick: bool = False,
    sampling: Sampling | None = None,
) -> Calibration:
    """The calibration `mine`, its runs sampled in turn unless `sampling` does it otherwise."""
    journal = Journal(path, backend.key)
    sampling = sampling or in_turn(backend)
    return Calibrator(backend, sampling, "mine", journal, trials=trials, quick=quick).run()


def plain(calibration: Calibration) -> dict[str, Any]:
    """As the file holds it, without the date."""
    data: dict[str, Any] = json.loads(json.dumps(calibration.to_json()))
    assert data["made"].pop("date")
    return data
