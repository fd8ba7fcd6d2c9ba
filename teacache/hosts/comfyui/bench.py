"""Calibration in ComfyUI: a MODEL sampled as KSampler does, again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import comfyui_version
import torch
from comfy.model_patcher import ModelPatcher

from ...calibration.calibrator import SampledRun
from ...calibration.override import RunOverride
from ...config import TeaCacheConfig
from ...digest import digest
from ...errors import ConfigError
from .conditions import conditions_of
from .patch import apply_teacache, describe_unsupported, recognise_model
from .samplers import sampler_traits


@dataclass(frozen=True)
class Case:
    """label: for the user. positive, negative: conditioning as nodes pass it on."""

    label: str
    positive: Any
    negative: Any
    seed: int


@dataclass(frozen=True)
class Settings:
    """As KSampler has them."""

    steps: int
    cfg: float
    sampler: str
    scheduler: str


class ComfyBench:
    """A `calibration.session.Bench`. latent: to start from, as nodes pass it on; empty ones are
    sampled from noise. Raises ConfigError for a model or a sampler that cannot be calibrated.
    """

    def __init__(
        self, model: ModelPatcher, settings: Settings, latent: torch.Tensor, cases: Sequence[Case]
    ) -> None:
        found = recognise_model(model)
        if found is None:
            raise ConfigError(f"model: {describe_unsupported(model)}")
        solver = sampler_traits(comfy.samplers.sampler_object(settings.sampler))
        if not solver.deterministic:
            raise ConfigError(
                f"sampler_name: {settings.sampler} cannot be planned (it adds noise, or takes "
                "more than the prediction from the model); calibrate with euler or dpmpp_2m"
            )
        family, self.profile = found.family, found.profile
        self.family = family.id
        self._model, self._settings = model, settings
        self._latent = comfy.sample.fix_empty_latent_channels(model, latent)
        self._cases = list(cases)
        self.steps = settings.steps
        self.cases: Sequence[str] = [f"{case.label}, seed {case.seed}" for case in cases]
        name = type(model.get_model_object("diffusion_model")).__name__
        self.about = {
            "host": "ComfyUI",
            "model": name,
            "scheduler": settings.scheduler,
            "versions": {
                "ComfyUI": comfyui_version.__version__,
                "torch": torch.__version__,
            },
        }
        conditions = conditions_of(
            model, family, solver.name, [settings.cfg], self._latent, settings.cfg
        )
        self.digest = conditions.weights_digest
        self.key = {
            "model": conditions.weights_digest,
            "patches": conditions.patches_digest,
            "latent": list(conditions.latent),
            "settings": list(vars(settings).values()),
            "cases": self.cases,
            "conds": [digest((case.positive, case.negative)) for case in cases],
            "about": self.about,
        }

    def sample(self, case: int, override: RunOverride) -> SampledRun:
        chosen, settings = self._cases[case], self._settings
        config = TeaCacheConfig(rel_l1_thresh=None, profile=self.profile.name)
        model, handle = apply_teacache(self._model, config, override=override)
        assert handle is not None
        final = comfy.sample.sample(
            model, comfy.sample.prepare_noise(self._latent, chosen.seed), settings.steps,
            settings.cfg, settings.sampler, settings.scheduler, chosen.positive, chosen.negative,
            self._latent, disable_pbar=True, seed=chosen.seed,
        )  # fmt: skip
        report = handle.report_for()
        assert report is not None
        return SampledRun(final, report.computed_steps)
