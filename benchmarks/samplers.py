"""Every sampler, and every kind of guidance: what the cache skips, and what it changes.

    python -m benchmarks.samplers --write

Each row is sampled with and without the cache in its default setting, from the same seed. Samplers
of other packs are stood in for by `benchmarks.foreign`. No setting was chosen on these pairs.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import foreign
from benchmarks.command import comfyui, options, parsed
from benchmarks.grounds import Ground
from benchmarks.guidances import Guidance, by_node, guidances
from benchmarks.quality import decoded
from benchmarks.roughness import publish
from benchmarks.testbeds import Pair, Testbed, load
from teacache.comparison.metrics import psnr
from teacache.config import TeaCacheConfig
from teacache.report import RunReport
from teacache.tables import markdown

RESULTS = Path(__file__).parent / "results" / "samplers.md"
MODEL, GUIDANCE, STEPS = "demo", 4.0, (20, 30)
CFG_PP_SCALE = 1.5
"""CFG++ (arXiv 2406.08070) is made for low scales."""
UNET = Ground("unet", 20, 5.0, scheduler="normal")
MOST = 100.0
"""PSNR in dB that identical pictures are given; none is given more."""
SETTING = TeaCacheConfig(rel_l1_thresh=None)


@dataclass(frozen=True)
class Case:
    """One row: a sampler, and a kind of guidance.

    Args:
        name: for the table.
        solver: makes a `comfy.samplers.Sampler`.
        scale: of the guidance; None for the testbed's.
    """

    name: str
    solver: Callable[[], Any]
    guidance: Guidance = field(default_factory=Guidance)
    scale: float | None = None


@dataclass(frozen=True)
class Result:
    """What the pairs of a case gave.

    Args:
        computed, evaluations: means over the pairs.
        psnr: to the uncached picture, in dB, of each pair.
        says: the mode, and the report's warnings.
    """

    computed: float
    evaluations: float
    psnr: list[float]
    says: str


def listed(name: str) -> Case:
    """A sampler that ComfyUI offers."""
    import comfy.samplers

    if not name.endswith("_cfg_pp"):
        return Case(name, lambda: comfy.samplers.sampler_object(name))
    return Case(
        f"{name}, guidance {CFG_PP_SCALE:g}",
        lambda: comfy.samplers.sampler_object(name),
        scale=CFG_PP_SCALE,
    )


def cases() -> dict[str, list[Case]]:
    """The rows on the demo model, by the heading of their table."""
    import comfy.samplers

    euler = comfy.samplers.sampler_object("euler")
    return {
        "ComfyUI's samplers": [listed(name) for name in comfy.samplers.KSampler.SAMPLERS],
        "Samplers of other packs": [
            Case(name, partial(foreign.samplers().__getitem__, name)) for name in foreign.samplers()
        ],
        "Guidance, with Euler's method": [
            Case(name, lambda: euler, guidance) for name, guidance in guidances().items()
        ],
    }


def unet_cases() -> list[Case]:
    """The rows on the UNet."""
    import comfy.samplers
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    euler = comfy.samplers.sampler_object("euler")
    attention = by_node(SelfAttentionGuidance, scale=0.5, blur_sigma=2.0)
    rows = {"plain": Guidance(), "self-attention guidance (SAG)": Guidance(patched=attention)}
    return [Case(name, lambda: euler, guidance) for name, guidance in rows.items()]


def sampled(testbed: Testbed, model: Any, case: Case, pair: Pair, steps: int) -> Tensor:
    """The decoded picture."""
    import comfy.samplers

    noise = testbed.noise(pair)
    guider = (case.guidance.guider or comfy.samplers.CFGGuider)(model)
    negative = [] if case.guidance.negative is None else [case.guidance.negative]
    captions = [pair.prompt, *negative, ""]
    guider.set_conds(*(testbed.conditioning([caption]) for caption in captions))
    guider.set_cfg(testbed.cfg if case.scale is None else case.scale)
    with torch.inference_mode():
        latents = guider.sample(
            noise, torch.zeros_like(noise), case.solver(), testbed.sigmas(steps),
            disable_pbar=True, seed=pair.seed,
        )  # fmt: skip
    return decoded(testbed, testbed.patcher.model.process_latent_in(latents))


def measure(testbed: Testbed, case: Case, pairs: Sequence[Pair], steps: int) -> Result:
    """One case on all pairs."""
    from teacache.hosts.comfyui.patch import apply_teacache

    found, reports = [], []
    for pair in pairs:
        native = sampled(testbed, case.guidance.patched(testbed.patcher), case, pair, steps)
        model, handle = apply_teacache(case.guidance.patched(testbed.patcher), SETTING)
        assert handle is not None
        found.append(min(psnr(sampled(testbed, model, case, pair, steps), native), MOST))
        report = handle.report_for()
        assert report is not None
        reports.append(report)
    return Result(
        statistics.fmean(report.computed for report in reports),
        statistics.fmean(len(report.records) for report in reports),
        found,
        said(reports),
    )


def said(reports: Sequence[RunReport]) -> str:
    """The mode, and each warning once."""
    warnings = dict.fromkeys(text for report in reports for text in report.warnings)
    return " ".join([f"{reports[0].method}.", *warnings])


def cells(result: Result) -> list[str]:
    """Computed evaluations, and the PSNR."""
    if min(result.psnr) >= MOST:
        quality = "identical"
    else:
        quality = f"{statistics.fmean(result.psnr):.1f} / {min(result.psnr):.1f}"
    return [f"{result.computed:.1f} of {result.evaluations:.1f}", quality]


def table(rows: dict[str, list[Result]]) -> str:
    """Markdown; a result for each of `STEPS`."""
    head = ["", *(f"{what}, {steps} steps" for steps in STEPS for what in ("computed", "PSNR"))]
    lines = [
        [name, *(cell for result in results for cell in cells(result)), results[-1].says]
        for name, results in rows.items()
    ]
    return markdown([*head, "what the node says"], lines)


def page_of(tables: dict[str, dict[str, list[Result]]], pairs: int) -> str:
    """The page."""
    parts = [
        "# Samplers and guidance",
        f"`python -m benchmarks.samplers --pairs {pairs} --write`: the demo model, guidance "
        f"{GUIDANCE:g}, scheduler `simple`, the\nforecast in its default setting. Computed "
        f"evaluations of the model (mean of {pairs} pairs of caption and seed), and PSNR\nin dB to "
        "the uncached picture of the same sampler and seed, mean / worst. Samplers with several "
        "evaluations in a\nstep have more evaluations than steps.",
        *(f"## {heading}\n\n{table(rows)}" for heading, rows in tables.items()),
    ]
    return "\n\n".join(parts) + "\n"


def measured(
    testbed: Testbed, heading: str, rows: Sequence[Case], args: argparse.Namespace
) -> dict[str, list[Result]]:
    """The results of a table, by the names of the rows."""
    pairs, found = testbed.test_pairs(args.pairs), {}
    for case in tqdm(rows, unit="row", desc=heading):
        if not args.only or case.name in args.only:
            found[case.name] = [measure(testbed, case, pairs, steps) for steps in STEPS]
    print(f"{heading}\n{table(found)}", flush=True)
    return found


def main() -> None:
    parser = options(__doc__, RESULTS, 4)
    parser.add_argument("--only", nargs="+", default=[], help="names of rows")
    args = parsed(parser)
    tables: dict[str, dict[str, list[Result]]] = {}
    with comfyui(args):
        demo = load(MODEL).on(Ground(MODEL, STEPS[0], GUIDANCE))
        tables = {heading: measured(demo, heading, rows, args) for heading, rows in cases().items()}
        unet = load(UNET.model).on(UNET)
        heading = f"Guidance of a UNet, guidance {UNET.guidance:g}, scheduler {UNET.scheduler}"
        tables[heading] = measured(unet, heading, unet_cases(), args)
    publish(page_of(tables, args.pairs), RESULTS if args.write else None)


if __name__ == "__main__":
    main()
