"""What is measured of a model on a device; each function returns what the journal holds of it."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch._dynamo.utils import counters

from benchmarks import peers
from benchmarks.gpu.building import denoiser_of
from benchmarks.gpu.models import ModelSize
from benchmarks.gpu.reads import EvaluationReads, Forbidden, Waits, reads_of_evaluations, waits_of
from benchmarks.gpu.timing import (
    Enabled,
    Steps,
    Way,
    device_of,
    figures,
    host_of,
    measure,
    plain,
    run,
)
from benchmarks.testbeds import COMFYUI, Testbed
from teacache.config import TeaCacheConfig
from teacache.engine.device import SigmaReader

Row = dict[str, Any]
UNCACHED, FORECAST, RESIDUAL = "no cache", "forecast", "residual"
PATTERN = {"rel_l1_thresh": 90.0, "max_skip": 2}
"""At most two steps in a row are skipped, and all that may be: random weights tell nothing of which
ones, and there are skips and computed steps to time."""
CONFIGS: dict[str, dict[str, Any]] = {
    FORECAST: {"mode": "forecast", **PATTERN},
    RESIDUAL: {"mode": "faithful", "coefficients": (1e-6, 0.0), **PATTERN},
}
EASY_THRESHOLD, BLOCK_THRESHOLD, SEA_THRESHOLD = 3.0, 10.0, 100.0
"""With which the others skip all that they may."""


@dataclass(frozen=True)
class Plan:
    """How much is sampled for a row.

    Args:
        steps, repeats: of each run, and runs of each way to sample.
        backend: of torch.compile.
    """

    steps: int
    repeats: int
    backend: str


def ours(**config: Any) -> Way:
    """Our cache with these settings."""

    @contextmanager
    def enable(testbed: Testbed) -> Iterator[Enabled]:
        if testbed.patcher is not None:
            from teacache.hosts.comfyui.patch import apply_teacache

            target, cached = apply_teacache(testbed.patcher, TeaCacheConfig(**config))
            assert cached is not None
            yield target, cached.report_for
            return
        from teacache.hosts.diffusers.enable import teacache

        with teacache(testbed.pipe, **config) as handle:
            yield testbed.pipe, handle.report_for

    return enable


def other(enable: peers.Enable) -> Way:
    """A cache of `benchmarks.peers`."""

    @contextmanager
    def enabled(testbed: Testbed) -> Iterator[Enabled]:
        with enable(testbed) as target:
            yield target, lambda: None

    return enabled


def our_ways(size: ModelSize, **more: Any) -> dict[str, Way]:
    """Our cache in each of the ways that the model allows."""
    return {
        name: ours(**config, **more)
        for name, config in CONFIGS.items()
        if name == FORECAST or size.has_blocks
    }


def steps_row(testbed: Testbed, size: ModelSize, plan: Plan) -> Row:
    """A full step, a forecast skip, a residual skip, the decision, memory and gain."""
    ways = {UNCACHED: plain, **our_ways(size)}
    return {"ways": figures(measure(testbed, ways, plan.steps, plan.repeats), UNCACHED)}


def peers_row(testbed: Testbed, size: ModelSize, plan: Plan) -> Row:
    """The same of our forecast beside the caches of the host itself."""
    if host_of(testbed) == COMFYUI:
        named = {"EasyCache": peers.easycache(EASY_THRESHOLD)}
    else:
        named = {
            "FirstBlockCache": peers.first_block_cache(BLOCK_THRESHOLD),
            "SeaCache": peers.seacache(SEA_THRESHOLD),
        }
    ways = {UNCACHED: plain, FORECAST: ours(**CONFIGS[FORECAST])}
    ways |= {name: other(enable) for name, enable in named.items()}
    return {"ways": figures(measure(testbed, ways, plan.steps, plan.repeats), UNCACHED)}


def offload_row(testbed: Testbed, size: ModelSize, plan: Plan) -> Row:
    """What is cached beside the model, and in pinned main memory."""
    ways: dict[str, Way] = {UNCACHED: plain}
    for place in ("device", "cpu"):
        made = our_ways(size, cache_device=place)
        ways |= {f"{name}, cache_device={place}": way for name, way in made.items()}
    row = figures(measure(testbed, ways, plan.steps, plan.repeats), UNCACHED)
    return {"ways": row, "pinned": _can_pin(device_of(testbed))}


def _can_pin(device: torch.device) -> bool:
    return device.type == "cuda" and torch.empty(1, pin_memory=True).is_pinned()


def compile_row(testbed: Testbed, size: ModelSize, plan: Plan) -> Row:
    """Before and after the blocks are compiled, one by one, as both hosts offer it."""
    before = measure(testbed, {UNCACHED: plain, **our_ways(size)}, plan.steps, plan.repeats)
    torch._dynamo.reset()
    counters.clear()
    testbed = _compiled(testbed, size, plan.backend)
    ways = {UNCACHED: plain, **our_ways(size)}
    started = time.perf_counter()
    for way in ways.values():
        with way(testbed) as enabled:
            run(testbed, enabled, plan.steps, compiled=True)
    spent, made = time.perf_counter() - started, counters["stats"]["unique_graphs"]
    after = measure(testbed, ways, plan.steps, plan.repeats, compiled=list(ways))
    again = counters["stats"]["unique_graphs"] - made
    torch._dynamo.reset()
    return {
        "ways": {
            **figures(before, UNCACHED),
            **{f"{name}, compiled": row for name, row in figures(after, UNCACHED).items()},
        },
        "backend": plan.backend,
        "first_runs": spent,
        "graphs": made,
        "compiled_again": again,
    }


def _compiled(testbed: Testbed, size: ModelSize, backend: str) -> Testbed:
    """The testbed with compiled blocks; in diffusers they stay so.

    The layer whose calls are counted is one behind the blocks: a hook within a block that is
    compiled would make it be compiled anew at each call.
    """
    host, denoiser = host_of(testbed), denoiser_of(testbed)
    testbed = replace(testbed, middle_layers={host: denoiser.get_submodule(size.hosts[host].last)})
    if testbed.patcher is None:
        testbed.pipe.transformer.compile_repeated_blocks(backend=backend)
        return testbed
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    clone = testbed.patcher.clone()
    paths = size.hosts[COMFYUI].blocks
    keys = [
        f"diffusion_model.{path}.{index}"
        for path in paths
        for index in range(len(list(denoiser.get_submodule(path).children())))
    ]
    set_torch_compile_wrapper(clone, backend, keys=keys)
    return replace(testbed, patcher=clone)


def reads_row(testbed: Testbed, size: ModelSize, plan: Plan) -> Row:
    """Who makes the host wait for the device in each evaluation.

    Where a forecast skips after a skip nothing must, and in ComfyUI no skip whose indicator follows
    from the noise level alone: the whole schedule is read with the first step.
    """
    device, found = device_of(testbed), {}
    with ExitStack() as stack:
        if device.type == "cpu":  # as where reading takes time
            slow = staticmethod(lambda timestep: False)
            stack.enter_context(patch.object(SigmaReader, "is_cheap", slow))
        for name, way in our_ways(size).items():
            found[name] = _reads_of(testbed, way, plan, device, name, size)
    return {"reads": found}


def _reads_of(
    testbed: Testbed, way: Way, plan: Plan, device: torch.device, name: str, size: ModelSize
) -> Row:
    noted = reads_of_evaluations(device)
    made = _watched(testbed, way, plan, noted)
    assert made.report is not None
    skipped = [record.skipped for record in made.report.records]
    quiet = _promised_quiet(skipped, name, size, host_of(testbed))

    def spy(evaluation: int) -> Waits:
        return Forbidden(device) if evaluation in quiet else waits_of(device)

    broken = ""
    try:
        again = _watched(testbed, way, plan, EvaluationReads(spy))
        assert again.report is not None
        if [record.skipped for record in again.report.records] != skipped:
            broken = "the second run skipped other steps"
    except RuntimeError as error:
        broken = f"{error} ({_place_of(error)})"
    kinds = {"computed": [0, 0], "skipped": [0, 0]}
    for seen, skip in zip(noted.evaluations, skipped, strict=True):
        counts = kinds["skipped" if skip else "computed"]
        counts[0] += 1
        counts[1] += seen.total()
    return {
        "waits": [seen.total() for seen in noted.evaluations],
        "places": dict(_by_place(noted.seen)),
        "counted": noted.counted,
        "pattern": "".join("s" if skip else "c" for skip in skipped),
        "per_computed": kinds["computed"][1] / max(kinds["computed"][0], 1),
        "per_skipped": kinds["skipped"][1] / max(kinds["skipped"][0], 1),
        "promised_none": sorted(quiet),
        "broken": broken,
    }


def _watched(testbed: Testbed, way: Way, plan: Plan, reads: EvaluationReads) -> Steps:
    with way(testbed) as enabled, reads.watching():
        return run(testbed, enabled, plan.steps)


def _promised_quiet(skipped: list[bool], name: str, size: ModelSize, host: str) -> set[int]:
    """Evaluations in which the host must not wait."""
    skips = {i for i in range(1, len(skipped)) if skipped[i]}
    if name == FORECAST:
        return {i for i in skips if skipped[i - 1]}
    return set() if size.reads_input or host != COMFYUI else skips


def _place_of(error: BaseException) -> str:
    """The module and line that raised an error."""
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    return f"{frame.f_globals.get('__name__', '')} line {line}"


def _by_place(seen: Counter[str]) -> Iterator[tuple[str, int]]:
    """The waits by place, the folders above a package left out."""
    for place, count in seen.most_common():
        path, _, rest = place.replace("\\", "/").rpartition("/")
        yield f"{path.rpartition('/')[2]}/{rest}" if path else rest, count


KINDS: Mapping[str, Callable[[Testbed, ModelSize, Plan], Row]] = {
    "steps": steps_row,
    "fp8": steps_row,
    "reads": reads_row,
    "peers": peers_row,
    "offload": offload_row,
    "compile": compile_row,
}
"""By kind of row. `fp8` is `steps` of a model with weights in 8 bits."""
