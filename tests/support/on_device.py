"""Tiny models on a device, for tests that run on the processor and, where there is one, on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

from benchmarks.gpu.building import build, sigmas_of
from benchmarks.gpu.models import TINY
from benchmarks.gpu.timing import host_of
from benchmarks.sampling import sample
from benchmarks.testbeds import COMFYUI, DIFFUSERS, Testbed
from teacache.report import RunReport

HOSTS = (COMFYUI, DIFFUSERS)
STEPS = 8
SKIP_SOME: dict[str, dict[str, Any]] = {
    "forecast": {"rel_l1_thresh": 90.0, "mode": "forecast", "max_skip": 2},
    "faithful": {
        "rel_l1_thresh": 90.0, "mode": "faithful", "max_skip": 2, "coefficients": (1e-6, 0.0),
    },
}  # fmt: skip
"""Settings that skip two steps of three, whatever the weights are."""
TYPES: dict[str, dict[str, Any]] = {
    "fp32": {"dtype": torch.float32},
    "bf16": {"dtype": torch.bfloat16},
    "fp16": {"dtype": torch.float16},
    "fp8": {"dtype": torch.bfloat16, "fp8": True},
}
"""Arguments of `build`. With fp8 the weights have 8 bits, and are computed with in bfloat16."""

each_device = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
)
each_host = pytest.mark.parametrize("host", HOSTS)
each_type = pytest.mark.parametrize("kind", TYPES)
each_mode = pytest.mark.parametrize("mode", SKIP_SOME)


def model_on(
    device: str, host: str, name: str = "flux1", kind: str = "fp32", **more: Any
) -> Testbed:
    """The tiny model `name`, its weights in the type `kind`."""
    return build(TINY[name], host, torch.device(device), **{**TYPES[kind], **more})


def sampled(testbed: Testbed, steps: int = STEPS) -> torch.Tensor:
    """The latent of one run without the cache, on the processor."""
    target = testbed.pipe if testbed.patcher is None else testbed.patcher
    return latent_of(testbed, target, steps)


def latent_of(testbed: Testbed, target: Any, steps: int = STEPS) -> torch.Tensor:
    """The latent that a patcher or pipeline samples, on the processor."""
    pairs, sigmas = testbed.test_pairs(1), sigmas_of(testbed, steps)
    return sample(testbed, host_of(testbed), target, pairs, sigmas).latents.cpu()


def sampled_with_cache(
    testbed: Testbed, steps: int = STEPS, **config: Any
) -> tuple[torch.Tensor, RunReport]:
    """The latent of one run with the cache, and its report."""
    with cache_on(testbed, **config) as (target, report_of):
        latent = latent_of(testbed, target, steps)
    report = report_of()
    assert report is not None
    return latent, report


@contextmanager
def cache_on(
    testbed: Testbed, **config: Any
) -> Iterator[tuple[Any, Callable[[], RunReport | None]]]:
    """The patcher or pipeline with the cache, and what gives the report of its last run."""
    from benchmarks.gpu.rows import ours

    with ours(**config)(testbed) as enabled:
        yield enabled


def pattern_of(report: RunReport) -> str:
    """`c` for each computed evaluation, `s` for each skipped one."""
    return "".join("s" if record.skipped else "c" for record in report.records)


def own_stream(device: str) -> AbstractContextManager[Any]:
    """Within it, work is queued in a new stream of the device, where it has streams."""
    if torch.device(device).type != "cuda":
        return nullcontext()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.default_stream(stream.device))  # which has made the weights
    return torch.cuda.stream(stream)


def run_out_of_memory(device: torch.device) -> None:
    """Ask for more memory than there is; on CUDA it is the allocator itself that fails."""
    if device.type == "cuda":
        torch.empty(1 << 50, dtype=torch.uint8, device=device)
    raise torch.OutOfMemoryError("out of memory")
