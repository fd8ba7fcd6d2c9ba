"""One sample on one host: seconds of the sampling call alone, and how often the stack ran."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.testbeds import COMFYUI, Pair, Testbed, text_arguments

AfterStep = Callable[[int], None]
Sampler = tuple[str, dict[str, Any]]
"""Name in ComfyUI, and options."""
EULER: Sampler = ("euler", {})


@dataclass(frozen=True)
class Sample:
    """latents: as the model knows them, on both hosts alike. cpu: seconds of the processor, in all
    threads of this process. computed: evaluations of the model in which the middle block ran,
    half an evaluation where it ran for one branch of the two.
    """

    latents: Tensor
    seconds: float
    cpu: float
    computed: float


class Rows:
    """Counts the rows that go through a layer."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def of(self, layer: nn.Module) -> Iterator[Rows]:
        hook = layer.register_forward_pre_hook(self._called)
        try:
            yield self
        finally:
            hook.remove()

    def _called(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.count += len(args[0])


def sample(
    bed: Testbed,
    host: str,
    target: Any,
    pairs: Sequence[Pair],
    levels: Tensor,
    *,
    sampler: tuple[str, dict[str, Any]] = EULER,
    after_step: AfterStep | None = None,
) -> Sample:
    """`pairs` in one batch, by `target`: a patcher or a pipeline of `bed`.

    sampler: ComfyUI's name of it, and its options; diffusers' pipelines take Euler steps.
    """
    if host == COMFYUI:
        run = _comfyui(bed, target, pairs, levels, sampler, after_step)
    else:
        run = _diffusers(bed, target, pairs, levels, after_step)
    with Rows().of(bed.middle[host]) as rows:
        started, used = time.perf_counter(), time.process_time()
        latents = run()
        seconds, cpu = time.perf_counter() - started, time.process_time() - used
    if host == COMFYUI:
        latents = bed.patcher.model.process_latent_in(latents)
    return Sample(latents.clone(), seconds, cpu, rows.count / (2 * len(pairs)))


def _comfyui(
    bed: Testbed,
    model: Any,
    pairs: Sequence[Pair],
    levels: Tensor,
    sampler: tuple[str, dict[str, Any]],
    after_step: AfterStep | None,
) -> Callable[[], Tensor]:
    import comfy.sample
    import comfy.samplers

    noise = torch.cat([bed.noise(pair) for pair in pairs])
    positive = bed.condition([pair.prompt for pair in pairs])
    against = bed.condition([""] * len(pairs))
    kind = comfy.samplers.ksampler(*sampler)
    callback = None if after_step is None else lambda step, *_: after_step(step)

    def run() -> Tensor:
        with torch.inference_mode():
            found: Tensor = comfy.sample.sample_custom(
                model, noise, bed.guidance, kind, levels, positive, against,
                torch.zeros_like(noise), callback=callback, disable_pbar=True, seed=0,
            )  # fmt: skip
            return found

    return run


def _diffusers(
    bed: Testbed, pipe: Any, pairs: Sequence[Pair], levels: Tensor, after_step: AfterStep | None
) -> Callable[[], Tensor]:
    (pair,) = pairs
    pipe.scheduler.levels = levels
    text, noise = text_arguments(bed, pair.prompt), bed.noise(pair)

    def callback(pipe: Any, step: int, timestep: Tensor, values: dict[str, Any]) -> dict[str, Any]:
        if after_step is not None:
            after_step(step)
        return values

    extra = {} if after_step is None else {"callback_on_step_end": callback}

    def run() -> Tensor:
        found: Tensor = pipe(
            **text, **bed.call, **extra, guidance_scale=bed.guidance,
            num_inference_steps=len(levels) - 1,
            latents=noise, output_type="latent", return_dict=False,
        )[0]  # fmt: skip
        return found

    return run


def live_bytes() -> int:
    """Of all storages on the CPU that a tensor known to Python holds."""
    gc.collect()
    held = {}
    for found in gc.get_objects():
        if issubclass(type(found), Tensor) and found.device.type == "cpu":
            storage = found.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
    return sum(held.values())
