"""The stand-ins of the pack's schedulers: known by their names, one step for each timestep."""

from __future__ import annotations

from typing import Any

import torch


class _Scheduler:
    """Euler's method."""

    config: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, steps: int, shift: float) -> None:
        even = torch.linspace(1.0, 0.0, steps + 1)
        self.sigmas = shift * even / (1 + (shift - 1) * even)
        self.timesteps = (self.sigmas[:-1] * 1000).to(torch.int64)
        self._step = 0

    def step(self, model_output: Any, timestep: Any, sample: Any, generator: Any = None) -> Any:
        size = self.sigmas[self._step + 1] - self.sigmas[self._step]
        self._step += 1
        return (sample + size * model_output,)


class FlowMatchEulerDiscreteScheduler(_Scheduler):
    pass


class FlowDPMSolverMultistepScheduler(_Scheduler):
    """Of second order: goes on along the change of the prediction."""

    def __init__(self, steps: int, shift: float, algorithm: str = "dpmsolver++") -> None:
        super().__init__(steps, shift)
        self.config = {"algorithm_type": algorithm}
        self._before: torch.Tensor | None = None

    def step(self, model_output: Any, timestep: Any, sample: Any, generator: Any = None) -> Any:
        before, self._before = self._before, model_output
        ahead = model_output if before is None else 1.5 * model_output - 0.5 * before
        (moved,) = super().step(ahead, timestep, sample)
        if self.config["algorithm_type"].startswith("sde"):
            moved = moved + 0.05 * torch.randn(moved.shape, generator=generator)
        return (moved,)


class FlowMatchLCMScheduler(_Scheduler):
    """Goes to the end, and back to the next level with new noise."""

    def step(self, model_output: Any, timestep: Any, sample: Any, generator: Any = None) -> Any:
        now, following = self.sigmas[self._step], self.sigmas[self._step + 1]
        self._step += 1
        clean = sample - now * model_output
        noise = torch.randn(sample.shape, generator=generator)
        return ((1 - following) * clean + following * noise,)


class UnheardOfScheduler(_Scheduler):
    pass


class rCMFlowMatchScheduler(_Scheduler):
    """Its timesteps are angles."""

    def __init__(self, steps: int, shift: float) -> None:
        super().__init__(steps, shift)
        self.timesteps = torch.atan(self.sigmas[:-1])


def get_scheduler(scheduler: str, steps: int, start_step: int, end_step: int, shift: float) -> Any:
    """A scheduler, its timesteps, and which of the schedule's steps they are."""
    kinds: dict[str, Any] = {
        "euler": FlowMatchEulerDiscreteScheduler,
        "dpm++": FlowDPMSolverMultistepScheduler,
        "lcm": FlowMatchLCMScheduler,
        "rcm": rCMFlowMatchScheduler,
        "unheard of": UnheardOfScheduler,
    }
    if scheduler == "dpm++_sde":
        made: Any = FlowDPMSolverMultistepScheduler(steps, shift, "sde-dpmsolver++")
    else:
        made = kinds[scheduler](steps, shift)
    end = steps if end_step == -1 else end_step
    made.timesteps = made.timesteps[start_step:end]
    made.sigmas = made.sigmas[start_step : end + 1]
    return made, made.timesteps, start_step, end - 1
