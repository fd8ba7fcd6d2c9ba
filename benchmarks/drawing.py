"""One picture of a ground, cached or not, with the number of steps that were computed for it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from benchmarks.peers import Enable
from benchmarks.quality import MAX_PSNR, decoded
from benchmarks.sampling import sample
from benchmarks.testbeds import COMFYUI, Pair, Testbed
from teacache.comparison.metrics import psnr


@dataclass(frozen=True)
class Drawing:
    """A sampled picture or film.

    Args:
        computed: evaluations of the model in which its middle block ran.
        frames: [N, H, W, 3] in [0, 1].
    """

    computed: float
    frames: Tensor

    def psnr_to(self, reference: Tensor) -> float:
        """In dB, over all frames; at most `MAX_PSNR`, which identical frames have."""
        return min(psnr(self.frames, reference), MAX_PSNR)


def draw(
    testbed: Testbed, enable: Enable, pair: Pair, steps: int | None = None, host: str = COMFYUI
) -> Drawing:
    """Sample a pair as the testbed's ground says.

    Args:
        steps: in place of the ground's.
        host: `COMFYUI` or `DIFFUSERS`, for which `enable` is.
    """
    ground = testbed.ground
    sigmas = testbed.sigmas(steps or ground.steps)
    with enable(testbed) as model:
        made = sample(testbed, host, model, [pair], sigmas, sampler=(ground.sampler, {}))
    return Drawing(made.computed, decoded(testbed, made.latents))
