"""Quality against time of every cache, side by side: one table and one picture per model.

    python -m benchmarks.pareto --model demo [--prompts 48] [--seeds 2] [--minutes M]
    python -m benchmarks.pareto --model demo --quick
    python -m benchmarks.pareto --model demo --variants ablation --steps 20 --guidance 7

After a warm-up, every pair of caption and seed is sampled by all variants in a shuffled order, so
that a busy moment of the machine hits all alike. Results are appended to a file in
output/benchmarks/ after each pair; the same command goes on where it was interrupted, and measures
again the pairs that had to do without LPIPS, once its packages are there. The captions are none of
those that anything was tuned on. Needs requirements/benchmarks.txt.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import random
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from benchmarks.journal import Journal, Record
from benchmarks.quality import CONVERGED_STEPS, Converged, compared, perceptual, picture
from benchmarks.sampling import Sample, live_bytes, sample
from benchmarks.testbeds import (
    COMFYUI,
    DIFFUSERS,
    GUIDANCE,
    STEPS,
    UNCACHED,
    Pair,
    Testbed,
    load,
)
from benchmarks.variants import Variant, variants
from teacache.comparison.metrics import psnr
from teacache.errors import ConfigError
from teacache.hosts.comfyui.headless.boot import PACK, boot, find_comfyui

OUT = PACK / "output" / "benchmarks"
RESULTS = PACK / "benchmarks" / "results"
QUICK_PROMPTS = 4
LEAST_STEPS, MOST_GUIDANCE = 10, 100.0
CHATTY = ("cache_dit", "diffusers.hooks.faster_cache")
"""What logs a line for every sample."""
REFUSALS = (ConfigError, TypeError)
"""How a variant says that it cannot be made: our own settings, which may be newer than a host."""


def run_variant(bed: Testbed, variant: Variant, pair: Pair, **options: Any) -> Sample:
    levels = bed.levels(variant.steps or bed.steps)
    with variant.switch(bed) as target:
        return sample(bed, variant.host, target, [pair], levels, sampler=variant.sampler, **options)


def warm_up(bed: Testbed, found: list[Variant], journal: Journal) -> list[Variant]:
    """Every variant once, on a tuning caption; measures the bytes that it holds half-way.

    Returns those that run; why another does not is recorded.
    """
    pair, usable = Pair(bed.tuning[0], 0), []
    held: dict[str, int] = {}
    for variant in tqdm(found, unit="variant", desc="warm-up"):
        measured: list[int] = []
        middle = (variant.steps or bed.steps) // 2

        def measure(step: int, half: int = middle, into: list[int] = measured) -> None:
            if step == half:
                into.append(live_bytes())

        why = variant.cannot.get(bed.name)
        if why is None:
            try:
                run_variant(bed, variant, pair, after_step=measure)
            except REFUSALS as error:
                why = " ".join(str(error).split())
        if why is not None:
            if journal.unusable.get(variant.name) != why:
                journal.append([{"kind": "unusable", "variant": variant.name, "why": why}])
            continue
        held[variant.name] = measured[0]
        usable.append(variant)
    base = {host: held[name] for host, name in UNCACHED.items()}
    journal.append(
        {"kind": "memory", "variant": v.name, "bytes": held[v.name] - base[v.host]} for v in usable
    )
    return usable


def run_pair(
    bed: Testbed,
    found: list[Variant],
    pair: Pair,
    number: int,
    converged: Converged,
    network: nn.Module | None,
) -> list[Record]:
    """The records of one pair, the one that completes it last.

    number: of the pair, which decides on the variants' order.
    """
    truth = picture(bed, converged.latents(pair))
    shuffled = random.Random(number).sample(found, len(found))
    samples = {variant.name: run_variant(bed, variant, pair) for variant in shuffled}
    pictures = {name: picture(bed, each.latents) for name, each in samples.items()}
    place = {"prompt": pair.prompt, "seed": pair.seed}
    records: list[Record] = []
    for variant in found:
        own = samples[variant.name]
        records.append(
            {
                "kind": "sample",
                "variant": variant.name,
                **place,
                "seconds": round(own.seconds, 5),
                "cpu": round(own.cpu, 5),
                "computed": own.computed,
                "uncached": compared(
                    pictures[variant.name], pictures[UNCACHED[variant.host]], network
                ),
                "converged": compared(pictures[variant.name], truth, network),
            }
        )
    alike = psnr(pictures[UNCACHED[COMFYUI]], pictures[UNCACHED[DIFFUSERS]])
    whole = {"agreement": round(min(alike, 200.0), 1), "lpips": network is not None}
    return [*records, {"kind": "pair", **place, **whole}]


def header(bed: Testbed, found: list[Variant], args: Any) -> Record:
    from comfyui_version import __version__ as comfyui

    packages = ("torch", "diffusers", "cache-dit")
    return {
        "model": bed.name,
        "about": bed.about,
        "weights": bed.digest(),
        "command": f"python -m benchmarks.pareto --model {bed.name}"
        + (" --quick" if args.quick else f" --prompts {args.prompts} --seeds {args.seeds}")
        + (f" --variants {args.variants}" if args.variants != "all" else "")
        + (f" --steps {bed.steps}" if bed.steps != STEPS else "")
        + (f" --guidance {bed.guidance:g}" if bed.guidance != GUIDANCE else ""),
        "versions": {
            "teacache-studio": version_of_pack(),
            "ComfyUI": comfyui,
            **{name: version(name) for name in packages},
        },
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}",
        "settings": {
            "steps": bed.steps, "guidance": bed.guidance, "schedule": "simple, shift 3",
            "dtype": "float32", "converged": CONVERGED_STEPS,
        },
        "variants": [
            {
                "name": v.name, "group": v.group, "method": v.method, "setting": v.setting,
                "host": v.host, "steps": v.steps or bed.steps,
            }
            for v in found
        ],
    }  # fmt: skip


def version_of_pack() -> str:
    lines = (PACK / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    (found,) = [line for line in lines if line.startswith("version = ")]
    return found.split('"')[1]


def selected(which: str, quick: bool, steps: int) -> list[Variant]:
    """which: all, main (without the modes of ours that are no default) or ablation (them, in every
    pair, beside the two that are).
    """
    found = variants(steps)
    if quick:
        found = [replace(variant, every=1) for variant in found if variant.quick]
    if which == "all":
        return found
    found = [variant for variant in found if which in variant.runs]
    return found if which == "main" else [replace(variant, every=1) for variant in found]


def measure(args: argparse.Namespace) -> Path:
    """Runs as much as there is time for; returns the journal's file."""
    started = time.monotonic()
    torch.set_num_threads(args.threads)
    boot(find_comfyui(args.comfyui), args.out)
    for name in logging.root.manager.loggerDict:
        if name.startswith(CHATTY):
            logging.getLogger(name).setLevel(logging.ERROR)
    bed = replace(load(args.model, args.weights), steps=args.steps, guidance=args.guidance)
    found = selected(args.variants, args.quick, args.steps)
    pairs = [Pair(p, seed) for seed in range(args.seeds) for p in bed.tests[: args.prompts]]
    network, why_not = perceptual()
    parts = [bed.name, args.variants if args.variants != "all" else "", "quick" * args.quick]
    if (bed.steps, bed.guidance) != (STEPS, GUIDANCE):
        parts.append(f"{bed.steps}-steps-guidance-{bed.guidance:g}")
    path: Path = args.out / f"pareto_{'_'.join(part for part in parts if part)}.jsonl"
    journal = Journal.begin(path, header(bed, found, args))
    journal.append([{"kind": "lpips", "why_not": why_not}])
    usable = warm_up(bed, found, journal)
    converged = Converged(bed, args.out, pairs)
    for number, pair in enumerate(tqdm(pairs, unit="pair")):
        if journal.has(pair.prompt, pair.seed, with_lpips=network is not None):
            continue
        now = [variant for variant in usable if number % variant.every == 0]
        journal.append(run_pair(bed, now, pair, number, converged, network))
        if args.minutes is not None and time.monotonic() - started > 60 * args.minutes:
            print(f"stopped after {args.minutes:g} minutes; the same command goes on from here")
            break
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("demo", "digits"), required=True)
    parser.add_argument("--prompts", type=int, default=48, help="1 to 48")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="4 prompts, 1 seed, fewer variants")
    parser.add_argument("--variants", choices=("all", "main", "ablation"), default="all")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the uncached run")
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--minutes", type=float, help="stop after the pair in which they are up")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the measurements")
    parser.add_argument("--results", type=Path, help="folder for the table and the picture")
    parser.add_argument("--weights", type=Path, help="the digits model, if not the trained one's")
    parser.add_argument("--comfyui", type=Path)
    args = parser.parse_args()
    if args.steps < LEAST_STEPS:
        parser.error(f"--steps must be at least {LEAST_STEPS}, not {args.steps}")
    if not 1 < args.guidance <= MOST_GUIDANCE:
        parser.error(
            f"--guidance must be above 1, where both branches run, and at most {MOST_GUIDANCE:g}, "
            f"not {args.guidance:g}"
        )
    if args.quick:
        args.prompts, args.seeds = min(args.prompts, QUICK_PROMPTS), 1
    path = measure(args)
    from benchmarks.pareto_report import report

    report(path, args.results or (args.out if args.quick else RESULTS))


if __name__ == "__main__":
    main()
