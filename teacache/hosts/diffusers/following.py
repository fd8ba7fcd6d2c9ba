"""What the scheduler of a denoising loop follows: computed predictions, and continued ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from ...engine.forward import PredictionForward
from ...engine.rounding import rounding_error
from ...engine.run import Run
from .conversions import UNCHANGED, Conversion, StepInputs
from .schedulers import LoopSigmas, with_noise

NO_SAMPLE = "what the scheduler's step is given is not the sample that the model's output is for"


class Evaluated:
    """The model's output after guidance as a value that is continued.

    Args:
        conversion: of the evaluation.
        sample: what the scheduler's step is given, None where it is not seen.
        output: zeros on a skip.
    """

    def __init__(
        self, conversion: Conversion, sample: torch.Tensor | None, output: torch.Tensor
    ) -> None:
        self._conversion, self._output = conversion, output
        fits = sample is not None and conversion.fits(sample, output)
        self._sample = sample if fits and not conversion.is_identity else None

    @property
    def is_known(self) -> bool:
        return self._conversion.is_identity or self._sample is not None

    @cached_property
    def value(self) -> torch.Tensor:
        """A tensor of its own: pipelines and schedulers may change theirs in place."""
        if self._sample is None:
            return self._output.clone()
        return self._conversion.encode(self._sample, self._output)

    @property
    def origin(self) -> torch.Tensor | None:
        """From where the size of the value is measured."""
        if self._sample is None:
            return None
        return self._conversion.origin_of(self._sample, self.value)

    def rounding_error(self, branches: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """That of the value; None where it is negligible, and for denoised latents.

        Args:
            branches: what the model returned, two of them in one batch or each by itself.
        """
        rows = self._output.shape[0]
        parts = [part for each in branches for part in torch.split(each, rows)]
        if self._sample is not None or not parts:
            return None
        return rounding_error(parts[0].dtype, self._output, parts)

    def predicted_by(self, forward: PredictionForward) -> torch.Tensor:
        """The output that the predicted value stands for.

        Raises:
            MemoryError: there is no memory for it, and the model's output is not to be had.
        """
        like = self._output if self._sample is None else self.value
        predicted = forward.predict(like)
        if predicted is None:
            raise MemoryError("TeaCache: no memory left to predict a skipped step")
        return self.output_of(predicted).clone()

    def output_of(self, value: torch.Tensor) -> torch.Tensor:
        """The model's output that `value` stands for."""
        if self._sample is None:
            return value
        return self._conversion.decode(self._sample, value).to(self._output.dtype)


class Follower:
    """Follows the predictions of one denoising loop.

    Args:
        sigmas: of the loop; they tell what is continued.
    """

    def __init__(self, sigmas: LoopSigmas) -> None:
        self._sigmas = sigmas
        self._noise = ""
        """The argument of the scheduler's step that makes it add noise, empty for none."""

    def show(self, run: Run, evaluation: int, output: torch.Tensor, inputs: StepInputs) -> None:
        """Let the run's observer see an `output` that no forward follows."""
        if run.observer is not None:
            known = self._evaluated(run, evaluation, output, inputs)
            run.observer.on_prediction(run.position.step, known.value)

    def follow(
        self,
        run: Run,
        forward: PredictionForward,
        evaluation: int,
        output: torch.Tensor,
        inputs: StepInputs,
        changed: bool,
        branches: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        """What the scheduler is given.

        Args:
            forward: of the evaluation.
            evaluation: its index in the loop.
            output: the model's, after guidance; zeros where its call was skipped.
            inputs: what else the scheduler's step is given.
            changed: the output is not made of the same calls as the one before.
            branches: what the calls returned that the output is made of.
        """
        if not forward.skipping and inputs.noise != self._noise:
            self._heed_noise(run, inputs.noise)
            changed = True
        known = self._evaluated(run, evaluation, output, inputs)
        if not forward.skipping and not known.is_known:
            run.give_up(NO_SAMPLE)
        if run.observer is not None:
            run.observer.on_prediction(
                run.position.step, output if forward.skipping else known.value
            )
        if run.gave_up:
            return output
        if forward.skipping and not run.strategy.caches_prediction:
            forward.skipped(known.value)
            return output
        if forward.skipping:
            return known.predicted_by(forward)
        if changed:
            forward.restart()
        rounding = known.rounding_error(branches)
        corrected = forward.observe(known.value, known.origin, rounding)
        return output if corrected is known.value else known.output_of(corrected)

    def _evaluated(
        self, run: Run, evaluation: int, output: torch.Tensor, inputs: StepInputs
    ) -> Evaluated:
        conversion, values = UNCHANGED, self._sigmas.values
        if values is not None and values.can_denoise and run.sampler.adds_noise:
            conversion = values.denoised(evaluation)
        return Evaluated(conversion, inputs.sample, output)

    def _heed_noise(self, run: Run, noise: str) -> None:
        """A scheduler that was taken for deterministic is told to add noise from now on."""
        self._noise = noise
        if not noise or run.sampler.adds_noise:
            return
        name, values = run.sampler.name, self._sigmas.values
        if values is None or not values.can_denoise:
            run.give_up(f"the scheduler {name} adds noise here ({noise})")
        elif run.strategy.indicator == "plan":
            run.give_up(f"its plan is for {name} without noise, and it adds some ({noise})")
        run.sampler = with_noise(run.sampler)
