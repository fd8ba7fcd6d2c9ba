"""Pictures for many prompts, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ...errors import ConfigError
from ...plots.pixels import to_pil
from ...report import RunReport
from .enable import installed
from .generation import Request, attempt, for_image

DEFAULT_STEPS = 50


@dataclass(frozen=True)
class Generated:
    """What came of one prompt.

    Args:
        images: one or several; of a film, its frames.
        seconds: of the whole call, with text encoding and decoding.
        report: of the cache; None without one.
        notes: sentences on what the pipeline does not take, and on invalid values.
    """

    prompt: str
    seed: int
    images: list[Image.Image]
    seconds: float
    report: RunReport | None
    notes: list[str] = field(default_factory=list)


def generate(
    pipe: Any,
    prompts: str | Sequence[str],
    *,
    negative_prompt: str = "",
    num_inference_steps: int = DEFAULT_STEPS,
    guidance_scale: float | None = None,
    seed: int | Sequence[int] = 0,
    width: int | None = None,
    height: int | None = None,
    num_images: int = 1,
    image: Image.Image | list[Image.Image] | None = None,
    strength: float | None = None,
) -> Iterator[Generated]:
    """Samples each of `prompts`, with the cache that is on `pipe`, if one is.

        pipe = load_pipeline(
            "models/Qwen-Image", cache_backend="tea_cache", cache_config={"rel_l1_thresh": 0.2}
        )
        for made in generate(pipe.to(device), ["a cup of coffee", "a fox in snow"], seed=7):
            made.images[0].save(f"{made.prompt}.png")
            print(made.report.summary)

    The arguments are those of every class of pipeline: `guidance_scale` is Qwen-Image's
    `true_cfg_scale`, for example. None leaves a value to the pipeline.

    Args:
        pipe: of `load_pipeline`, or any other diffusers pipeline, on its device.
        prompts: one or many; each is sampled when the iterator comes to it.
        seed: of the noise: one for all prompts, or one for each.
        num_images: for each prompt.
        image: to edit or start from.
        strength: how far to go from it, 0 to 1.

    Returns:
        An iterator over the results, in the order of the prompts.

    Raises:
        ConfigError: an argument is unusable.
        UserError, ExecutionError: from the iterator, where the pipeline refuses a value, or fails.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    for text in texts:
        if not isinstance(text, str):
            raise ConfigError(f"prompts must be a text or several, not {type(text).__name__}")
    seeds = [seed] * len(texts) if isinstance(seed, int) else list(seed)
    if len(seeds) != len(texts):
        raise ConfigError(f"seed must be one number, or {len(texts)} of them, not {len(seeds)}")
    for name, value in (("num_inference_steps", num_inference_steps), ("num_images", num_images)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} must be a whole number from 1, not {value!r}")
    requests = [
        Request(
            prompt=text,
            negative=negative_prompt,
            width=width,
            height=height,
            steps=num_inference_steps,
            guidance=guidance_scale,
            seed=own,
            batch=num_images,
            image=image,
            strength=strength,
        )
        for text, own in zip(texts, seeds, strict=True)
    ]
    sampled, handle = for_image(pipe, image is not None), installed(pipe)
    if handle is not None and installed(sampled) is not handle:
        handle.attach(sampled)
    return _sampled(sampled, requests)


def _sampled(pipe: Any, requests: Sequence[Request]) -> Iterator[Generated]:
    for request in requests:
        result = attempt(pipe, request)
        handle = installed(pipe)
        yield Generated(
            prompt=request.prompt,
            seed=request.seed,
            images=[to_pil(picture) for picture in result.pictures],
            seconds=result.seconds,
            report=None if handle is None else handle.report_for(),
            notes=result.notes,
        )
