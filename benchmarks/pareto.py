"""Compare the quality and the time of caching methods: a table and plots for each model.

    python -m benchmarks.pareto --model demo [--prompts 48] [--seeds 2] [--minutes M]
    python -m benchmarks.pareto --model demo --quick
    python -m benchmarks.pareto --model demo --variants ablation --steps 20 --guidance 7

After a warm-up, each pair of caption and seed is sampled by all variants in random order, so that
other load on the machine affects all alike. No setting was tuned on the captions. Results are
appended to a journal in output/benchmarks/ after each pair. The same command resumes an interrupted
run, and measures pairs without LPIPS again once its packages are installed. Needs
requirements/benchmarks.txt.
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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from benchmarks.journal import Journal, Record
from benchmarks.quality import (
    CONVERGED_STEPS,
    ConvergedReferences,
    decoded,
    lpips_network,
    similarity,
)
from benchmarks.sampling import Sample, live_tensor_bytes, sample
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
MIN_STEPS, MAX_GUIDANCE = 10, 100.0
VERBOSE_LOGGERS = ("cache_dit", "diffusers.hooks.faster_cache")
"""They log a line for every sample."""
UNSUPPORTED_ERRORS = (ConfigError, TypeError)
"""Raised when a variant is enabled whose settings the installed host does not support."""


def run_variant(testbed: Testbed, variant: Variant, pair: Pair, **options: Any) -> Sample:
    sigmas = testbed.sigmas(variant.steps or testbed.steps)
    with variant.enable(testbed) as target:
        return sample(
            testbed, variant.host, target, [pair], sigmas, sampler=variant.sampler, **options
        )


def warm_up(testbed: Testbed, selected: list[Variant], journal: Journal) -> list[Variant]:
    """Run every variant once, on a tuning caption, and measure its memory half-way through the run.

    Returns:
        The variants that run; the journal records why others do not.
    """
    pair, usable = Pair(testbed.tuning_captions[0], 0), []
    memory: dict[str, int] = {}
    for variant in tqdm(selected, unit="variant", desc="warm-up"):
        measured: list[int] = []
        middle = (variant.steps or testbed.steps) // 2

        def measure(step: int, half: int = middle, into: list[int] = measured) -> None:
            if step == half:
                into.append(live_tensor_bytes())

        why = variant.unsupported.get(testbed.name)
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
    base = {host: memory[name] for host, name in UNCACHED.items()}
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
    agreement = psnr(pictures[UNCACHED[COMFYUI]], pictures[UNCACHED[DIFFUSERS]])
    summary = {"agreement": round(min(agreement, 200.0), 1), "lpips": network is not None}
    return [*records, {"kind": "pair", **key, **summary}]


def header(testbed: Testbed, selected: list[Variant], args: Any) -> Record:
    from comfyui_version import __version__ as comfyui

    packages = ("torch", "diffusers", "cache-dit")
    return {
        "model": testbed.name,
        "about": testbed.description,
        "weights": testbed.digest(),
        "command": f"python -m benchmarks.pareto --model {testbed.name}"
        + (" --quick" if args.quick else f" --prompts {args.prompts} --seeds {args.seeds}")
        + (f" --variants {args.variants}" if args.variants != "all" else "")
        + (f" --steps {testbed.steps}" if testbed.steps != STEPS else "")
        + (f" --guidance {testbed.guidance:g}" if testbed.guidance != GUIDANCE else ""),
        "versions": {
            "teacache-studio": pack_version(),
            "ComfyUI": comfyui,
            **{name: version(name) for name in packages},
        },
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}",
        "settings": {
            "steps": testbed.steps, "guidance": testbed.guidance, "schedule": "simple, shift 3",
            "dtype": "float32", "converged": CONVERGED_STEPS,
        },
        "variants": [
            {
                "name": v.name, "group": v.group, "method": v.method, "setting": v.setting,
                "host": v.host, "steps": v.steps or testbed.steps,
            }
            for v in selected
        ],
    }  # fmt: skip


def pack_version() -> str:
    lines = (PACK / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("version = ")]
    return line.split('"')[1]


def select_variants(which: str, quick: bool, steps: int) -> list[Variant]:
    """The variants of a run.

    Args:
        which: `all`; `main`, without our modes beside the default; or `ablation`, those modes, on
            every pair, with the default and the faithful mode.
        quick: only those with `Variant.quick`, on every pair.
        steps: of the uncached run.
    """
    selected = variants(steps)
    if quick:
        selected = [replace(variant, pair_interval=1) for variant in selected if variant.quick]
    if which == "all":
        return selected
    selected = [variant for variant in selected if which in variant.selections]
    if which == "ablation":
        selected = [replace(variant, pair_interval=1) for variant in selected]
    return selected


def measure(args: argparse.Namespace) -> Path:
    """Run the comparison until it is complete or `--minutes` are over.

    Returns:
        The path of the journal.
    """
    started = time.monotonic()
    torch.set_num_threads(args.threads)
    boot(find_comfyui(args.comfyui), args.out)
    for name in logging.root.manager.loggerDict:
        if name.startswith(VERBOSE_LOGGERS):
            logging.getLogger(name).setLevel(logging.ERROR)
    testbed = replace(load(args.model, args.weights), steps=args.steps, guidance=args.guidance)
    selected = select_variants(args.variants, args.quick, args.steps)
    pairs = [
        Pair(p, seed) for seed in range(args.seeds) for p in testbed.test_captions[: args.prompts]
    ]
    network, why_not = lpips_network()
    parts = [testbed.name, args.variants if args.variants != "all" else "", "quick" * args.quick]
    if (testbed.steps, testbed.guidance) != (STEPS, GUIDANCE):
        parts.append(f"{testbed.steps}-steps-guidance-{testbed.guidance:g}")
    path: Path = args.out / f"pareto_{'_'.join(part for part in parts if part)}.jsonl"
    journal = Journal.begin(path, header(testbed, selected, args))
    journal.append([{"kind": "lpips", "why_not": why_not}])
    usable = warm_up(testbed, selected, journal)
    converged = ConvergedReferences(testbed, args.out, pairs)
    for number, pair in enumerate(tqdm(pairs, unit="pair")):
        if journal.has(pair.prompt, pair.seed, with_lpips=network is not None):
            continue
        due = [variant for variant in usable if number % variant.pair_interval == 0]
        journal.append(run_pair(testbed, due, pair, number, converged, network))
        if args.minutes is not None and time.monotonic() - started > 60 * args.minutes:
            print(f"stopped after {args.minutes:g} minutes; the same command resumes from here")
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
    parser.add_argument("--minutes", type=float, help="stop after the pair in which they are over")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the measurements")
    parser.add_argument("--results", type=Path, help="folder for the table and the picture")
    parser.add_argument("--weights", type=Path, help="the digits model, if not the trained one's")
    parser.add_argument("--comfyui", type=Path)
    args = parser.parse_args()
    if args.steps < MIN_STEPS:
        parser.error(f"--steps must be at least {MIN_STEPS}, not {args.steps}")
    if not 1 < args.guidance <= MAX_GUIDANCE:
        parser.error(
            f"--guidance must be above 1, where both branches run, and at most {MAX_GUIDANCE:g}, "
            f"not {args.guidance:g}"
        )
    missing = [name for name in ("cache_dit", "matplotlib") if find_spec(name) is None]
    if missing:
        parser.error(f"not installed: {', '.join(missing)}; see requirements/benchmarks.txt")
    if args.quick:
        args.prompts, args.seeds = min(args.prompts, QUICK_PROMPTS), 1
    path = measure(args)
    from benchmarks.pareto_report import report

    report(path, args.results or (args.out if args.quick else RESULTS))


if __name__ == "__main__":
    main()
