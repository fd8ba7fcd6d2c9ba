"""One trajectory by two samplers, with the cache on either, beside one run of all steps.

    python -m benchmarks.two_experts --write

The first sampler ends at a level above 0, and the second one goes on from its latent, as the two
experts of Wan 2.2 do in two KSampler (Advanced) nodes. Every way is measured against the uncached
picture of the same two models. No setting was chosen on these pairs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks import peers
from benchmarks.command import comfyui, options, parsed
from benchmarks.drawing import Drawing, draw
from benchmarks.grounds import Ground
from benchmarks.peers import Enable
from benchmarks.quality import decoded
from benchmarks.roughness import publish
from benchmarks.sampling import sample
from benchmarks.testbeds import COMFYUI, Pair, Testbed, load
from teacache.tables import markdown

RESULTS = Path(__file__).parent / "results" / "two_experts.md"
STEPS, SPLIT = 20, 10
SPEEDUPS = (1.25, 1.4, 1.7, 2.0)
PERTURBED = 0.02
"""Standard deviation of the noise on each weight of the other expert, in parts of that weight's."""


@dataclass(frozen=True)
class Experts:
    """Two models on one trajectory, whose latents are alike.

    Args:
        name: for the table.
        high, low: what samples the first and the second half.
    """

    name: str
    high: Testbed
    low: Testbed


def on_ground(model: str, guidance: float) -> Testbed:
    """A testbed at `STEPS`."""
    return load(model).on(Ground(model, STEPS, guidance))


def perturbed(testbed: Testbed) -> Testbed:
    """The same model with noise on its weights, in ComfyUI alone."""
    patcher = testbed.patcher.clone()
    generator = torch.Generator().manual_seed(18)
    for name, weight in testbed.patcher.model.diffusion_model.named_parameters():
        if weight.numel() > 1:
            noise = torch.randn(weight.shape, generator=generator) * (PERTURBED * weight.std())
            patcher.add_patches({f"diffusion_model.{name}": ("diff", (noise,))})
    return replace(testbed, patcher=patcher)


def photos() -> Experts:
    high, low = on_ground("photos", 4.0), on_ground("photos-distilled", 4.0)
    return Experts("photos, then photos-distilled", high, low)


def demo() -> Experts:
    high = on_ground("demo", 4.0)
    return Experts("demo, then demo with noise on its weights", high, perturbed(high))


def digits() -> Experts:
    high = on_ground("digits", 5.0)
    return Experts("digits, then digits with noise on its weights", high, perturbed(high))


EXPERTS: dict[str, Callable[[], Experts]] = {"photos": photos, "demo": demo, "digits": digits}


def draw_in_two(experts: Experts, enable: Enable, pair: Pair) -> Drawing:
    """Sample a pair in two runs that meet after `SPLIT` steps."""
    sigmas = experts.high.sigmas(STEPS)
    computed, latents = 0.0, None
    for testbed, levels in (
        (experts.high, sigmas[: SPLIT + 1]),
        (experts.low, sigmas[SPLIT:]),
    ):
        with enable(testbed) as model:
            made = sample(testbed, COMFYUI, model, [pair], levels, start=latents)
        computed, latents = computed + made.computed, made.latents
    assert latents is not None
    return Drawing(computed, decoded(experts.low, latents))


def ways() -> Iterator[tuple[str, Enable]]:
    """Names, and how the cache is enabled."""
    yield "default", peers.teacache_comfyui()
    yield "`fast`", peers.teacache_comfyui(rel_l1_thresh=None, preset="fast")
    for speedup in SPEEDUPS:
        preset = f"{speedup:g}x"
        yield f"`{preset}`", peers.teacache_comfyui(rel_l1_thresh=None, preset=preset)


def cell(drawings: Sequence[tuple[Drawing, Drawing]]) -> str:
    """Computed steps, and PSNR mean / worst to the uncached pictures.

    Args:
        drawings: cached and uncached.
    """
    computed = statistics.fmean(cached.computed for cached, _ in drawings)
    psnrs = [cached.psnr_to(uncached.frames) for cached, uncached in drawings]
    return f"{computed:.1f}: {statistics.fmean(psnrs):.1f} / {min(psnrs):.1f}"


def measure(experts: Experts, pairs: Sequence[Pair]) -> list[list[str]]:
    """A row for each way: two runs, and one run of the first model."""
    none = peers.uncached_comfyui
    in_two = [draw_in_two(experts, none, pair) for pair in pairs]
    in_one = [draw(experts.high, none, pair) for pair in pairs]
    rows = []
    for name, enable in ways():
        two = [draw_in_two(experts, enable, pair) for pair in pairs]
        one = [draw(experts.high, enable, pair) for pair in pairs]
        cells = [cell(list(zip(*both, strict=True))) for both in ((two, in_two), (one, in_one))]
        rows.append([name, *cells])
    return rows


def main() -> None:
    parser = options(__doc__, RESULTS, 8, list(EXPERTS))
    parser.add_argument(
        "--tuning", action="store_true", help="take the pairs to choose settings on"
    )
    args = parsed(parser)
    head = ["", f"{SPLIT} + {STEPS - SPLIT} steps", f"{STEPS} steps of the first model"]
    sections = []
    with comfyui(args):
        for model in args.models:
            experts = EXPERTS[model]()
            pairs = (experts.high.tuning_pairs if args.tuning else experts.high.test_pairs)(
                args.pairs
            )
            sections.append(f"## {experts.name}\n\n{markdown(head, measure(experts, pairs))}")
            print(f"{sections[-1]}\n", flush=True)
    page = (
        "# One trajectory by two samplers\n\n"
        f"`python -m benchmarks.two_experts --pairs {args.pairs} --write`: two models sample the "
        f"halves of {STEPS} Euler steps, each\nwith the cache, and the first model samples all of "
        "them. Computed steps: PSNR mean / worst in dB, against the uncached\npictures of the same "
        f"models, of {args.pairs} pairs; guidance 4, for digits 5. Noise on weights has "
        f"{100 * PERTURBED:g} % of their standard\ndeviation.\n\n" + "\n\n".join(sections) + "\n"
    )
    publish(page, RESULTS if args.write else None)


if __name__ == "__main__":
    main()
