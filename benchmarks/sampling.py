"""Making one sample on one host, with its time and the number of computed evaluations."""

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
"""Called with the index of each finished step."""
Sampler = tuple[str, dict[str, Any]]
"""ComfyUI's name of a sampler, and its options."""
EULER: Sampler = ("euler", {})


@dataclass(frozen=True)
class Sample:
    """The result of one sampling call.

    Args:
        latents: [pairs, *latent_shape], scaled as the model takes them on both hosts.
        seconds: wall-clock time of the call.
        cpu: processor time of the call, in all threads of this process.
        computed: evaluations of the model in which the middle block ran; where there are two
            branches of guidance, one of them counts as half an evaluation.
    """

    latents: Tensor
    seconds: float
    cpu: float
    computed: float


class RowCounter:
    """Counts the batch rows that pass through a layer."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def counting(self, layer: nn.Module) -> Iterator[RowCounter]:
        hook = layer.register_forward_pre_hook(self._count)
        try:
            yield self
        finally:
            hook.remove()

    def _count(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.count += len(args[0])


def sample(
    testbed: Testbed,
    host: str,
    target: Any,
    pairs: Sequence[Pair],
    sigmas: Tensor,
    *,
    sampler: Sampler = EULER,
    after_step: AfterStep | None = None,
    start: Tensor | None = None,
) -> Sample:
    """Make one batch of samples.

    Args:
        testbed: the model.
        host: `COMFYUI` or `DIFFUSERS`.
        target: the testbed's patcher or pipeline, with the method enabled.
        pairs: what is sampled; diffusers takes one pair.
        sigmas: noise levels [steps + 1].
        sampler: ComfyUI's; diffusers takes Euler steps.
        after_step: called after each step.
        start: latents of an earlier call that ended at the first of these noise levels, which
            ComfyUI goes on from; None for noise.
    """
    if host == COMFYUI:
        run = _comfyui(testbed, target, pairs, sigmas, sampler, after_step, start)
    else:
        run = _diffusers(testbed, target, pairs, sigmas, after_step)
    with RowCounter().counting(testbed.middle_layers[host]) as rows:
        started, used = time.perf_counter(), time.process_time()
        latents = run()
        seconds, cpu = time.perf_counter() - started, time.process_time() - used
    if host == COMFYUI:
        latents = testbed.patcher.model.process_latent_in(latents)
    return Sample(latents.clone(), seconds, cpu, rows.count / (testbed.branches * len(pairs)))


def _comfyui(
    testbed: Testbed,
    model: Any,
    pairs: Sequence[Pair],
    sigmas: Tensor,
    sampler: Sampler,
    after_step: AfterStep | None,
    start: Tensor | None,
) -> Callable[[], Tensor]:
    import comfy.sample
    import comfy.samplers

    noise = torch.cat([testbed.noise(pair) for pair in pairs])
    latent = torch.zeros_like(noise)
    if start is not None:
        noise, latent = latent, testbed.patcher.model.process_latent_out(start)
    positive = testbed.conditioning([pair.prompt for pair in pairs])
    negative = testbed.conditioning([""] * len(pairs))
    solver = comfy.samplers.ksampler(*sampler)
    callback = None if after_step is None else lambda step, *_: after_step(step)

    def run() -> Tensor:
        with torch.inference_mode():
            latents: Tensor = comfy.sample.sample_custom(
                model, noise, testbed.cfg, solver, sigmas, positive, negative,
                latent, callback=callback, disable_pbar=True, seed=0,
            )  # fmt: skip
            return latents

    return run


def _diffusers(
    testbed: Testbed, pipe: Any, pairs: Sequence[Pair], sigmas: Tensor, after_step: AfterStep | None
) -> Callable[[], Tensor]:
    (pair,) = pairs
    pipe.scheduler.fixed_sigmas = sigmas
    text, noise = text_arguments(testbed, pair.prompt), testbed.noise(pair)

    def callback(pipe: Any, step: int, timestep: Tensor, values: dict[str, Any]) -> dict[str, Any]:
        if after_step is not None:
            after_step(step)
        return values

    extra = {} if after_step is None else {"callback_on_step_end": callback}

    def run() -> Tensor:
        latents: Tensor = pipe(
            **text, **testbed.pipeline_arguments, **extra,
            **{testbed.guidance_argument: testbed.ground.guidance},
            num_inference_steps=len(sigmas) - 1,
            latents=testbed.to_pipeline(noise), output_type="latent", return_dict=False,
        )[0]  # fmt: skip
        return testbed.from_pipeline(latents)

    return run


def live_tensor_bytes() -> int:
    """Size of all CPU storages of tensors that Python's garbage collector tracks."""
    gc.collect()
    sizes = {}
    for item in gc.get_objects():
        if issubclass(type(item), Tensor) and item.device.type == "cpu":
            storage = item.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())
