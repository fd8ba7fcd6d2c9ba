"""What a threshold does on the demo model, beside even skipping and fewer steps.

    python -m benchmarks.thresholds [--prompts 16] [--repeats 3] [--out FILE.md]

For every prompt each variant samples once per repeat, in turn with all others (so that a busy
moment of the machine hits all alike), after a warm-up. Time is the sampler node's own; a
variant's speed-up is the median over prompts of (uncached median / its median). PSNR and SSIM
are against the uncached picture of the same prompt and seed; a mean of `inf` says that some
pictures are identical.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from teacache.commands.demo import WORKFLOW
from teacache.files import write_atomically
from teacache.graph import Graph, as_graph, find_node, read_workflow
from teacache.hosts.executor import Session
from teacache.hosts.headless import find_comfyui
from teacache.metrics import psnr, ssim

PROMPTS = (
    "red apple", "fox", "cactus", "owl", "cow", "pizza", "rocket", "sailboat", "guitar", "castle",
    "sunflower", "teapot", "umbrella", "penguin", "strawberry", "locomotive", "crab", "camera",
    "tiger", "cupcake", "mushroom", "lion", "bicycle", "snowman",
)  # fmt: skip
THRESHOLDS = (0.08, 0.12, 0.2, 0.3, 0.4, 0.6)
EVEN = (1, 2, 3)
FEWER_STEPS = (25, 17, 12)
SKIP_ALL = 90.0


@dataclass
class Variant:
    """One way to sample, and what it gave: per prompt."""

    name: str
    threshold: float
    steps: int = 50
    max_skip: int = 0
    seconds: list[list[float]] = field(default_factory=list)
    computed: list[int] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)

    def graph(self, base: Graph, prompt: str, seed: int) -> Graph:
        graph = copy.deepcopy(base)
        graph[find_node(graph, "Prompt")]["inputs"]["text"] = prompt
        graph[find_node(graph, "KSampler")]["inputs"].update(seed=seed, steps=self.steps)
        graph[find_node(graph, "ApplyTeaCache")]["inputs"].update(
            rel_l1_thresh=self.threshold, auto_threshold=False, max_skip=self.max_skip
        )
        return graph


def variants() -> list[Variant]:
    found = [Variant("uncached", 0.0)]
    found += [Variant(f"TeaCache {threshold:g}", threshold) for threshold in THRESHOLDS]
    found += [Variant(f"every {n + 1}. step", SKIP_ALL, max_skip=n) for n in EVEN]
    found += [Variant(f"{steps} steps", 0.0, steps=steps) for steps in FEWER_STEPS]
    return found


def picture(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), np.float32) / 255.0)


def measure(
    session: Session, base: Graph, found: list[Variant], prompts: int, repeats: int
) -> None:
    sampler, save = find_node(base, "KSampler"), find_node(base, "SaveImage")
    kept = [find_node(base, kind) for kind in ("UNETLoader", "LoadDemoTextEncoder", "VAELoader")]
    session.run(found[0].graph(base, "warm up", 0))
    total = prompts * repeats * len(found)
    with tqdm(total=total, unit="run") as bar:
        for seed, prompt in enumerate(PROMPTS[:prompts]):
            for variant in found:
                variant.seconds.append([])
            for repeat in range(repeats):
                for variant in found:
                    graph = variant.graph(base, prompt, seed)
                    session.keep_only(graph, kept)
                    result = session.run(graph)
                    variant.seconds[-1].append(result.node_seconds[sampler])
                    if repeat == 0:
                        record(variant, found[0], picture(result.files[save][0]), result.reports)
                    bar.update()


def record(variant: Variant, uncached: Variant, image: torch.Tensor, reports: list[dict]) -> None:
    off = not reports or reports[0]["threshold"] == 0
    variant.computed.append(variant.steps if off else reports[0]["computed"])
    if variant is uncached:
        uncached.reference = image
        return
    variant.psnr.append(psnr(image, uncached.reference))
    variant.ssim.append(ssim(image, uncached.reference))


def table(found: list[Variant]) -> str:
    lines = [
        "| | steps computed | speed-up | PSNR mean, worst (dB) | SSIM mean |",
        "|---|---|---|---|---|",
    ]
    base = [statistics.median(seconds) for seconds in found[0].seconds]
    for variant in found:
        own = [statistics.median(seconds) for seconds in variant.seconds]
        gain = statistics.median(b / o for b, o in zip(base, own, strict=True))
        computed = statistics.mean(variant.computed)
        quality = "| – | – |"
        if variant.psnr:
            quality = (
                f"| {statistics.mean(variant.psnr):.1f}, {min(variant.psnr):.1f} "
                f"| {statistics.mean(variant.ssim):.3f} |"
            )
        lines.append(f"| {variant.name} | {computed:.1f} of 50 | {gain:.2f}x {quality}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=16, help=f"1 to {len(PROMPTS)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--comfyui", type=Path)
    parser.add_argument("--out", type=Path, help="a Markdown file for the table")
    args = parser.parse_args()
    base = as_graph(read_workflow(WORKFLOW), WORKFLOW.name)
    found = variants()
    with tempfile.TemporaryDirectory(prefix="teacache-benchmark-") as folder:
        session = Session(find_comfyui(args.comfyui), Path(folder))
        measure(session, base, found, args.prompts, args.repeats)
    text = (
        f"# Thresholds on the demo model\n\n"
        f"`python -m benchmarks.thresholds --prompts {args.prompts} --repeats {args.repeats}` · "
        f"torch {torch.__version__} · {platform.machine()}, {torch.get_num_threads()} threads · "
        f"128 x 128, 50 Euler steps, guidance 3; PSNR and SSIM against the uncached picture.\n\n"
        f"{table(found)}\n"
    )
    print(text)
    if args.out is not None:
        write_atomically(args.out, lambda path: path.write_text(text, encoding="utf-8") and None)


if __name__ == "__main__":
    main()
