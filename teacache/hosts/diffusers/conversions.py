"""What of a scheduler's step is continued: the model's output, or the denoised latent.

Where noise is added on the way, the model's output is not smooth, as it holds the noise of the
sample; the denoised latent is. It is a weighted sum of the sample and the model's output, whose
weights follow from the noise level.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from ...engine.transfer import in_float32
from ..common import noise_option

LEAST_SIGNAL = 1e-3
"""Share of the signal below which a sample is taken for pure noise (zero terminal SNR)."""


@dataclass(frozen=True)
class Conversion:
    """From the model's output to the value that is continued, and back, at one timestep.

    Where the output has more channels than the sample (a learned variance), those are continued as
    they are.

    Args:
        sample, output: weights of the two in the value.
        origin: weight of the sample in what the size of the value is measured from; 0 for none.
    """

    sample: float = 0.0
    output: float = 1.0
    origin: float = 0.0

    @property
    def is_identity(self) -> bool:
        return self == UNCHANGED

    def encode(self, sample: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """The value, a tensor of its own, in float32 at least."""
        value = in_float32(output, copy=True).mul(self.output)
        _own_channels(value, sample).add_(sample, alpha=self.sample)
        return value

    def decode(self, sample: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """The model's output that `value` stands for, in the type of `value`."""
        output = value.clone()
        _own_channels(output, sample).sub_(sample, alpha=self.sample)
        return output.div_(self.output)

    def origin_of(self, sample: torch.Tensor, value: torch.Tensor) -> torch.Tensor | None:
        """From where the size of `value` is measured."""
        if not self.origin:
            return None
        origin = torch.zeros_like(value)
        _own_channels(origin, sample).add_(sample, alpha=self.origin)
        return origin

    def fits(self, sample: torch.Tensor, output: torch.Tensor) -> bool:
        """Whether an output of this shape is one of `sample`."""
        return sample.ndim == output.ndim and _own_channels(output, sample).shape == sample.shape


UNCHANGED = Conversion()
"""The model's output itself."""


def _own_channels(output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """The channels of `output` that stand for those of `sample`."""
    return output if output.shape == sample.shape else output[:, : sample.shape[1]]


def denoised(kind: str, signal: float, noise: float) -> Conversion:
    """The denoised latent, where the sample is signal * latent + noise * noise.

    Args:
        kind: a scheduler's `prediction_type`. The sample of `flow_prediction` has signal 1 - noise,
            and its errors are measured in parts of noise * output, those of the others in parts of
            the noise over the signal.
    """
    signal = max(signal, LEAST_SIGNAL)
    if kind == "flow_prediction":
        return Conversion(1.0, -noise, origin=1.0)
    if kind == "epsilon":
        return Conversion(1 / signal, -noise / signal, origin=1 / signal)
    if kind == "v_prediction":
        return Conversion(signal, -noise, origin=1 / signal)
    return Conversion(origin=1 / signal)  # the prediction is the denoised latent


def denoised_of_scaled(kind: str, sigma: float) -> Conversion:
    """As `denoised`, where the sample is latent + sigma * noise."""
    signal = 1 / math.hypot(1.0, sigma)
    of_unit = denoised(kind, signal, sigma * signal)
    return Conversion(of_unit.sample * signal, of_unit.output, origin=1.0)


def step_owner(scheduler: Any) -> str | None:
    """The class of diffusers whose `step` a scheduler has; None for a step of another package."""
    step = inspect.getattr_static(type(scheduler), "step", None)
    if not inspect.isfunction(step) or not step.__module__.startswith("diffusers."):
        return None
    return step.__qualname__.split(".")[0]


def prediction_kind(scheduler: Any) -> str:
    """What the model predicts."""
    return str(scheduler.config.get("prediction_type", "flow_prediction"))


Levels = list[float]


def _by_alphas(scheduler: Any, timesteps: Levels, sigmas: Levels) -> list[Conversion]:
    """By the cumulated alphas at integer timesteps."""
    alphas, kind = scheduler.alphas_cumprod.tolist(), prediction_kind(scheduler)
    shares = [alphas[int(t)] for t in timesteps]
    return [denoised(kind, math.sqrt(share), math.sqrt(1 - share)) for share in shares]


def _by_ratio(scheduler: Any, timesteps: Levels, sigmas: Levels) -> list[Conversion]:
    """By the ratio of noise and signal; a flow's by its noise."""
    kind = prediction_kind(scheduler)
    if scheduler.config.use_flow_sigmas:
        return [denoised(kind, 1 - sigma, sigma) for sigma in sigmas]
    sizes = [math.hypot(1.0, sigma) for sigma in sigmas]
    return [denoised(kind, 1 / n, sigma / n) for sigma, n in zip(sigmas, sizes, strict=True)]


def _by_scaled(scheduler: Any, timesteps: Levels, sigmas: Levels) -> list[Conversion]:
    kind = prediction_kind(scheduler)
    return [denoised_of_scaled(kind, sigma) for sigma in sigmas]


def _by_flow(scheduler: Any, timesteps: Levels, sigmas: Levels) -> list[Conversion]:
    return [denoised("flow_prediction", 1 - sigma, sigma) for sigma in sigmas]


def _by_share(scheduler: Any, timesteps: Levels, sigmas: Levels) -> list[Conversion]:
    """Würstchen and Stable Cascade: timesteps are shares of the run, the output is the noise."""
    shares = scheduler._alpha_cumprod(torch.tensor(timesteps), torch.device("cpu")).tolist()
    return [denoised("epsilon", math.sqrt(share), math.sqrt(1 - share)) for share in shares]


DENOISED: dict[str, Callable[[Any, Levels, Levels], list[Conversion]]] = {
    "DDIMScheduler": _by_alphas,
    "DDPMScheduler": _by_alphas,
    "LCMScheduler": _by_alphas,
    "UnCLIPScheduler": _by_alphas,
    "CogVideoXDDIMScheduler": _by_alphas,
    "CogVideoXDPMScheduler": _by_alphas,
    "DPMSolverMultistepScheduler": _by_ratio,
    "SASolverScheduler": _by_ratio,
    "EulerDiscreteScheduler": _by_scaled,
    "EulerAncestralDiscreteScheduler": _by_scaled,
    "FlowMatchEulerDiscreteScheduler": _by_flow,
    "FlowMatchLCMScheduler": _by_flow,
    "LTXEulerAncestralRFScheduler": _by_flow,
    "DDPMWuerstchenScheduler": _by_share,
}
"""By the class whose `step` it is: (scheduler, timesteps, noise levels) -> the denoised latent of
each evaluation."""


class StepValues:
    """The denoised latents of the evaluations of one loop.

    Args:
        scheduler: of the loop, after `set_timesteps`.
        timesteps, sigmas: at which it evaluates.
    """

    def __init__(self, scheduler: Any, timesteps: Levels, sigmas: Levels) -> None:
        self._scheduler, self._timesteps, self._sigmas = scheduler, timesteps, sigmas
        self._owner = step_owner(scheduler)

    @property
    def can_denoise(self) -> bool:
        """Whether the denoised latent can be told from the model's output."""
        return self._owner in DENOISED

    def denoised(self, evaluation: int) -> Conversion:
        """That of an evaluation, by its index in the loop; it `can_denoise`."""
        return self._conversions[evaluation]

    @cached_property
    def _conversions(self) -> list[Conversion]:
        convert = DENOISED[self._owner or ""]
        return convert(self._scheduler, self._timesteps, self._sigmas)


class StepInputs(NamedTuple):
    """What a scheduler's step is given beside the model's output.

    Args:
        sample: the noisy sample; None where it is not to be seen.
        noise: the argument that makes it add noise, empty for none.
    """

    sample: torch.Tensor | None = None
    noise: str = ""


def step_inputs(
    scheduler: Any, output: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> StepInputs:
    """The inputs of the call `scheduler.step(output, *args, **kwargs)`."""
    try:
        signature = inspect.signature(type(scheduler).step)
        given = dict(signature.bind_partial(scheduler, output, *args, **kwargs).arguments)
    except TypeError:  # its step is another one than its class says
        given = kwargs
    sample = given.get("sample")
    sample = sample if isinstance(sample, torch.Tensor) else None
    return StepInputs(sample, noise_option(given))
