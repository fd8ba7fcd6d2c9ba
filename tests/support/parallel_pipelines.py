"""Tiny pipelines in several processes, which share a transformer or have one each."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tiny_pipelines
import torch
from torch import distributed

WORLD = 2
NAME = "flux1_distilled"
EVEN_PROMPT = tiny_pipelines.noise(1, 1, 6, 16)
"""Its tokens can be split in two."""
TIMEOUT = datetime.timedelta(seconds=60)
"""After which a process that waits for the other one fails."""

Scenario = Callable[[int], dict[str, Any]]


def run(scenario: Scenario, folder: Path) -> list[dict[str, Any]]:
    """What `scenario` gives in each process, called with the process's rank.

    Raises:
        torch.multiprocessing.ProcessRaisedException: one of the processes failed.
    """
    (folder / "meeting").unlink(missing_ok=True)
    torch.multiprocessing.spawn(_process, (scenario, str(folder)), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


def _process(rank: int, scenario: Scenario, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=WORLD,
        timeout=TIMEOUT,
    )
    try:
        torch.save(scenario(rank), f"{folder}/{rank}.pt")
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def whole() -> Any:
    """A pipeline with a transformer of its own."""
    return tiny_pipelines.build(NAME)


def context_parallel() -> Any:
    """A pipeline whose tokens are split, by diffusers' own context parallelism."""
    from diffusers import ContextParallelConfig

    pipe = whole()
    with patch("torch.accelerator.device_count", return_value=1):  # 0 where there is only the CPU
        pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=WORLD))
    return pipe


def fully_sharded() -> Any:
    """A pipeline whose weights are split; each process makes a picture of its own."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    pipe = whole()
    mesh = init_device_mesh("cpu", (WORLD,))
    for block in tiny_pipelines.stack_blocks(pipe.transformer):
        fully_shard(block, mesh=mesh)
    fully_shard(pipe.transformer, mesh=mesh)
    return pipe


def generate(pipe: Any, **changes: Any) -> torch.Tensor:
    return tiny_pipelines.generate(pipe, NAME, **{"prompt_embeds": EVEN_PROMPT, **changes})


def sampled(
    pipe: Any, threshold: float, mode: str, cached: str = "auto", **changes: Any
) -> dict[str, Any]:
    """A cached run: its latents, report, and what this process read in each step alone."""
    from teacache.engine.parallel import Ranks
    from teacache.hosts.diffusers.enable import teacache

    own: list[tuple[float, float]] = []
    largest = Ranks.largest

    def spied(self: Ranks, values: Any) -> list[float]:
        reduced = largest(self, values)
        if len(reduced) > 1 and values[0] >= 0:
            own.append((values[0], reduced[0]))
        return reduced

    settings = {"mode": mode, "cached": cached}
    with teacache(pipe, threshold, **settings) as handle, patch.object(Ranks, "largest", spied):
        latents = generate(pipe, **changes)
    report = handle.report_for()
    assert report is not None
    return {
        "latents": latents,
        "skipped": [record.skipped for record in report.records],
        "decided": [record.distance is not None for record in report.records],
        "warnings": report.warnings,
        "read": own,
    }


def failing_once(where: Any, name: str, at: int) -> Any:
    """A context in which the `at`-th call of a method finds no memory left."""
    from teacache.engine.device import OUT_OF_MEMORY

    method, calls = getattr(where, name), []

    def fails(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            raise OUT_OF_MEMORY("no memory left")
        return method(*args, **kwargs)

    return patch.object(where, name, fails)


# --- scenarios ---------------------------------------------------------------------------------


def thresholds_between(rank: int, mode: str) -> dict[str, Any]:
    """Runs under thresholds between what the two processes read in the first step that decides."""
    pipe = context_parallel()
    native = generate(pipe)
    alone = sampled(pipe, 1e-12, mode)
    own, joint = alone["read"][0]
    both: list[Any] = [None] * WORLD
    distributed.all_gather_object(both, own)
    middle = sum(both) / len(both)
    return {
        "native": native,
        "one_process": generate(whole()),
        "first_read": both,
        "joint": joint,
        "middle": middle,
        "computed_all": alone,
        "at_middle": sampled(pipe, middle, mode, steps=9),
        "skip_all": sampled(pipe, 90.0, mode, steps=9),
    }


def thresholds_between_faithful(rank: int) -> dict[str, Any]:
    return thresholds_between(rank, "faithful")


def out_of_memory(rank: int, mode: str) -> dict[str, Any]:
    """Process 1 has no memory left, at one of the places where memory is taken."""
    from teacache.engine import forward
    from teacache.engine.run import Run

    places = {
        "faithful": [
            (forward.StackForward, "_measure", 3),
            (forward.StackForward, "_predict", 1),
            (forward, "cache_value", 1),
            (Run, "to_cache_device", 2),
        ],
        "forecast": [(forward, "cache_value", 2), (Run, "to_cache_device", 3)],
    }[mode]
    pipe = context_parallel()
    results: dict[str, Any] = {"native": generate(pipe, steps=9)}
    for where, name, at in places:
        with ExitStack() as stack:
            if rank == 1:
                stack.enter_context(failing_once(where, name, at))
            results[name] = sampled(pipe, 90.0, mode, steps=9)
    return results


def out_of_memory_faithful(rank: int) -> dict[str, Any]:
    return out_of_memory(rank, "faithful")


def out_of_memory_forecast(rank: int) -> dict[str, Any]:
    return out_of_memory(rank, "forecast")


def forecast(rank: int) -> dict[str, Any]:
    pipe = context_parallel()
    return {str(t): sampled(pipe, t, "forecast", steps=12) for t in (0.2, 1.0, 90.0)}


def data_parallel(rank: int) -> dict[str, Any]:
    """Each process has a transformer of its own, and another number of steps."""
    from teacache.hosts.diffusers.parallel import ranks_of

    pipe = whole()
    results = {
        mode: sampled(pipe, 90.0, mode, steps=6 + 3 * rank, seed=rank)
        for mode in ("faithful", "forecast")
    }
    return {**results, "apart": ranks_of([pipe.transformer], torch.device("cpu")) is None}


def sharded(rank: int) -> dict[str, Any]:
    """FSDP: the pictures differ, and all processes must call the same blocks."""
    pipe = fully_sharded()
    settings = {"mode": "forecast", "cached": "residual", "seed": rank, "steps": 9}
    first = sampled(pipe, 1e-12, **settings)
    both: list[Any] = [None] * WORLD
    distributed.all_gather_object(both, first["read"][0][0])
    return {
        "first_read": both,
        "at_middle": sampled(pipe, sum(both) / WORLD, **settings),
        "skip_all": sampled(pipe, 90.0, **settings),
        "forecast": sampled(pipe, 1.0, "forecast", seed=rank, steps=12),
    }
