"""A ComfyUI model sampled again and again with other settings of the cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...comparison import Point, Sample
from ...config import TeaCacheConfig
from ...engine.device import Clock
from ...errors import ConfigError, ExecutionError, UserError
from .patch import apply_teacache, cached_model, describe_unsupported, recognise_model
from .wrappers import KEY

TIMED = "sampling alone: model loaded, without decoding"
WARM_UP_STEPS = 3
Preview = tuple[str, Any, int]


@dataclass(frozen=True)
class SamplerInputs:
    """What ComfyUI's KSampler takes beside the model."""

    positive: Any
    negative: Any
    latent: dict[str, Any]
    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    denoise: float


class ModelHost:
    """Samples and decodes; settings that no point sets are those of the model's own cache.

    show: is given the previews (format, picture, size) of running steps, where ComfyUI makes any.
    Raises `UserError` for a model that the cache leaves as it is.
    """

    def __init__(
        self,
        model: ModelPatcher,
        vae: Any,
        inputs: SamplerInputs,
        show: Callable[[Preview | None], None],
    ) -> None:
        if recognise_model(model) is None:
            raise UserError(f"model: {describe_unsupported(model)}")
        before = cached_model(model)
        self._base = TeaCacheConfig(rel_l1_thresh=None) if before is None else before.config
        self._plain = model.clone()
        self._plain.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
        self._vae = vae
        self._inputs = inputs
        self._show = show

    def check(self, point: Point) -> None:
        apply_teacache(self._plain, point.config(self._base))

    def sample(
        self, point: Point | None, tell: Callable[[float], None], short: bool = False
    ) -> Sample:
        model, cached = self._plain, None
        if point is not None:
            model, cached = apply_teacache(model, point.config(self._base))
        try:
            latent, seconds = self._run(model, tell, short)
            pictures = self._decode(latent)
        except comfy.model_management.InterruptProcessingException:
            raise
        except (UserError, ConfigError):
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ExecutionError(f"{type(error).__name__}: {reason}") from error
        report = None if cached is None else cached.report_for()
        return Sample(pictures, seconds, [] if report is None else [report.to_json()])

    def _run(
        self, model: ModelPatcher, tell: Callable[[float], None], short: bool
    ) -> tuple[torch.Tensor, float]:
        """The sampled latent, and the seconds it took."""
        inputs = self._inputs
        steps = min(WARM_UP_STEPS, inputs.steps) if short else inputs.steps
        latent = comfy.sample.fix_empty_latent_channels(model, inputs.latent["samples"])
        noise = comfy.sample.prepare_noise(latent, inputs.seed, inputs.latent.get("batch_index"))
        previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

        def step_ended(step: int, denoised: torch.Tensor, x: torch.Tensor, total: int) -> None:
            if previewer is not None:
                self._show(previewer.decode_latent_to_preview_image("JPEG", denoised))
            tell((step + 1) / total)

        clock = Clock(model.load_device)
        start = clock.mark()
        samples = comfy.sample.sample(
            model,
            noise,
            steps,
            inputs.cfg,
            inputs.sampler_name,
            inputs.scheduler,
            inputs.positive,
            inputs.negative,
            latent,
            denoise=inputs.denoise,
            noise_mask=inputs.latent.get("noise_mask"),
            callback=step_ended,
            disable_pbar=True,
            seed=inputs.seed,
        )
        (seconds,) = clock.resolve([(start, clock.mark())])
        return samples, seconds

    def _decode(self, latent: torch.Tensor) -> torch.Tensor:
        """[B, H, W, 3] in 0 to 1; films as their pictures, one after the other."""
        pictures: torch.Tensor = self._vae.decode(latent)
        return pictures.flatten(0, -4).float().clamp(0, 1).cpu()
