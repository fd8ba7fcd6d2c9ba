"""The calls of a transformer in one run of the sampler of ComfyUI-WanVideoWrapper.

The sampler calls the transformer for each context window and each branch of guidance, one call
after the other, and tells it the step. It cannot be asked to repeat one. The branches of a window
share a decision, which is taken at the first of their calls. A call's prediction is what is cached:
the guidance is computed from the predictions, whichever it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import comfy.model_management
import torch
from torch import nn

from ...engine.blocks import BlockStack
from ...engine.decision import Decision
from ...engine.device import Mark
from ...engine.forward import PredictionForward, StackForward, decide_by_error_rate
from ...engine.run import Run
from ...families.comfyui.wan_video import is_turned_round, leaves_out_an_end
from ...families.streams import FamilyMismatch, reading_model
from ..common import embed_timesteps, prepare_stack
from .parametrisation import DERIVATIVE
from .wan_video_schedulers import TIMESTEPS

PREDICTION = "prediction"
POSITIONAL = ("x", "t", "context", "seq_len")
"""The transformer's first arguments, which older versions of the sampler do not name."""
MOVING = ("current_step", "current_step_percentage", "last_step")
"""Arguments that change from step to step and do not tell branches apart."""
LAYER_GUIDANCE = "skip layer guidance leaves out the first or the last block"

Forward = Callable[..., Any]
RunFactory = Callable[[torch.Tensor], Run]
"""(latent of the first call, [channels, frames, height, width]) -> the run; raises `FamilyMismatch`
where the noise levels cannot be read."""


class Stretch(NamedTuple):
    """A part of the run in which an input of the sampler is in force.

    Args:
        start, end: shares of the steps, or steps.
        counted: whether they are steps.
    """

    start: float
    end: float
    counted: bool

    def holds(self, step: int, steps: int) -> bool:
        """Whether it is in force in `step`."""
        if self.counted:
            return self.start <= step < self.end
        return self.start <= step / steps <= self.end


def stretches_in(value: Any) -> Iterator[Stretch]:
    """All stretches in nested lists and mappings, as `start_percent` and `end_percent`."""
    if isinstance(value, Mapping):
        for key, start in value.items():
            if isinstance(key, str) and key.endswith(("start", "start_percent", "start_step")):
                before, _, after = key.rpartition("start")
                end = value.get(f"{before}end{after}")
                if isinstance(start, (int, float)) and isinstance(end, (int, float)):
                    yield Stretch(start, end, key.endswith("start_step"))
            yield from stretches_in(start)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from stretches_in(item)


class Windows:
    """Which context window the sampler is at, by its own number for it.

    Args:
        sampler: the object of the sampler node, whose tracker numbers the windows of a run.
    """

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self._tracker = self._current()
        """The one of an earlier run, which this run may leave unused."""
        self._window: int | None = None

    def now(self) -> int | None:
        """The number of the window, None in a run without windows.

        Raises:
            ValueError: the tracker has numbered several before it was seen.
        """
        tracker = self._current()
        if tracker is not self._tracker:
            self._tracker = tracker
            if len(tracker.window_map) != 1:
                raise ValueError("the context windows cannot be told apart")
            self._window = next(iter(tracker.window_map.values()))
            self._follow(tracker)
        return self._window

    def _current(self) -> Any:
        return vars(self._sampler).get("window_tracker")

    def _follow(self, tracker: Any) -> None:
        """Hear of each window that the sampler asks this run's tracker for."""
        number_of = tracker.get_window_id

        def get_window_id(frames: Any) -> Any:
            self._window = number_of(frames)
            return self._window

        tracker.get_window_id = get_window_id


class WanVideoCalls:
    """The transformer's calls in one run of the sampler, and the run of each of its loops.

    The sampler goes through the schedule once for each part of a long video, and a loop that
    begins again is another run.

    Args:
        transformer: the model.
        new_run: makes the run of a loop.
        keep: is given a run whose loop is over.
        windows: tells the context windows apart.
        stretches: the parts of the run in which the sampler's inputs are in force.
        reason: why the calls are computed without the cache; empty where they are not.
    """

    def __init__(
        self,
        transformer: nn.Module,
        new_run: RunFactory,
        keep: Callable[[Run], None],
        windows: Windows,
        stretches: tuple[Stretch, ...],
        reason: str,
    ) -> None:
        self.run: Run | None = None
        self.problem = ""
        """Why there is no run, where one could not be made."""
        self._transformer = transformer
        self._new_run = new_run
        self._keep = keep
        self._windows = windows
        self._stretches = stretches
        self._reason = reason
        self._stack: BlockStack | None = None
        self._step = -1
        self._beside = 0
        """How many outputs the transformer has beside the video; they are None."""
        self._decisions: dict[Hashable, Decision] = {}
        """Of this step, by context window."""
        self._calls: Counter[Hashable] = Counter()
        """Of this step: how often a branch of a window was called."""
        self._answered: Mark | None = None

    def forward(self, forward: Forward, *args: Any, **given: Any) -> Any:
        """One call of the transformer, computed or skipped.

        Args:
            forward: the transformer's own.
            args, given: as it is called. What the sampler asks of the model before its loop is
                not told a step.
        """
        if self.problem or "current_step" not in given:
            return forward(*args, **given)
        given |= dict(zip(POSITIONAL, args, strict=False))
        try:
            run = self._at_step(int(given["current_step"]), given)
        except FamilyMismatch as mismatch:
            self.problem = str(mismatch)
            return forward(**given)
        out = forward(**given) if run.gave_up else self._answer(run, forward, given)
        self._answered = run.mark()
        return out

    def end(self) -> None:
        """The last call of a step has been answered."""
        if self.run is not None and self._answered is not None:
            self.run.end_evaluation(self._answered)
        self._answered = None
        self._decisions, self._calls = {}, Counter()

    def _at_step(self, step: int, given: Mapping[str, Any]) -> Run:
        """The run, in whose evaluation of `step` a call belongs."""
        if self.run is not None and step == self._step:
            return self.run
        self.end()
        if self.run is not None and step < self._step:
            self._keep(self.run)
            self.run, self._stack = None, None
        latent = given["x"][0]
        if self.run is None:
            self.run = self._new_run(latent)
            if self._reason:
                self.run.give_up(self._reason)
        self._step, run = step, self.run
        schedule = run.position.schedule
        within = min(step, schedule.steps - 1)
        run.begin_evaluation(schedule.sigmas[within], latent.device, within)
        share = float(given["current_step_percentage"])
        if within != step or abs(share * schedule.steps - step) > 0.5:
            run.give_up("the sampler takes another number of steps than its scheduler names")
        return run

    def _answer(self, run: Run, forward: Forward, given: dict[str, Any]) -> Any:
        """The answer to a call of a run that has the cache."""
        try:
            with reading_model():
                window = self._windows.now()
                branch, layout = self._identify(window, run, given)
        except FamilyMismatch as mismatch:
            run.give_up(mismatch)
            return forward(**given)
        decision = self._decision(run, window)
        if not run.strategy.follows_prediction:
            return self._through_stack(run, decision, branch, layout, forward, given)
        followed = PredictionForward(run, decision, (PREDICTION, branch), layout)
        if run.strategy.caches_prediction:
            if followed.skipping:
                like = given["x"][0].new_empty(0, dtype=torch.float32)
                predicted = followed.predict(like)
                if predicted is not None:
                    comfy.model_management.throw_exception_if_processing_interrupted()
                    if run.sampler.adds_noise:
                        where = self._where(run, given, predicted)
                        predicted = DERIVATIVE.encode(*where, predicted)
                    return [predicted[0].clone()], *[None] * self._beside
            out = forward(**given)
        else:
            out = self._through_stack(run, decision, branch, layout, forward, given)
        return self._observed(run, given, followed, out)

    def _identify(
        self, window: int | None, run: Run, given: Mapping[str, Any]
    ) -> tuple[Hashable, Hashable]:
        """The branch of a call, and the layout of its inputs.

        A branch is named by `is_uncond`, its text and which inputs it has; the sampler holds the
        texts for as long as it runs. Calls that are named alike are told apart by their order.
        """
        texts = tuple(text.data_ptr() for text in given["context"])
        parts = frozenset(name for name, value in given.items() if value is not None)
        name = (bool(given["is_uncond"]), bool(given.get("reverse_time")), texts, parts)
        occurrence = self._calls[window, name]
        self._calls[window, name] += 1
        plain = tuple(
            (key, value)
            for key, value in given.items()
            if isinstance(value, (bool, int, float, str)) and key not in MOVING
        )
        tensors = [*given["x"], *(given.get("y") or ()), given["t"]]
        shapes = tuple((tuple(each.shape), each.dtype, str(each.device)) for each in tensors)
        steps = run.position.schedule.steps
        in_force = tuple(stretch.holds(self._step, steps) for stretch in self._stretches)
        return (name, occurrence), (plain, shapes, in_force)

    def _decision(self, run: Run, window: int | None) -> Decision:
        """The decision for the branches of a window in this step; its first call takes it for all
        that were called before."""
        known = self._decisions.get(window)
        if known is not None:
            return known
        decision = run.decide(("frames", window), can_repeat=False)
        self._decisions[window] = decision
        if run.strategy.indicator == "rate":
            for key, state in decision.state.branches.items():
                if isinstance(key, tuple) and key[0] == PREDICTION:
                    decide_by_error_rate(run, decision, state)
        return decision

    def _through_stack(
        self,
        run: Run,
        decision: Decision,
        branch: Hashable,
        layout: Hashable,
        forward: Forward,
        given: dict[str, Any],
    ) -> Any:
        """The transformer's output, with its block stack computed or skipped."""
        device = given["x"][0].device

        def embed(sigmas: list[float]) -> torch.Tensor:
            timesteps = torch.tensor(sigmas, device=device) * TIMESTEPS
            return embed_timesteps(run, self._transformer, timesteps)

        if leaves_out_an_end(self._transformer):
            run.give_up(LAYER_GUIDANCE)
        self._stack = prepare_stack(run, self._transformer, self._stack, embed, ahead=True)
        if self._stack is None:
            return forward(**given)
        with self._stack.installed(StackForward(run, decision, [branch], layout)):
            return forward(**given)

    def _observed(
        self, run: Run, given: Mapping[str, Any], followed: PredictionForward, out: Any
    ) -> Any:
        """`out` after what is to be cached of it was cached, corrected for the skips before it.

        Where the scheduler adds noise, that is the denoised latent: the prediction, which is a
        derivative, holds the noise that was added last.
        """
        origin = None
        try:
            with reading_model():
                value = _prediction_in(out)[None].clone()
                self._beside = len(out) - 1
                if run.sampler.adds_noise:
                    origin, sigma = self._where(run, given, value)
                    value = DERIVATIVE.decode(origin, sigma, value)
        except FamilyMismatch as mismatch:
            run.give_up(mismatch)
            return out
        if followed.skipping:
            followed.skipped(value)
            return out
        corrected = followed.observe(value, origin)
        return out if corrected is value else ([corrected[0]], *out[1:])

    def _where(
        self, run: Run, given: Mapping[str, Any], like: torch.Tensor
    ) -> tuple[torch.Tensor, float]:
        """The latent of a call and its noise level, as the derivative that the model gives has it.

        Args:
            like: of the shape of the prediction, [1, channels, frames, height, width]. Some models
                are given more channels, which come after those of the latent.

        Returns:
            The latent in the shape of `like`, and the level: less than 0 where the sampler goes on
            with the negative of what the model gives.

        Raises:
            TypeError: the prediction is not of the latent's size.
        """
        latent = given["x"][0][None, : like.shape[1]].float()
        if latent.shape != like.shape:
            raise TypeError("the prediction has not the size of the latent")
        sigma = run.position.sigma
        return latent, -sigma if is_turned_round(self._transformer) else sigma


def _prediction_in(out: Any) -> torch.Tensor:
    """The one video that a transformer's output holds, [channels, frames, height, width].

    Raises:
        TypeError: it holds more than that.
    """
    videos, *beside = out
    if len(videos) != 1 or any(value is not None for value in beside):
        raise TypeError("the model gives more than the prediction of one video")
    prediction: torch.Tensor = videos[0]
    return prediction
