"""One denoising loop of diffusers: hooks on its transformers for as long as it lasts.

Pipelines call the transformer once for each branch of guidance, one call after the other, and
cannot be asked to repeat a step. The joint decision is therefore taken at the first call of a
step: where the indicator depends on the text, the first call peeks at the other branches of the
step before. It runs what lies before the blocks on their text and the present latent, and reads
their indicator. A branch that demands computing nevertheless (it is new, or its input is its own)
is computed alone, and the step after it is computed for every branch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook, StateManager
from torch import nn

from ...engine.blocks import BlockStack, outside_compiled_regions
from ...engine.decision import Decision
from ...engine.forward import ModelCall, WholeCall
from ...engine.indicators import TIMESTEP_READINGS
from ...engine.run import Run
from ...engine.timing import Mark
from ...families.registry import unwrap_compiled
from ...families.streams import AdapterFailed, reading
from ...report import Reason, RunReport
from .branches import (
    Branches,
    arguments_of,
    latent_name,
    layout_of,
    tensors_in,
    timestep_name,
    timestep_of,
)
from .noise_levels import Levels
from .outputs import OutputForm

KEY = "teacache"
GRADIENTS = "Gradients were on: those calls ran without the cache (wrap them in torch.no_grad())."

Forward = Callable[..., Any]
Answer = Callable[[nn.Module, Forward, str | None, tuple[Any, ...], dict[str, Any]], Any]
MakeRun = Callable[[nn.Module, tuple[int, ...]], Run]
"""(transformer, shape of its latent) -> the run of this loop."""


class _Context(StateManager):  # type: ignore[misc]
    """Hears the name of the branch from `cache_context`; holds no state of its own."""

    def __init__(self) -> None:
        super().__init__(None)
        self.name: str | None = None

    def set_context(self, context: Any) -> None:
        self.name = context if context is None or isinstance(context, str) else context.name

    def reset(self, *args: Any, **kwargs: Any) -> None:
        self.name = None


class CallHook(ModelHook):  # type: ignore[misc]
    """Hands each call of a transformer to `answer`, with its forward and its branch's name."""

    _is_stateful = True

    def __init__(self, answer: Answer, owner: Any) -> None:
        super().__init__()
        self.context = _Context()
        self.owner = owner
        self._answer = answer

    @outside_compiled_regions
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        forward = self.fn_ref.original_forward
        return self._answer(module, forward, self.context.name, args, kwargs)

    def reset_state(self, module: nn.Module) -> nn.Module:
        return module


def owner_of(transformer: nn.Module) -> Any:
    """Who `hooked` the transformer, None where nobody has."""
    module = unwrap_compiled(transformer)
    hook = HookRegistry.check_if_exists_or_initialize(module).get_hook(KEY)
    return None if hook is None else hook.owner


@contextmanager
def hooked(transformer: nn.Module, answer: Answer, owner: Any) -> Iterator[None]:
    """`transformer`'s calls go to `answer`; afterwards its forward is what it was."""
    module = unwrap_compiled(transformer)
    replaced = "forward" in vars(module)
    registry = HookRegistry.check_if_exists_or_initialize(module)
    registry.register_hook(CallHook(answer, owner), KEY)
    try:
        yield
    finally:
        registry.remove_hook(KEY, recurse=False)
        if not replaced and not registry.hooks:
            del module.forward


class DenoisingLoop:
    """One loop: its run, made at the first call, and what each step's calls were given.

    places: the transformers by name; those of one loop share a run and have tracks of their own.
    """

    def __init__(self, places: Mapping[str, nn.Module], levels: Levels, make_run: MakeRun) -> None:
        self.levels = levels
        self._places = places
        self._make_run = make_run
        self._run: Run | None = None
        self._gradients = False
        self._failure: AdapterFailed | None = None
        self._stacks: dict[str, BlockStack] = {}
        self._branches = Branches()
        self._forms: dict[Hashable, OutputForm] = {}
        self._whole: WholeCall | None = None
        """The evaluation whose prediction the scheduler is about to get."""
        self._timesteps: dict[float, torch.Tensor] = {}
        self._transformer: nn.Module = next(iter(places.values()))
        self._place = ""
        self._evaluations = 0
        self._decision: Decision | None = None
        self._calls: dict[Hashable, dict[str, Any]] = {}
        """What the calls of this evaluation were given, by branch; `_before`, of the last one."""
        self._before: dict[Hashable, dict[str, Any]] = {}
        self._answered: Mark | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The hooks are on the transformers."""
        with ExitStack() as stack:
            for place, transformer in self._places.items():
                stack.enter_context(hooked(transformer, self._answer_for(place), self))
            yield

    @contextmanager
    def steering(self, scheduler: Any) -> Iterator[None]:
        """`scheduler.step` gets its predictions from `step`; afterwards it is what it was."""
        original, replaced = scheduler.step, "step" in vars(scheduler)

        def step(model_output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            return original(self.step(model_output), *args, **kwargs)

        scheduler.step = step
        try:
            yield
        finally:
            if replaced:
                scheduler.step = original
            else:
                del scheduler.step

    def _answer_for(self, place: str) -> Answer:
        def answer(
            module: nn.Module,
            forward: Forward,
            context: str | None,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
        ) -> Any:
            return self.call(place, module, forward, context, arguments_of(module, args, kwargs))

        return answer

    def begins_evaluation(self, context: str | None, given: Mapping[str, Any]) -> bool:
        """Whether such a call would be the first one of another evaluation."""
        return self._decision is None or self._key(context, given) in self._calls

    def _key(self, context: str | None, given: Mapping[str, Any]) -> Hashable:
        return self._branches.key(context, given)

    def call(
        self,
        place: str,
        module: nn.Module,
        forward: Forward,
        context: str | None,
        given: dict[str, Any],
    ) -> Any:
        """One call of a transformer, computed or skipped."""
        if torch.is_grad_enabled() or self._failure is not None:
            self._gradients = self._gradients or self._failure is None
            return forward(**given)
        try:
            with reading():
                branch = self._key(context, given)
                timestep_name(given)
        except AdapterFailed as failure:
            self._failure = failure
            return forward(**given)
        if self._decision is None or branch in self._calls or place != self._place:
            self._begin(place, module, given)
        first = not self._calls
        self._calls[branch] = given
        self._answered = None
        run, decision = self._run, self._decision
        assert run is not None and decision is not None
        latent = given[latent_name(given)]
        if first and not run.gave_up and isinstance(latent, torch.Tensor):
            run.consider_latent(decision, latent)
        if run.method.whole and not run.gave_up:
            if first:
                self._whole = WholeCall(run, decision, "prediction", (place, layout_of(latent)))
            out = self._run_or_leave_out(run, decision, branch, given, forward)
            self._answered = run.mark()
            return out
        stack = self._prepare(place, module)
        if stack is not None and first and self._must_peek(run, decision):
            self._peek(run, decision, stack, branch, given, forward)
        if stack is None or run.gave_up:
            out = forward(**given)
        else:
            with stack.installed(ModelCall(run, decision, [branch], layout_of(given))):
                out = forward(**given)
        self._answered = run.mark()
        return out

    def _run_or_leave_out(
        self,
        run: Run,
        decision: Decision,
        branch: Hashable,
        given: dict[str, Any],
        forward: Forward,
    ) -> Any:
        """The transformer's output; on a skip something in its form, for `step` to replace."""
        form = self._forms.get(branch)
        if decision.skipping and form is not None:
            return form.empty()
        out = forward(**given)
        try:
            with reading():
                self._forms[branch] = OutputForm(out)
        except AdapterFailed as failure:
            run.give_up(failure)
            decision.demand(Reason.UNCACHED)
        return out

    def step(self, prediction: torch.Tensor) -> torch.Tensor:
        """What the scheduler steps along, given the `prediction` after guidance."""
        call, self._whole = self._whole, None
        if self._run is not None and self._run.observer is not None:
            self._run.observer.prediction(self._run.step, prediction)
        if call is None or self._run is None or self._run.gave_up:
            return prediction
        if call.skipping:
            return call.predict(prediction).clone()
        value = prediction.clone()  # pipelines and schedulers may go on in place
        corrected = call.observe(value)
        return prediction if corrected is value else corrected

    def _begin(self, place: str, module: nn.Module, given: dict[str, Any]) -> None:
        self.settle()
        latent = next(tensors_in(given[latent_name(given)]))
        if self._run is None:
            self._run = self._make_run(module, tuple(latent.shape))
        timestep = timestep_of(given)
        level, step = self.levels.at(self._evaluations, timestep)
        self._timesteps[level] = timestep
        self._run.begin_evaluation(level, latent.device, step)
        self._decision = self._run.decide(place, reconsiders=False)
        self._before = self._calls if place == self._place else {}
        self._calls = {}
        self._place, self._transformer = place, module
        self._evaluations += 1

    def settle(self) -> None:
        """The evaluation that has been answered is over."""
        if self._answered is not None and self._run is not None:
            self._run.end_evaluation(self._answered)
        self._answered = None
        self._decision = None

    def _prepare(self, place: str, module: nn.Module) -> BlockStack | None:
        """The block stack, ready to decide; None where the model runs without the cache."""
        run = self._run
        assert run is not None
        if run.gave_up:
            return None
        try:
            if place not in self._stacks:
                with reading():
                    leading = run.method.indicator == "first_block"
                    self._stacks[place] = BlockStack(
                        module, run.family.lists, run.family.sides, leading
                    )
            run.plan(self._embed, ahead=False)
        except AdapterFailed as failure:
            run.give_up(failure)
            return None
        return self._stacks[place]

    def _embed(self, levels: list[float]) -> torch.Tensor:
        run = self._run
        assert run is not None
        family = run.family
        projected = run.reading == "timestep_projection"
        embed = family.project_timesteps if projected else family.embed_timesteps
        assert embed is not None
        with reading():
            timesteps = torch.stack([self._timesteps[level] for level in levels]).float()
            return embed(self._transformer, timesteps)

    # --- the other branches of the step --------------------------------------------------------

    def _must_peek(self, run: Run, decision: Decision) -> bool:
        if run.method.indicator not in ("profile", "first_block") or not decision.measures:
            return False
        if run.reading in TIMESTEP_READINGS:
            return False
        return run.family.sees_text or run.reading != "modulated_input"

    def _peek(
        self,
        run: Run,
        decision: Decision,
        stack: BlockStack,
        branch: Hashable,
        given: dict[str, Any],
        forward: Forward,
    ) -> None:
        """Take the other branches of the step before into `decision`, at the present latent."""
        own = self._before.get(branch)
        if own is None:
            return
        latent, timestep = latent_name(given), timestep_name(given)
        for other, theirs in self._before.items():
            if other == branch or not decision.measures or run.gave_up:
                continue
            if theirs[latent] is not own[latent]:
                continue
            merged = {**theirs, latent: given[latent], timestep: given[timestep]}
            with stack.installed(
                ModelCall(run, decision, [other], layout_of(merged), peeking=True)
            ):
                forward(**merged)

    # --- the end ---------------------------------------------------------------------------------

    def finish(self, outcome: str) -> RunReport:
        """Free everything; the report, which is empty where the model was never called."""
        self.settle()
        run = self._run or self._make_run(self._transformer, ())
        if self._failure is not None:
            run.give_up(self._failure)
        if self._gradients:
            run.report.warn(GRADIENTS)
        self._run = None
        self._calls, self._before, self._whole = {}, {}, None
        self._stacks, self._timesteps, self._forms = {}, {}, {}
        self._branches = Branches()
        return run.finish(outcome)
