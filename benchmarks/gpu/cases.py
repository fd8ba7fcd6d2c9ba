"""Which rows are measured, in the order of their importance, and how long each may take."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.gpu.models import ModelSize
from benchmarks.gpu.timing import WARM_UP_STEPS
from benchmarks.gpu.weights import FP8
from benchmarks.testbeds import COMFYUI, DIFFUSERS

BOTH = (COMFYUI, DIFFUSERS)
ACTIVATIONS = 24
"""Tensors of the size of the image's tokens, times the branches, that a step needs at most beside
the weights: with an eager feed-forward layer of four times the width, about 20."""
GIGABYTE = 1e9


@dataclass(frozen=True)
class Case:
    """One row of the journal.

    Args:
        model: name in `benchmarks.gpu.models`.
        host: `COMFYUI` or `DIFFUSERS`.
        kind: of `benchmarks.gpu.rows.KINDS`.
    """

    model: str
    host: str
    kind: str

    @property
    def name(self) -> str:
        return f"{self.model} / {self.host} / {self.kind}"

    @property
    def fp8(self) -> bool:
        """Whether the weights are in 8 bits."""
        return self.kind == "fp8"

    @property
    def built_as(self) -> tuple[str, str, bool]:
        """Rows that agree in this share a model in memory; compiled blocks are shared by none."""
        return self.model, self.host, self.fp8

    def expected_seconds(self, size: ModelSize, steps: int, repeats: int) -> float:
        """A guess for a large accelerator, the model already built.

        Args:
            steps, repeats: of the runs.
        """
        runs, more = COSTS[self.kind]
        evaluations = runs * (steps * repeats + WARM_UP_STEPS)
        return more + evaluations * size.step_seconds


COSTS: dict[str, tuple[float, float]] = {
    "steps": (2.0, 1.0),
    "fp8": (2.0, 1.0),
    "reads": (1.0, 1.0),
    "peers": (2.4, 1.0),
    "offload": (3.0, 1.0),
    "compile": (5.0, 60.0),
}
"""For each kind, how many uncached runs its own amount to in each repeat, and further seconds."""
BUILDING = 6.0
"""Seconds to build a model on its device."""


def _cases(model: str, *kinds: str, hosts: tuple[str, ...] = BOTH) -> list[Case]:
    return [Case(model, host, kind) for host in hosts for kind in kinds]


CASES: tuple[Case, ...] = (
    *_cases("flux1", "steps", "reads"),
    *_cases("flux1", "offload", hosts=(COMFYUI,)),
    *_cases("flux1", "peers"),
    *_cases("sdxl", "steps", hosts=(COMFYUI,)),
    *_cases("qwen_image", "steps", hosts=(COMFYUI,)),
    *_cases("wan21-1.3b", "steps", hosts=(COMFYUI,)),
    *_cases("flux1", "fp8", hosts=(COMFYUI,)),
    *_cases("wan21-14b", "steps", hosts=(COMFYUI,)),
    *_cases("flux1", "compile", hosts=(COMFYUI,)),
    *_cases("qwen_image", "steps", "reads", hosts=(DIFFUSERS,)),
    *_cases("wan21-1.3b", "reads", hosts=(COMFYUI,)),
    *_cases("flux1", "fp8", "offload", "compile", hosts=(DIFFUSERS,)),
    *_cases("sdxl", "steps", "reads", hosts=(DIFFUSERS,)),
    *_cases("wan21-1.3b", "steps", "reads", hosts=(DIFFUSERS,)),
    *_cases("sdxl", "reads", "peers", "fp8", hosts=(COMFYUI,)),
    *_cases("qwen_image", "reads", "peers", "offload", "fp8", hosts=(COMFYUI,)),
    *_cases("qwen_image", "peers", hosts=(DIFFUSERS,)),
    *_cases("wan21-14b", "offload", "fp8", hosts=(COMFYUI,)),
    *_cases("wan21-14b", "steps", hosts=(DIFFUSERS,)),
)
"""What is asked most comes first, and the largest model last among equals."""


def needed_bytes(size: ModelSize, fp8: bool) -> float:
    """Memory that a model needs on its device: weights, and what a step makes of them."""
    weight = FP8.itemsize if fp8 else 2
    rows = 1 if size.distilled else 2
    return size.parameters * weight + ACTIVATIONS * rows * size.tokens * size.width * 2.0


def why_not(size: ModelSize, fp8: bool, available: float) -> str:
    """Why a model is left out on a device with so many bytes; empty where it fits."""
    needed = needed_bytes(size, fp8)
    if needed <= available:
        return ""
    return (
        f"needs about {needed / GIGABYTE:.0f} GB of memory, and the device has "
        f"{available / GIGABYTE:.0f} GB"
    )
