"""One denoising loop of diffusers: hooks on its transformers for as long as it lasts.

Pipelines call the transformer once for each branch of guidance, one call after the other, and
cannot be asked to repeat a step. An evaluation lasts until the scheduler makes its step; where
the loop uses another scheduler, until a branch is called again at another timestep or with
another latent. All transformers of the family that are called in it belong to it; the time of
other networks counts as its own. Calls of one evaluation that equal each other in all that names a
branch are told apart by their order and by what stays the same (`equal_calls`); where those do not
agree, or an input was exchanged, the evaluation is computed. The joint decision is taken at the
first call of an evaluation. Where the indicator depends on the text, the first call also measures
the other branches of the evaluation before: it runs what lies before the blocks on their inputs and
the present latent, and reads their indicator. A branch that must be computed nevertheless (it is
new, or its input changed by itself) is computed alone, and the next evaluation computes every
branch.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ...engine.blocks import BlockStack
from ...engine.decision import Decision
from ...engine.device import Clock, Mark
from ...engine.forward import PredictionForward, StackForward
from ...engine.run import Run
from ...families.streams import FamilyMismatch, reading_model
from ...report import Reason, RunReport
from ..common import embed_timesteps, prepare_stack
from .branches import (
    Branches,
    arguments_of,
    latent_name,
    layout_of,
    strength_of,
    tensors_in,
    timestep_name,
    timestep_of,
)
from .calls import BranchKey, Call, EvaluationCalls
from .conversions import StepInputs, step_inputs
from .following import Follower
from .hooks import CallHandler, Forward, hooked
from .measuring import measure_other_branches, other_branches_count
from .outputs import OutputStructure
from .reads import TensorReads
from .schedulers import LoopSigmas

GRADIENTS = "Gradients were on: those calls ran without the cache (wrap them in torch.no_grad())."
PREDICTION = "prediction"
EXCESS = "the model was evaluated more often than the schedule has steps"
OUT_OF_ORDER = "the model is not evaluated once at each timestep of the schedule, in their order"

RunFactory = Callable[[nn.Module, tuple[int, ...], torch.device], Run]
"""(transformer, shape of its latent, empty where it was never called, and its device) -> the run of
this loop."""


class DenoisingLoop:
    """One loop: its run, made at the first call, and what each evaluation's calls were given.

    Args:
        transformers: by component name. Those of one loop share a run and its decisions.
        others: networks that are not cached, by name: their time counts.
        sigmas: the loop's noise levels.
        make_run: makes the run.
        text_arguments: as in `Family`.
    """

    def __init__(
        self,
        transformers: Mapping[str, nn.Module],
        others: Mapping[str, nn.Module],
        sigmas: LoopSigmas,
        make_run: RunFactory,
        text_arguments: tuple[str, ...] = (),
    ) -> None:
        self.sigmas = sigmas
        self._follower = Follower(sigmas)
        self._transformers = transformers
        self._others = others
        self._make_run = make_run
        self._run: Run | None = None
        self._saw_gradients = False
        self._mismatch: FamilyMismatch | None = None
        self._stacks: dict[str, BlockStack | None] = {}
        self.reads = TensorReads()
        self._branches = Branches(self.reads, text_arguments)
        self._calls = EvaluationCalls(self.reads)
        self._output_structures: dict[Hashable, OutputStructure] = {}
        self._outputs: list[torch.Tensor] = []
        """What the calls of this evaluation returned, where it is computed."""
        self._prediction: PredictionForward | None = None
        """The evaluation whose prediction the scheduler is about to receive."""
        self._timesteps: dict[float, torch.Tensor] = {}
        self._evaluations = 0
        self._stepped: bool | None = None
        """Whether the scheduler has made a step since the last call; None before its first one."""
        self._timestep: torch.Tensor | None = None
        self._decision: Decision | None = None
        self._recompute = False
        """Whether this evaluation showed that the next one must be computed."""
        self._other_calls: Counter[Hashable] = Counter()
        """Calls of other networks since the scheduler's last step, with how strongly they count."""
        self._predicted_from: object = None
        """The calls that the last prediction was made of."""
        self._started: tuple[torch.device, Mark] | None = None
        """When another network was called that belongs to the next evaluation."""
        self._answered: Mark | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Calls of the transformers in this thread go to this loop."""
        thread = threading.get_ident()
        with ExitStack() as stack:
            for component, transformer in self._transformers.items():
                handler = self._handler_for(component)
                stack.enter_context(hooked(transformer, handler, self, thread))
            for name, module in self._others.items():
                stack.enter_context(hooked(module, self._timer_for(name), self, thread))
            yield

    @contextmanager
    def replacing_step(self, scheduler: Any) -> Iterator[None]:
        """`scheduler.step` gets its predictions from this loop; afterwards it is what it was.

        An object that passes its attributes on to another one is left alone: what was set could
        not be taken off again. Evaluations are then told apart by what the model is called with.
        """
        setting: Any = type(scheduler).__setattr__
        if setting is not object.__setattr__:
            yield
            return
        original, replaced = scheduler.step, "step" in vars(scheduler)

        def step(model_output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            inputs = step_inputs(scheduler, model_output, args, kwargs)
            return original(self.step(model_output, inputs), *args, **kwargs)

        scheduler.step = step
        try:
            yield
        finally:
            if replaced:
                scheduler.step = original
            else:
                del scheduler.step

    def _handler_for(self, component: str) -> CallHandler:
        def handle(
            module: nn.Module,
            forward: Forward,
            name: str | None,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
        ) -> Any:
            return self.call(component, module, forward, name, arguments_of(module, args, kwargs))

        return handle

    def _timer_for(self, name: str) -> CallHandler:
        def handle(
            module: nn.Module,
            forward: Forward,
            branch: str | None,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
        ) -> Any:
            if self._started is None and (self._decision is None or self._stepped):
                given = next(tensors_in([args, kwargs]), None)
                if given is not None:
                    self._started = given.device, Clock(given.device).mark()
            out = forward(*args, **kwargs)
            self._other_calls[name, strength_of(kwargs)] += 1
            if self._started is None:
                self._mark_answer()
            return out

        return handle

    def begins_evaluation(self, component: str, name: str | None, given: Mapping[str, Any]) -> bool:
        """Whether such a call would be the first one of another evaluation."""
        return self._begins(component, self._branches.key(name, given), given)

    def _begins(self, component: str, branch: Hashable, given: Mapping[str, Any]) -> bool:
        if self._decision is None or self._stepped:
            return True
        known = self._calls.first_of(component, branch)
        if known is None and (self._stepped is not None or self._calls.has_called(component)):
            return False
        assert self._timestep is not None
        if not self.reads.equal(timestep_of(given), self._timestep):
            return True
        if known is None or self._stepped is not None:
            return False
        latents = [list(tensors_in(call[latent_name(call)])) for call in (given, known.given)]
        return not self.reads.all_equal(*latents)

    def call(
        self,
        component: str,
        module: nn.Module,
        forward: Forward,
        name: str | None,
        given: dict[str, Any],
    ) -> Any:
        """One call of a transformer, computed or skipped.

        Args:
            component, module, forward, given: as in `Call`.
            name: of the branch, as the pipeline calls it.
        """
        if torch.is_grad_enabled() or self._mismatch is not None:
            self._saw_gradients = self._saw_gradients or self._mismatch is None
            return forward(**given)
        try:
            with reading_model():
                alike = self._branches.key(name, given)
                timestep_of(given)
        except FamilyMismatch as mismatch:
            self._mismatch = mismatch
            return forward(**given)
        if self._begins(component, alike, given):
            self._begin(module, given)
        call = Call(component, module, forward, given)
        first = not self._calls.made
        self._answered = None
        run, decision = self._run, self._decision
        assert run is not None and decision is not None
        branch = self._identify(alike, call, run, decision)
        latent = given[latent_name(given)]
        if run.strategy.follows_prediction and first and not run.gave_up:
            layout = (component, layout_of(latent), frozenset(self._other_calls))
            self._prediction = PredictionForward(run, decision, PREDICTION, layout)
        if run.strategy.caches_prediction and not run.gave_up:
            out = self._computed_or_zeros(run, decision, branch, call)
        else:
            out = self._through_stack(run, decision, branch, call, first)
        if self._prediction is not None and not self._prediction.skipping:
            self._outputs += tensors_in(out)
        self._mark_answer()
        run.reader.count += self.reads.take()
        return out

    def _identify(self, name: Hashable, call: Call, run: Run, decision: Decision) -> BranchKey:
        """The branch of `call`; where that is not certain, the evaluation is computed."""
        first = not self._calls.made
        branch, place = self._calls.add(name, call)
        uncertain = place.changed or place.reordered
        branches = decision.state.branches
        if first and self._recompute:
            self._recompute, uncertain = False, True
        if run.strategy.caches_prediction:
            if uncertain and first:
                branches.pop(PREDICTION, None)
            self._recompute = self._recompute or (uncertain and not first)
        elif uncertain:
            if place.changed:
                branches.pop(branch, None)
            decision.require_compute(Reason.MISMATCH)
        return branch

    def _through_stack(
        self, run: Run, decision: Decision, branch: BranchKey, call: Call, first: bool
    ) -> Any:
        """The transformer's output, with its block stack computed or skipped."""
        stack = prepare_stack(
            run,
            call.module,
            self._stacks.get(call.component),
            lambda sigmas: self._embed(run, call.module, sigmas),
            ahead=False,
        )
        self._stacks[call.component] = stack
        if stack is not None and first and other_branches_count(run, decision):
            before = self._calls.before
            measure_other_branches(run, decision, before, self._stacks, branch, call)
        if stack is None or run.gave_up:
            return call.forward(**call.given)
        with stack.installed(StackForward(run, decision, [branch], layout_of(call.given))):
            return call.forward(**call.given)

    def _computed_or_zeros(
        self, run: Run, decision: Decision, branch: BranchKey, call: Call
    ) -> Any:
        """The transformer's output; on a skip zeros in its structure, which `step` replaces."""
        structure = self._output_structures.get(branch)
        if decision.skipping and structure is not None:
            return structure.zeros()
        out = call.forward(**call.given)
        try:
            with reading_model():
                self._output_structures[branch] = OutputStructure(out)
        except FamilyMismatch as mismatch:
            run.give_up(mismatch)
            decision.require_compute(Reason.UNCACHED)
        return out

    def _mark_answer(self) -> None:
        """The evaluation has lasted until now, if there is one."""
        if self._decision is not None and self._run is not None:
            self._answered = self._run.mark()

    def step(self, prediction: torch.Tensor, inputs: StepInputs) -> torch.Tensor:
        """What the scheduler follows, given the `prediction` after guidance."""
        followed = self._followed(prediction, inputs)
        if not self._stepped:
            self._mark_answer()
        self._stepped = True
        return followed

    def _followed(self, prediction: torch.Tensor, inputs: StepInputs) -> torch.Tensor:
        forward, self._prediction = self._prediction, None
        outputs, self._outputs = self._outputs, []
        run, evaluation = self._run, self._evaluations - 1
        if run is None:
            return prediction
        if forward is None or run.gave_up:
            self._follower.show(run, evaluation, prediction, inputs)
            return prediction
        made_of = (frozenset(self._calls.made), self._other_calls)
        changed = self._predicted_from not in (None, made_of) or self._recompute
        self._predicted_from, self._other_calls = made_of, Counter()
        self._recompute = changed and forward.skipping
        return self._follower.follow(run, forward, evaluation, prediction, inputs, changed, outputs)

    def _begin(self, module: nn.Module, given: dict[str, Any]) -> None:
        self.end_evaluation()
        latent = next(tensors_in(given[latent_name(given)]))
        timestep = timestep_of(given)
        in_order = self.sigmas.follow(self._evaluations, given[timestep_name(given)], self.reads)
        if self._run is None:
            self._run = self._make_run(module, tuple(latent.shape), latent.device)
        sigma, step = self.sigmas.at(self._evaluations, timestep, self.reads)
        self._timesteps[sigma] = timestep
        device, start = self._started or (latent.device, None)
        self._started = None
        self._run.begin_evaluation(
            sigma, latent.device, step, start if device == latent.device else None
        )
        if self._evaluations >= self.sigmas.evaluations:
            self._run.give_up(EXCESS)
        elif not in_order:
            self._run.give_up(OUT_OF_ORDER)
        self._decision = self._run.decide("evaluation", can_repeat=False)
        if not self._run.strategy.caches_prediction:
            self._recompute = self._calls.numbers_changed
        self._calls.begin_evaluation()
        self._outputs = []
        self._timestep = timestep
        self._stepped = None if self._stepped is None else False
        self._evaluations += 1

    def end_evaluation(self) -> None:
        """The evaluation is over, if one has been answered."""
        if self._answered is not None and self._run is not None:
            self._run.end_evaluation(self._answered)
        self._answered = None
        self._decision = None

    def _embed(self, run: Run, module: nn.Module, sigmas: list[float]) -> torch.Tensor:
        with reading_model():
            timesteps = torch.stack([self._timesteps[sigma] for sigma in sigmas]).float()
        return embed_timesteps(run, module, timesteps)

    # --- the end ---------------------------------------------------------------------------------

    def finish(self, outcome: str) -> RunReport:
        """Free everything.

        Args:
            outcome: as in `Run.finish`.

        Returns:
            The report, without records where the model was never called.
        """
        self.end_evaluation()
        run = self._run or self._make_run(
            next(iter(self._transformers.values())), (), torch.device("cpu")
        )
        if self._mismatch is not None:
            run.give_up(self._mismatch)
        if self._saw_gradients:
            run.report.warn(GRADIENTS)
        run.report.sigmas = list(self.sigmas.sigmas)  # a loop of the user's own tells them late
        self._run = None
        self._calls, self._prediction = EvaluationCalls(self.reads), None
        self._outputs = []
        self._stacks, self._timesteps, self._output_structures = {}, {}, {}
        self._branches = Branches(self.reads)
        return run.finish(outcome)
