"""Pictures from a diffusers pipeline: the same request for every class of pipeline."""

from __future__ import annotations

import inspect
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...comparison.runner import WARM_UP_STEPS
from ...config import TeaCacheConfig
from ...engine.run import RunListener
from ...errors import ConfigError, ExecutionError, UserError
from ...plots.pixels import to_pil
from ...report import RunReport

BATCHES = ("num_images_per_prompt", "num_videos_per_prompt")


@dataclass(frozen=True)
class Request:
    """What to sample. None leaves a value to the pipeline.

    Args:
        batch: pictures to make.
        image: to edit or start from, one or several.
        strength: how far to go from it, 0 to 1.
    """

    prompt: str
    negative: str = ""
    width: int | None = None
    height: int | None = None
    steps: int = 50
    guidance: float | None = None
    seed: int = 0
    batch: int = 1
    image: Image.Image | list[Image.Image] | None = None
    strength: float | None = None


@dataclass(frozen=True)
class Step:
    """A finished step: `done` of `total`, and the pictures so far, still noisy."""

    done: int
    total: int
    preview: Callable[[], Image.Image | None]


@dataclass
class Result:
    """The result of one call of a pipeline.

    Args:
        pictures: [B, H, W, C] in 0 to 1.
        seconds: of the whole call.
        report: the cache's, None without a cache.
        notes: sentences for the user: inputs that the pipeline does not take, invalid values.
    """

    pictures: Tensor
    seconds: float
    report: RunReport | None = None
    notes: list[str] = field(default_factory=list)


def for_image(pipe: Any, wanted: bool) -> Any:
    """`pipe`, or the pipeline of the same model that takes a picture, if one is `wanted`."""
    if not wanted or "image" in parameters(pipe):
        return pipe
    from diffusers import AutoPipelineForImage2Image

    from .demo_pipeline import DemoPipeline

    if isinstance(pipe, DemoPipeline):
        return pipe.with_image()
    try:
        return AutoPipelineForImage2Image.from_pipe(pipe)
    except ValueError:
        raise UserError(f"image: {type(pipe).__name__} takes no image") from None


class ImageMissing(UserError):
    """The pipeline takes a picture, got none, and failed before the first step."""


def needs_image(pipe: Any) -> bool:
    """Whether `pipe` is known to sample from pictures alone; False where that is not known."""
    from diffusers.pipelines import auto_pipeline

    image = parameters(pipe).get("image")
    if image is None:
        return False
    from_pictures = (
        *auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING.values(),
        *auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING.values(),
    )
    from_text = auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()
    known = type(pipe) in from_pictures and type(pipe) not in from_text
    return known or image.default is image.empty


def parameters(pipe: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(type(pipe).__call__).parameters)


def arguments(pipe: Any, request: Request) -> tuple[dict[str, Any], list[str]]:
    """The arguments of a call.

    Returns:
        The arguments, and a sentence for each input that the pipeline does not take.
    """
    taken, name = parameters(pipe), type(pipe).__name__
    values: dict[str, Any] = {"prompt": request.prompt, "num_inference_steps": request.steps}
    unused: list[str] = []

    def put(label: str, parameter: str, value: Any) -> None:
        if parameter in taken:
            values[parameter] = value
        else:
            unused.append(f"{label} is not used: {name} does not take it.")

    scale = guidance_parameter(taken)
    if request.guidance is not None:
        put("guidance", scale or "guidance_scale", request.guidance)
    if guides(taken, scale, request):
        values["negative_prompt"] = request.negative or " "
    elif request.negative:
        if scale == "guidance_scale" and "true_cfg_scale" in taken:
            unused.append(f"negative is not used: {name} is guided without one.")
        else:
            put("negative", "negative_prompt", request.negative)
    for label, size in (("width", request.width), ("height", request.height)):
        if size is not None:
            put(label, label, size)
    if request.batch > 1:
        known = [parameter for parameter in BATCHES if parameter in taken]
        put("batch", known[0] if known else BATCHES[0], request.batch)
    if request.image is not None:
        put("image", "image", request.image)
        if isinstance(request.image, list) and "strength" in taken:  # one prompt for each start
            values["prompt"] = [request.prompt] * len(request.image)
        if request.strength is not None:
            put("strength", "strength", request.strength)
    elif request.strength is not None:
        unused.append("strength is not used: there is no image.")
    if "generator" in taken:
        values["generator"] = torch.Generator("cpu").manual_seed(request.seed)
    if "output_type" in taken:
        values["output_type"] = "np"
    return values, unused


def guidance_parameter(taken: dict[str, inspect.Parameter]) -> str | None:
    """The name of the guidance scale: true_cfg_scale for Qwen-Image, whose pipelines have it in
    addition to, or instead of, guidance_scale."""
    if "true_cfg_scale" in taken and (
        "guidance_scale" not in taken or taken["guidance_scale"].default is None
    ):
        return "true_cfg_scale"
    return "guidance_scale" if "guidance_scale" in taken else None


def guides(taken: dict[str, inspect.Parameter], scale: str | None, request: Request) -> bool:
    """Whether the pipeline needs a negative prompt, even an empty one, to apply guidance."""
    if scale != "true_cfg_scale" or "negative_prompt" not in taken:
        return False
    guidance = taken[scale].default if request.guidance is None else request.guidance
    return isinstance(guidance, (int, float)) and guidance > 1


def generate(
    pipe: Any,
    request: Request,
    *,
    cache: TeaCacheConfig | None = None,
    listener: RunListener | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Result:
    """Call `pipe` once.

    Args:
        cache: settings of the cache, whose state does not outlive the call; None for no cache.
        listener: receives the cache's events.
        on_step: called after each step.

    Raises:
        ConfigError, UserError: the model or the pipeline refuses a value.
        ImageMissing: the pipeline does nothing without a picture.
    """
    pipe = for_image(pipe, request.image is not None)
    values, notes = arguments(pipe, request)

    started_sampling = False

    def step_ended(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal started_sampling
        started_sampling = True
        if on_step is not None:
            total = pipe.num_timesteps if hasattr(type(pipe), "num_timesteps") else request.steps
            on_step(Step(step + 1, total, lambda: preview(pipe, tensors)))
        return tensors

    if "callback_on_step_end" in parameters(pipe):
        values["callback_on_step_end"] = step_ended
    pipe.set_progress_bar_config(disable=True)
    handle, started = None, time.perf_counter()
    try:
        with torch.no_grad(), cached(pipe, cache, listener) as handle:
            started = time.perf_counter()
            output = pipe(**values)
            seconds = time.perf_counter() - started
            report = None if handle is None else handle.report_for()
    except ValueError as error:
        if started_sampling or type(error) is not ValueError:
            raise
        raise UserError(f"{type(pipe).__name__}: {error}") from error
    except (AttributeError, TypeError) as error:
        if started_sampling or request.image is not None or "image" not in parameters(pipe):
            raise
        raise ImageMissing(f"image: {type(pipe).__name__} fails without one: {error}") from error
    finally:
        pipe.maybe_free_model_hooks()
    pictures = to_tensor(output)
    if not pictures.isfinite().all():
        notes.append("The pictures held invalid values, now black: try another precision.")
        pictures = pictures.nan_to_num(0.0)
    return Result(pictures, seconds, report, notes)


def attempt(pipe: Any, request: Request, **options: Any) -> Result:
    """`generate` with its options, any failure within diffusers as one line with details.

    Raises:
        ConfigError, UserError: as `generate`.
        ExecutionError: the pipeline failed.
    """
    try:
        return generate(pipe, request, **options)
    except (UserError, ConfigError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ExecutionError(
            f"{type(pipe).__name__} failed: {type(error).__name__}: {reason}",
            traceback.format_exc(),
        ) from error


def shortened(request: Request) -> Request:
    """The same in a few steps, to warm up."""
    return replace(request, steps=min(WARM_UP_STEPS, request.steps), strength=None)


def cached(pipe: Any, cache: TeaCacheConfig | None, listener: RunListener | None) -> Any:
    """A context with the cache on `pipe`; it gives the cache's handle, None without a cache."""
    if cache is None:
        return nullcontext()
    from .enable import teacache

    return teacache(pipe, **asdict(cache), listener=listener)


def to_tensor(output: Any) -> Tensor:
    """The pictures of a pipeline's output, [B, H, W, C]; videos as their frames in turn."""
    pictures = output.images if "images" in output else output[0]
    if isinstance(pictures, list):
        pictures = np.stack([np.asarray(picture) for picture in pictures])
    if isinstance(pictures, np.ndarray):
        scale = 255.0 if pictures.dtype == np.uint8 else 1.0
        pictures = torch.from_numpy(pictures.astype(np.float32) / scale)
    frames: Tensor = pictures.flatten(0, -4) if pictures.ndim > 4 else pictures
    return frames.float().clamp(0, 1).cpu()


def preview(pipe: Any, tensors: dict[str, Any]) -> Image.Image | None:
    """The first picture so far, where the pipeline has a small decoder that is quick enough."""
    from diffusers import AutoencoderTiny

    vae, latents = pipe.components.get("vae"), tensors.get("latents")
    if not isinstance(vae, AutoencoderTiny) or latents is None or latents.ndim != 4:
        return None
    config = vae.config
    with torch.no_grad():
        unscaled = latents[:1] / config.scaling_factor + config.shift_factor
        pixels = vae.decode(unscaled.to(vae.dtype)).sample[0]
    return to_pil((pixels.float() / 2 + 0.5).movedim(0, -1))
