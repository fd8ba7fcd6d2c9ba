"""Compare the quality and the time of caching methods: a table and plots for each ground.

    python -m benchmarks.pareto [--pairs 96] [--minutes M]
    python -m benchmarks.pareto --ground demo-20-g7 photos-20-g4 --variants ablation
    python -m benchmarks.pareto --ground digits-20-g5 --quick

After a warm-up, each pair of caption and seed is sampled by all variants in random order, so that
other load on the machine affects all alike. No setting was tuned on the pairs. Results are
appended to a journal in output/benchmarks/ after each pair. The same command resumes an interrupted
run, and measures pairs without LPIPS again once its packages are installed. `benchmarks.rough` sums
up what was measured on the rough grounds. Needs requirements/benchmarks.txt.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import platform
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from benchmarks.grounds import BY_SLUG, GROUNDS, ROUGH, Ground
from benchmarks.journal import Journal, Record
from benchmarks.quality import (
    CONVERGED_STEPS,
    ConvergedReferences,
    decoded,
    lpips_network,
    similarity,
)
from benchmarks.sampling import EULER, Sample, live_tensor_bytes, sample
from benchmarks.testbeds import COMFYUI, DIFFUSERS, UNCACHED, Pair, Testbed, load
from benchmarks.variants import Variant, variants
from teacache.comparison.metrics import psnr
from teacache.errors import ConfigError
from teacache.hosts.comfyui.headless.boot import PACK, boot, find_comfyui

OUT = PACK / "output" / "benchmarks"
RESULTS = PACK / "benchmarks" / "results"
QUICK_PAIRS, MAX_PAIRS = 4, 1000
DEFAULT_GROUNDS = [g.slug for g in GROUNDS if g.kind == ROUGH and g.sampler == EULER[0]]
VERBOSE_LOGGERS = ("cache_dit", "diffusers.hooks.faster_cache")
"""They log a line for every sample."""
UNSUPPORTED_ERRORS = (ConfigError, TypeError)
"""Raised when a variant is enabled whose settings the installed host does not support."""


def run_variant(testbed: Testbed, variant: Variant, pair: Pair, **options: Any) -> Sample:
    sigmas = testbed.sigmas(variant.steps or testbed.ground.steps)
    with variant.enable(testbed) as target:
        return sample(
            testbed, variant.host, target, [pair], sigmas, sampler=variant.sampler, **options
        )


def warm_up(testbed: Testbed, selected: list[Variant], journal: Journal) -> list[Variant]:
    """Run every variant once, on a tuning pair, and measure its memory half-way through the run.

    Returns:
        The variants that run; the journal records why others do not.
    """
    (pair,), usable = testbed.tuning_pairs(1), []
    memory: dict[str, int] = {}
    for variant in tqdm(selected, unit="variant", desc="warm-up"):
        measured: list[int] = []
        middle = (variant.steps or testbed.ground.steps) // 2

        def measure(step: int, half: int = middle, into: list[int] = measured) -> None:
            if step == half:
                into.append(live_tensor_bytes())

        why = variant.unsupported
        if why is None:
            try:
                run_variant(testbed, variant, pair, after_step=measure)
            except UNSUPPORTED_ERRORS as error:
                why = " ".join(str(error).split())
        if why is not None:
            if journal.unusable.get(variant.name) != why:
                journal.append([{"kind": "unusable", "variant": variant.name, "why": why}])
            continue
        memory[variant.name] = measured[0]
        usable.append(variant)
    base = {host: memory[name] for host, name in UNCACHED.items() if name in memory}
    journal.append(
        {"kind": "memory", "variant": v.name, "bytes": memory[v.name] - base[v.host]}
        for v in usable
    )
    return usable


def run_pair(
    testbed: Testbed,
    selected: list[Variant],
    pair: Pair,
    number: int,
    converged: ConvergedReferences,
    network: nn.Module | None,
) -> list[Record]:
    """Sample one pair by all variants.

    Args:
        number: of the pair; it seeds the order of the variants.
        network: of LPIPS; None to leave it out.

    Returns:
        The journal's records; the last one marks the pair as complete.
    """
    reference = decoded(testbed, converged.latents(pair))
    shuffled = random.Random(number).sample(selected, len(selected))
    samples = {variant.name: run_variant(testbed, variant, pair) for variant in shuffled}
    pictures = {name: decoded(testbed, each.latents) for name, each in samples.items()}
    key = {"prompt": pair.prompt, "seed": pair.seed}
    records: list[Record] = []
    for variant in selected:
        result = samples[variant.name]
        records.append(
            {
                "kind": "sample",
                "variant": variant.name,
                **key,
                "seconds": round(result.seconds, 5),
                "cpu": round(result.cpu, 5),
                "computed": result.computed,
                "uncached": similarity(
                    pictures[variant.name], pictures[UNCACHED[variant.host]], network
                ),
                "converged": similarity(pictures[variant.name], reference, network),
            }
        )
    summary: Record = {"lpips": network is not None}
    if UNCACHED[DIFFUSERS] in pictures:
        agreement = psnr(pictures[UNCACHED[COMFYUI]], pictures[UNCACHED[DIFFUSERS]])
        summary["agreement"] = round(min(agreement, 200.0), 1)
    return [*records, {"kind": "pair", **key, **summary}]


def header(testbed: Testbed, selected: list[Variant], args: Any) -> Record:
    from comfyui_version import __version__ as comfyui

    packages = ("torch", "diffusers", "cache-dit")
    ground = testbed.ground
    return {
        "ground": ground.name,
        "about": testbed.description,
        "weights": testbed.digest(),
        "command": f"python -m benchmarks.pareto --ground {ground.slug}"
        + (" --quick" if args.quick else f" --pairs {args.pairs}")
        + (f" --variants {args.variants}" if args.variants != "main" else ""),
        "versions": {
            "teacache-studio": pack_version(),
            "ComfyUI": comfyui,
            **{name: version(name) for name in packages},
        },
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}",
        "settings": {
            "steps": ground.steps, "guidance": ground.guidance, "sampler": ground.sampler,
            "schedule": testbed.schedule, "dtype": "float32",
            "converged": CONVERGED_STEPS,
        },
        "variants": [
            {
                "name": v.name, "group": v.group, "method": v.method, "setting": v.setting,
                "host": v.host, "steps": v.steps or ground.steps,
            }
            for v in selected
        ],
    }  # fmt: skip


def pack_version() -> str:
    lines = (PACK / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("version = ")]
    return line.split('"')[1]


def select_variants(which: str, quick: bool, ground: Ground) -> list[Variant]:
    """The variants of a run.

    Args:
        which: `all`; `main`, with the rivals and few of our modes; or `ablation`, all our modes, on
            every pair, and the faithful mode.
        quick: only those with `Variant.quick`, on every pair.
        ground: that they run on.
    """
    selected = variants(ground)
    if quick:
        selected = [replace(variant, pair_interval=1) for variant in selected if variant.quick]
    if which == "all":
        return selected
    selected = [variant for variant in selected if which in variant.selections]
    if which == "ablation":
        selected = [replace(variant, pair_interval=1) for variant in selected]
    return selected


def journal_path(folder: Path, ground: Ground, which: str = "main", quick: bool = False) -> Path:
    """The journal of a run, and so the name of its page.

    Args:
        folder: of all journals.
        ground, which, quick: as `select_variants` takes them.
    """
    parts = ["pareto", ground.slug, which * (which != "main"), "quick" * quick]
    return folder / f"{'_'.join(part for part in parts if part)}.jsonl"


def measure(testbed: Testbed, args: argparse.Namespace, deadline: float) -> tuple[Path, bool]:
    """Run the comparison on the testbed's ground until it is complete or the time is over.

    Args:
        testbed: the model, with the ground.
        args: of the command.
        deadline: `time.monotonic()` at which no further pair is begun.

    Returns:
        The path of the journal, and whether all pairs are complete.
    """
    selected = select_variants(args.variants, args.quick, testbed.ground)
    pairs = testbed.test_pairs(args.pairs)
    network, why_not = lpips_network()
    path = journal_path(args.out, testbed.ground, args.variants, args.quick)
    journal = Journal.begin(path, header(testbed, selected, args))
    missing = [
        number
        for number, pair in enumerate(pairs)
        if not journal.has(pair.prompt, pair.seed, with_lpips=network is not None)
    ]
    if not missing:
        return path, True
    journal.append([{"kind": "lpips", "why_not": why_not}])
    usable = warm_up(testbed, selected, journal)
    converged = ConvergedReferences(testbed, args.out, pairs)
    progress = tqdm(missing, desc=testbed.ground.slug, unit="pair")
    for number in progress:
        due = [variant for variant in usable if number % variant.pair_interval == 0]
        journal.append(run_pair(testbed, due, pairs[number], number, converged, network))
        if time.monotonic() > deadline:
            return path, number == missing[-1]
    return path, True


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options; exits with a message where they make no sense."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--ground", nargs="+", choices=BY_SLUG, default=DEFAULT_GROUNDS, metavar="NAME",
        help=f"of {', '.join(BY_SLUG)}; by default all rough ones with Euler steps",
    )  # fmt: skip
    parser.add_argument("--pairs", type=int, default=96, help="captions and seeds of each ground")
    parser.add_argument("--quick", action="store_true", help="4 pairs, fewer variants")
    parser.add_argument("--variants", choices=("main", "ablation", "all"), default="main")
    parser.add_argument("--minutes", type=float, help="stop after the pair in which they are over")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the measurements")
    parser.add_argument("--results", type=Path, help="folder for the tables and the pictures")
    parser.add_argument("--weights", type=Path, help="the grounds' model, if not the trained one")
    parser.add_argument("--comfyui", type=Path)
    args = parser.parse_args(arguments)
    args.ground = [BY_SLUG[slug] for slug in dict.fromkeys(args.ground)]
    if not 1 <= args.pairs <= MAX_PAIRS:
        parser.error(f"--pairs must be 1 to {MAX_PAIRS}, not {args.pairs}")
    models = sorted({ground.model for ground in args.ground})
    if args.weights is not None and models not in (["digits"], ["photos"], ["unet"]):
        parser.error(
            "--weights takes grounds of one model, digits, photos or unet, as --ground, "
            f"not of {', '.join(models)}"
        )
    if args.quick:
        args.pairs = min(args.pairs, QUICK_PAIRS)
    return args


def main() -> None:
    args = parsed()
    missing = [name for name in ("cache_dit", "matplotlib") if find_spec(name) is None]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}; see requirements/benchmarks.txt")
    from benchmarks.pareto_report import report

    deadline = math.inf if args.minutes is None else time.monotonic() + 60 * args.minutes
    torch.set_num_threads(args.threads)
    boot(find_comfyui(args.comfyui), args.out)
    for name in logging.root.manager.loggerDict:
        if name.startswith(VERBOSE_LOGGERS):
            logging.getLogger(name).setLevel(logging.ERROR)
    for ground in args.ground:
        testbed = load(ground.model, args.weights).on(ground)
        path, finished = measure(testbed, args, deadline)
        report(path, args.results or (args.out if args.quick else RESULTS))
        if not finished or (time.monotonic() > deadline and ground != args.ground[-1]):
            print(f"stopped after {args.minutes:g} minutes; the same command resumes from here")
            break


if __name__ == "__main__":
    main()
