"""Random graphs of other packs' nodes with the cache at threshold 0 among them.

What is compared is the same graph without the cache: the latent, the previews, what is raised, the
random numbers used, and what is left on the model. The long mode is that of
test_hostile_property.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import foreign
import pytest
import torch
from foreign_conds import CONDS
from foreign_graphs import FAILURES, NODES, Calls, NodeError
from hostile import latent, live_objects, run, small_model, state_of
from hypothesis import event, given
from hypothesis import strategies as st
from random_runs import leaving_nothing, random_cases, same
from sampling import cached

pytestmark = [pytest.mark.usefixtures("comfy"), pytest.mark.slow]
SAMPLERS = ("euler", "heun", "dpmpp_2m", "euler_ancestral", "euler_cfg_pp", "dpm_adaptive", "lcm")
LEVELS = [1.0, 0.84, 0.7, 0.5, 0.3, 0.1, 0.0]
SCHEDULES = {
    "plain": LEVELS,
    "two steps": [1.0, 0.4, 0.0],
    "zeros behind": [*LEVELS, 0.0],
    "zeros in front": [0.0, *LEVELS],
    "equal behind": [*LEVELS[:-1], 0.1],
    "again": [*LEVELS[:-1], *LEVELS],
    "one level": [1.0],
    "no level": [],
}


@dataclass(frozen=True)
class NodeCase:
    """One node of the graph, as `foreign_graphs.Calls` describes it."""

    name: str
    fails_at: int | None
    kind: str
    scale: float


@dataclass(frozen=True)
class Graph:
    """One graph.

    Attributes:
        nodes: from the model on.
        place: how many of them stand before the cache.
        mode: the cache's.
        preview_fails_at: the call of the sampler's callback that raises.
    """

    nodes: tuple[NodeCase, ...]
    place: int
    mode: str
    sampler: str
    guider: str
    conds: str
    schedule: str
    batch: int
    mask: bool
    preview_fails_at: int | None

    def sampled(self, model: Any, with_cache: bool) -> tuple[Any, ...]:
        """The latent and the previews, or what was raised; the next random number."""
        from comfy.model_management import InterruptProcessingException as Interruption

        previews: list[torch.Tensor] = []
        torch.manual_seed(3)
        try:
            outcome: tuple[Any, ...] = (self._sample(model, with_cache, previews),)
        except (Exception, KeyboardInterrupt, Interruption) as error:
            words = re.sub(r"0x[0-9a-f]+", "0x", str(error))
            outcome = (type(error), words)
        return (*outcome, *previews, torch.rand(1))

    def _sample(self, model: Any, with_cache: bool, previews: list[torch.Tensor]) -> Any:
        import comfy.sample
        import comfy.samplers

        for place, node in enumerate(self.nodes):
            if with_cache and place == self.place:
                model, _ = cached(model, 0.0, mode=self.mode)
            calls = Calls(node.fails_at, node.kind, node.scale)
            model = NODES[node.name](model, calls)
        if with_cache and self.place == len(self.nodes):
            model, _ = cached(model, 0.0, mode=self.mode)
        guider = foreign.GUIDERS[self.guider](model, "sd3")
        guider.inner_set_conds({"positive": CONDS[self.conds](model)})
        if self.guider == "twofold":
            sampler = foreign.SAMPLER_OF_TWO()
        elif self.sampler in SAMPLERS:
            sampler = comfy.samplers.sampler_object(self.sampler)
        else:
            sampler = foreign.SAMPLERS[self.sampler]()
        mask = None
        if self.mask:
            mask = torch.zeros(1, 1, 4, 4)
            mask[..., 2:] = 1.0
        preview = Calls(self.preview_fails_at, "own", 1.0)

        def callback(step: int, denoised: torch.Tensor, x: torch.Tensor, total: int) -> None:
            preview()
            previews.extend((denoised.clone(), x.clone(), torch.tensor([step, total])))

        start = latent(self.batch) + 0.1
        with torch.inference_mode():
            return guider.sample(
                comfy.sample.prepare_noise(start, 1), start, sampler,
                torch.tensor(SCHEDULES[self.schedule]), denoise_mask=mask, callback=callback,
                disable_pbar=True, seed=4,
            )  # fmt: skip


node_cases = st.builds(
    NodeCase,
    name=st.sampled_from(sorted(NODES)),
    fails_at=st.one_of(st.none(), st.none(), st.none(), st.none(), st.integers(1, 12)),
    kind=st.sampled_from(FAILURES),
    scale=st.sampled_from((1.0, 0.97, 1.02)),
)


@st.composite
def graphs(draw: Any) -> Graph:
    nodes = tuple(draw(st.lists(node_cases, max_size=5)))
    return Graph(
        nodes=nodes,
        place=draw(st.integers(0, len(nodes))),
        mode=draw(st.sampled_from(("forecast", "faithful"))),
        sampler=draw(st.sampled_from((*SAMPLERS, *foreign.SAMPLERS))),
        guider=draw(st.sampled_from(("cfg", *foreign.GUIDERS))),
        conds=draw(st.sampled_from(("one", *CONDS))),
        schedule=draw(st.sampled_from(("plain", "plain", *SCHEDULES))),
        batch=draw(st.integers(1, 2)),
        mask=draw(st.sampled_from((False, False, True))),
        preview_fails_at=draw(st.sampled_from((None, None, None, 2))),
    )


def changed(model: Any, before: dict[str, Any]) -> set[str]:
    """The parts of `state_of(model)` that are not what they were, once it has sampled alone."""
    run(model, steps=1)
    after = state_of(model)
    weights, known = after.pop("weights"), before["weights"]
    parts = {part for part, value in after.items() if value != before[part]}
    return parts | {name for name in known if not torch.equal(weights[name], known[name])}


def alike(one: Any, other: Any) -> bool:
    """Whether two results are equal, tensors bit by bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return same(one, other)
    if isinstance(one, (tuple, list)) and type(one) is type(other):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


@random_cases(quick=12)
@given(graph=graphs())
def test_a_graph_with_the_cache_switched_off_is_the_graph_without_it(graph: Graph) -> None:
    results = []
    for with_cache in (False, True):
        model = small_model()
        run(model, steps=1)
        before = state_of(model)
        with leaving_nothing():
            outcome = graph.sampled(model, with_cache)
        results.append((outcome, changed(model, before)))
    (native, left), (off, left_by_off) = results
    event("raises" if isinstance(native[0], type) else "samples")
    assert alike(native, off), f"{native[:2]} without the cache, {off[:2]} with it"
    assert left == left_by_off


MAY_BE_IDLE = {
    "DIFFUSION_MODEL wrapper, 1", "DIFFUSION_MODEL wrapper, 2",
    "EasyCache", "LazyCache", "ModelSamplingSD3", "options",
}  # fmt: skip
"""SD3 calls no wrappers of DIFFUSION_MODEL, the caches skip nothing in so few steps, and the shift
moves only levels that are not given."""


def test_every_foreign_node_does_something() -> None:
    """Each node is reached: it changes the latent, or fails at its first call."""
    model = small_model()

    def sampled(*nodes: NodeCase) -> Any:
        rest = ("forecast", "euler", "cfg", "one", "plain", 1, True, None)
        return Graph(nodes, 0, *rest).sampled(model, with_cache=False)[0]

    native = sampled()
    idle = set()
    for name in NODES:
        got = sampled(NodeCase(name, None, "own", 0.9))
        if not isinstance(got, torch.Tensor) or same(got, native):
            failed = sampled(NodeCase(name, 1, "own", 0.9))
            if failed is not NodeError:
                idle.add(name)
    assert idle <= MAY_BE_IDLE


def test_nothing_is_left_of_fuzzed_graphs() -> None:
    assert live_objects() == []
