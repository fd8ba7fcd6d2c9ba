"""A ComfyUI MODEL sampled as KSampler does, for comparisons and for calibrations."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfyui_version
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...calibration.override import RunOverride
from ...calibration.shards import SampledRun
from ...comparison import Point, Sample, StepListener
from ...comparison.runner import WARM_UP_STEPS
from ...config import TeaCacheConfig
from ...digest import digest
from ...errors import ConfigError, ExecutionError, UserError
from .conditions import conditions_of
from .patch import apply_teacache, cached_model, describe_unsupported, recognise_model
from .samplers import sampler_traits
from .wrappers import KEY

TIMED = "sampling alone: model loaded, without decoding"
SEEDS = 2**64
Latent = dict[str, Any]
"""As nodes pass it on: `samples`, and maybe `noise_mask` and `batch_index`."""
Preview = tuple[str, Any, int]
"""Format, picture, largest size: as ComfyUI's `ProgressBar.update_absolute` takes it."""


@dataclass(frozen=True)
class SamplerSettings:
    """KSampler's widgets, but for the seed."""

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    denoise: float = 1.0


@dataclass(frozen=True)
class Prompt:
    """What one run draws.

    Args:
        positive, negative: conditioning as nodes pass it on.
        seed: of the noise.
        label: for the user.
    """

    positive: Any
    negative: Any
    seed: int
    label: str = ""


def sample_model(
    model: ModelPatcher,
    latent: Latent,
    settings: SamplerSettings,
    prompt: Prompt,
    on_step: Callable[[int, torch.Tensor, torch.Tensor, int], None] | None = None,
) -> torch.Tensor:
    """The latent that KSampler would give.

    Args:
        on_step: ComfyUI's callback: step, denoised latent, noisy latent, steps in all.
    """
    start = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = comfy.sample.prepare_noise(start, prompt.seed, latent.get("batch_index"))
    sampled: torch.Tensor = comfy.sample.sample(
        model,
        noise,
        settings.steps,
        settings.cfg,
        settings.sampler_name,
        settings.scheduler,
        prompt.positive,
        prompt.negative,
        start,
        denoise=settings.denoise,
        noise_mask=latent.get("noise_mask"),
        callback=on_step,
        disable_pbar=True,
        seed=prompt.seed,
    )
    return sampled


class ModelSamplingBackend:
    """A `comparison.SamplingBackend`: samples and decodes.

    Settings that no point sets are those of the model's own cache.

    Args:
        on_preview: is given the previews of running steps, where ComfyUI makes any.

    Raises:
        UserError: the cache leaves the model as it is.
    """

    def __init__(
        self,
        model: ModelPatcher,
        vae: Any,
        latent: Latent,
        settings: SamplerSettings,
        prompt: Prompt,
        on_preview: Callable[[Preview | None], None],
    ) -> None:
        if recognise_model(model) is None:
            raise UserError(f"model: {describe_unsupported(model)}")
        own = cached_model(model)
        self._base = TeaCacheConfig(rel_l1_thresh=None) if own is None else own.config
        self._uncached = model.clone()
        self._uncached.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
        self._vae = vae
        self._latent, self._settings, self._prompt = latent, settings, prompt
        self._on_preview = on_preview

    def check(self, point: Point) -> None:
        apply_teacache(self._uncached, point.config(self._base))

    def sample(
        self,
        point: Point | None,
        on_step: StepListener,
        short: bool = False,
        steps: int | None = None,
    ) -> Sample:
        model, cache = self._uncached, None
        if point is not None:
            model, cache = apply_teacache(model, point.config(self._base))
        try:
            latent, seconds = self._run(model, on_step, short, steps)
            pictures = self._decode(latent)
        except (UserError, ConfigError, comfy.model_management.InterruptProcessingException):
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ExecutionError(f"{type(error).__name__}: {reason}") from error
        report = None if cache is None else cache.report_for()
        return Sample(pictures, seconds, [] if report is None else [report.to_json()])

    def _run(
        self, model: ModelPatcher, on_step: StepListener, short: bool, steps: int | None
    ) -> tuple[torch.Tensor, float]:
        """The sampled latent, and the seconds it took."""
        settings = self._settings if steps is None else replace(self._settings, steps=steps)
        if short:
            settings = replace(settings, steps=min(WARM_UP_STEPS, settings.steps))
        previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

        def step_ended(step: int, denoised: torch.Tensor, x: torch.Tensor, steps: int) -> None:
            if previewer is not None:
                self._on_preview(previewer.decode_latent_to_preview_image("JPEG", denoised))
            on_step(step + 1, steps)

        started = time.perf_counter()
        samples = sample_model(model, self._latent, settings, self._prompt, step_ended)
        samples.to("cpu")  # waits for the device, whichever it is
        return samples, time.perf_counter() - started

    def _decode(self, latent: torch.Tensor) -> torch.Tensor:
        """[B, H, W, 3] in 0 to 1; videos as their frames, one after the other."""
        pictures: torch.Tensor = self._vae.decode(latent)
        return pictures.flatten(0, -4).float().clamp(0, 1).cpu()


def calibration_prompts(
    positive: Any, negative: Any, further: Mapping[str, Any], seed: int, seeds: int
) -> list[Prompt]:
    """The runs of Calibrate TeaCache.

    Args:
        positive, negative: conditioning as nodes pass it on.
        further: more prompts, by the name of the input; None where an input is not connected.
        seed: of the first run; every further run takes the next one.
        seeds: runs with each prompt.
    """
    every = [positive, *(further[key] for key in sorted(further) if further[key] is not None)]
    numbered = [(number, prompt) for number, prompt in enumerate(every, 1) for _ in range(seeds)]
    return [
        Prompt(prompt, negative, (seed + run) % SEEDS, f"prompt {number}")
        for run, (number, prompt) in enumerate(numbered)
    ]


class ModelCalibrationBackend:
    """A `calibration.shards.CalibrationBackend`.

    Args:
        latent: to start from; an empty one is sampled from noise.
        prompts: one for each run.

    Raises:
        ConfigError: the model or the sampler cannot be calibrated.
    """

    def __init__(
        self,
        model: ModelPatcher,
        latent: Latent,
        settings: SamplerSettings,
        prompts: Sequence[Prompt],
    ) -> None:
        recognition = recognise_model(model)
        if recognition is None:
            raise ConfigError(f"model: {describe_unsupported(model)}")
        solver = sampler_traits(comfy.samplers.sampler_object(settings.sampler_name))
        if not solver.plannable:
            raise ConfigError(
                f"sampler_name: {settings.sampler_name} cannot be planned "
                f"({solver.why_not_planned}); calibrate with euler or dpmpp_2m"
            )
        self.family, self.profile = recognition.family.id, recognition.profile
        self._model, self._settings = model, settings
        samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
        self._latent = {**latent, "samples": samples}
        self._prompts = list(prompts)
        self.steps = settings.steps
        self.cases: Sequence[str] = [f"{prompt.label}, seed {prompt.seed}" for prompt in prompts]
        self.about = {
            "host": "ComfyUI",
            "model": type(model.get_model_object("diffusion_model")).__name__,
            "scheduler": settings.scheduler,
            "versions": {"ComfyUI": comfyui_version.__version__, "torch": torch.__version__},
        }
        conditions = conditions_of(
            model, recognition.family, solver.name, [settings.cfg], samples, settings.cfg
        )
        self.digest = conditions.weights_digest
        self.key = {
            "model": conditions.weights_digest,
            "patches": conditions.patches_digest,
            "latent": list(conditions.latent),
            "settings": [
                settings.steps, settings.cfg, settings.sampler_name, settings.scheduler,
            ],
            "cases": self.cases,
            "conds": [digest((prompt.positive, prompt.negative)) for prompt in prompts],
            "about": self.about,
        }  # fmt: skip

    def sample(self, case: int, override: RunOverride) -> SampledRun:
        config = TeaCacheConfig(rel_l1_thresh=None, profile=self.profile.name)
        model, cache = apply_teacache(self._model, config, override=override)
        assert cache is not None
        with torch.inference_mode():
            latent = sample_model(model, self._latent, self._settings, self._prompts[case])
        report = cache.report_for()
        assert report is not None
        return SampledRun(latent, report.computed_steps)
