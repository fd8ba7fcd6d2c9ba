"""What the decisions of a forecast lose where the model computes in half precision.

    python -m benchmarks.half_precision --write

Each ground's model is sampled in float32 and, all of it, in bfloat16, each beside its own uncached
picture. In bfloat16 the decisions of the float32 run of the same pair are followed, too (the same
steps are computed, and lines are followed as far), and decisions are learned from bfloat16's own
predictions, with the expected rounding error taken off (`teacache.engine.rounding`) and without.
How much of the rounding no decision can avoid is told by uncached pictures whose initial noise
differs by `JITTER`.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import peers
from benchmarks.command import comfyui, euler_grounds, options, parsed
from benchmarks.drawing import Drawing, draw
from benchmarks.grounds import Ground
from benchmarks.peers import Enable
from benchmarks.roughness import MODELS, publish
from benchmarks.testbeds import COMFYUI, Pair, Testbed, load
from teacache.config import TeaCacheConfig
from teacache.engine.predictors import Damped
from teacache.tables import markdown

RESULTS = Path(__file__).parent / "results" / "half_precision.md"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
SETTINGS: dict[str, dict[str, Any]] = {
    "0.2": {},
    "0.1": {"rel_l1_thresh": 0.1},
    "1.5x": {"rel_l1_thresh": None, "preset": "1.5x"},
    "2x": {"rel_l1_thresh": None, "preset": "2x"},
}
"""By name: thresholds, the default first, and presets, which keep the number of computed steps."""
JITTER = 1e-4
"""Relative: below what bfloat16 resolves, above what float32 does."""


class Decisions(NamedTuple):
    """What a run of the forecast decided.

    Args:
        computed: indices of the computed steps.
        fractions: part of the line that is followed, by level on the axis of extrapolation.
    """

    computed: tuple[int, ...]
    fractions: dict[float, float]


def in_precision(testbed: Testbed, dtype: torch.dtype) -> Testbed:
    """The same model, all of which computes in `dtype`, in ComfyUI alone."""
    import comfy.model_patcher

    shared = testbed.patcher.model
    model = copy.deepcopy(shared)
    transformer = model.diffusion_model.to(dtype)
    transformer.dtype = dtype
    if testbed.name == "digits":
        transformer.patch_embedding.float()  # in every precision, as ComfyUI's Wan model has it
    names = {module: name for name, module in shared.named_modules()}
    middle = model.get_submodule(names[testbed.middle_layers[COMFYUI]])
    cpu = torch.device("cpu")
    return replace(
        testbed,
        patcher=comfy.model_patcher.ModelPatcher(model, cpu, cpu),
        middle_layers={**testbed.middle_layers, COMFYUI: middle},
    )


def jittered(testbed: Testbed) -> Testbed:
    """The same model, whose initial noise differs a little."""

    class Jittered(Testbed):
        def noise(self, pair: Pair) -> Tensor:
            generator = torch.Generator().manual_seed(20)
            factors = torch.randn(1, *self.latent_shape, generator=generator)
            return super().noise(pair) * (1 + JITTER * factors)

    return Jittered(**vars(testbed))


def decided(testbed: Testbed, pair: Pair, config: dict[str, Any]) -> tuple[Drawing, Decisions]:
    """A picture by the forecast, and its decisions."""
    reports: list[dict[str, Any]] = []
    fractions: dict[float, float] = {}
    original = Damped.weights

    def keep(event: str, data: dict[str, Any]) -> None:
        if event == "end":
            reports.append(data["report"])

    def weights(self: Damped, sigma: float) -> list[float]:
        fractions[sigma] = self.fraction
        return original(self, sigma)

    with mock.patch.object(Damped, "weights", weights):
        drawing = draw(testbed, peers.teacache_comfyui(keep, **config), pair)
    records = reports[0]["records"]
    computed = tuple(step for step, record in enumerate(records) if not record["skipped"])
    return drawing, Decisions(computed, fractions)


def following(decisions: Decisions) -> Enable:
    """A forecast with the decisions of another run on the same noise levels."""
    original = Damped.weights

    def weights(self: Damped, sigma: float) -> list[float]:
        self.fraction = decisions.fractions.get(sigma, self.fraction)
        return original(self, sigma)

    @contextmanager
    def enable(testbed: Testbed) -> Iterator[Any]:
        from teacache.calibration.override import RunOverride
        from teacache.hosts.comfyui.patch import apply_teacache

        override = RunOverride(plan=decisions.computed)
        with mock.patch.object(Damped, "weights", weights):
            yield apply_teacache(testbed.patcher, TeaCacheConfig(), override=override)[0]

    return enable


def without_allowance() -> AbstractContextManager[Any]:
    """No rounding error is taken off while this is in force."""
    return mock.patch("teacache.engine.rounding.HALF", ())


@dataclass(frozen=True)
class Figures:
    """One setting on one ground.

    Args:
        single: of the float32 runs, (computed steps, PSNR in dB) for each pair.
        replayed: of the decisions of those in half precision.
        plain, allowed: of its own decisions, without and with the rounding error taken off.
    """

    single: list[tuple[float, float]]
    replayed: list[tuple[float, float]]
    plain: list[tuple[float, float]]
    allowed: list[tuple[float, float]]


def measure(
    testbed: Testbed, pairs: Sequence[Pair], dtype: torch.dtype
) -> tuple[dict[str, Figures], float]:
    """The figures of each setting, and the mean PSNR between uncached pictures that only rounding
    sets apart."""
    half = in_precision(testbed, dtype)
    found = {name: Figures([], [], [], []) for name in SETTINGS}
    limits = []

    def note(into: list[tuple[float, float]], drawing: Drawing, reference: Drawing) -> None:
        into.append((drawing.computed, drawing.psnr_to(reference.frames)))

    for pair in tqdm(pairs, desc=testbed.ground.name, unit="pair"):
        reference = draw(testbed, peers.uncached_comfyui, pair)
        rounded = draw(half, peers.uncached_comfyui, pair)
        again = draw(jittered(half), peers.uncached_comfyui, pair)
        limits.append(again.psnr_to(rounded.frames))
        for name, config in SETTINGS.items():
            figures = found[name]
            drawing, decisions = decided(testbed, pair, config)
            note(figures.single, drawing, reference)
            note(figures.replayed, draw(half, following(decisions), pair), rounded)
            for into, context in (
                (figures.plain, without_allowance()),
                (figures.allowed, nullcontext()),
            ):
                with context:
                    note(into, draw(half, peers.teacache_comfyui(**config), pair), rounded)
    return found, statistics.fmean(limits)


def cell(points: Sequence[tuple[float, float]]) -> str:
    """Mean computed steps: mean PSNR."""
    steps, qualities = zip(*points, strict=True)
    return f"{statistics.fmean(steps):.1f}: {statistics.fmean(qualities):.1f}"


def gain(points: Sequence[tuple[float, float]], over: Sequence[tuple[float, float]]) -> str:
    """Mean PSNR over that of `over`, pair by pair, with the standard error of that mean."""
    differences = [a - b for (_, a), (_, b) in zip(points, over, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return f"{mean:+.1f}"
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{mean:+.1f} ± {error:.1f}"


def rows_of(ground: Ground, found: dict[str, Figures], limit: float) -> list[list[str]]:
    """The rows of the table."""
    return [
        [
            ground.name,
            f"{limit:.1f}",
            name,
            *map(cell, (figures.single, figures.replayed, figures.plain, figures.allowed)),
            gain(figures.plain, figures.replayed),
            gain(figures.allowed, figures.replayed),
        ]
        for name, figures in found.items()
    ]


class Call(NamedTuple):
    """One call of a model by ComfyUI.

    Args:
        latent, sigma: of each branch of guidance.
        conds: the other arguments.
        branches: 0 for the positive branch, 1 for the negative one.
    """

    latent: Tensor
    sigma: Tensor
    conds: dict[str, Any]
    branches: list[int]


def calls_of(testbed: Testbed, pair: Pair) -> list[Call]:
    """The calls of an uncached run."""
    calls: list[Call] = []

    def keep(apply: Any, given: dict[str, Any]) -> Any:
        calls.append(Call(given["input"], given["timestep"], given["c"], given["cond_or_uncond"]))
        return apply(given["input"], given["timestep"], **given["c"])

    @contextmanager
    def enable(testbed: Testbed) -> Iterator[Any]:
        patcher = testbed.patcher.clone()
        patcher.set_model_unet_function_wrapper(keep)
        yield patcher

    draw(testbed, enable, pair)
    return calls


def derivatives(testbed: Testbed, call: Call) -> Tensor:
    """The derivative of each branch in a call, and, of two, that after guidance behind them."""
    sigma = call.sigma.reshape(-1, *[1] * (call.latent.ndim - 1))
    denoised = testbed.patcher.model.apply_model(call.latent, call.sigma, **call.conds)
    found: Tensor = (call.latent - denoised) / sigma
    if len(found) < 2:
        return found
    positive = found[call.branches.index(0)]
    negative = found[call.branches.index(1)]
    guided = negative + testbed.ground.guidance * (positive - negative)
    return torch.cat([found, guided[None]])


class Errors(NamedTuple):
    """Rounding errors along a run: root mean squares, in parts of the value's and of epsilon.

    Args:
        branch, guided: of a branch, and after guidance, at each step.
        correlation: of each step's error after guidance with that of the step before.
    """

    branch: list[float]
    guided: list[float]
    correlation: list[float]


def rounding_errors(testbed: Testbed, calls: Sequence[Call], dtype: torch.dtype) -> Errors:
    """Those of the model in `dtype`, beside one with the same weights that computes in float32."""
    half, exact = in_precision(testbed, dtype), in_precision(testbed, dtype)
    exact.patcher.model.diffusion_model.float().dtype = torch.float32
    errors, before = Errors([], [], []), None
    with torch.inference_mode():
        for call in calls:
            values = derivatives(exact, call)
            missed = derivatives(half, call) - values
            sizes = missed.flatten(1).norm(dim=1) / values.flatten(1).norm(dim=1)
            relative = (sizes / torch.finfo(dtype).eps).tolist()
            errors.branch.append(relative[0])
            errors.guided.append(relative[-1])
            if before is not None:
                both = torch.stack([before.flatten(), missed[-1].flatten()])
                errors.correlation.append(float(torch.corrcoef(both)[0, 1]))
            before = missed[-1]
    return errors


def span(values: Sequence[float], digits: int = 1) -> str:
    """Least and most, with the mean in between."""
    shown = (min(values), statistics.fmean(values), max(values))
    return " / ".join(f"{value:.{digits}f}" for value in shown)


def error_rows(testbed: Testbed, pair: Pair) -> list[list[str]]:
    """The rows of the table of rounding errors."""
    calls = calls_of(testbed, pair)
    rows = []
    for name, dtype in DTYPES.items():
        errors = rounding_errors(testbed, calls, dtype)
        gain = 1.0
        if testbed.branches == 2:
            gain = math.hypot(testbed.ground.guidance, testbed.ground.guidance - 1)
        shown = [span(errors.branch), span(errors.guided), f"{gain:.1f}"]
        rows.append([testbed.ground.name, name, *shown, span(errors.correlation, 2)])
    return rows


ERRORS_HEAD = (
    "ground", "type", "of a branch", "after guidance", "taken off", "correlation of two steps",
)  # fmt: skip
HEAD = (
    "ground", "limit", "setting", "float32", "its decisions", "own, nothing taken off", "own",
    "nothing taken off, gain", "own, gain",
)  # fmt: skip


def page_of(errors: Sequence[list[str]], rows: Sequence[list[str]], pairs: int) -> str:
    """The page."""
    return (
        "# Half precision\n\n"
        f"`python -m benchmarks.half_precision --pairs {pairs} --write`: each model computes in "
        "half precision as a whole, weights and\nactivations, on the CPU, in ComfyUI. Nothing was "
        "chosen on these captions and seeds.\n\n"
        "## Rounding errors\n\n"
        "Of one uncached run of each ground: the derivative in half precision less that of the "
        "same model, with the same weights,\nthat computes in float32, at the same latents. Root "
        "mean square relative to the derivative's, in units of the type's\nepsilon: least / mean "
        "/ most of the steps. *Taken off*: what the engine expects. The last column: correlation "
        "of the error\nafter guidance with that of the step before.\n\n"
        f"{markdown(ERRORS_HEAD, errors)}\n\n"
        "## Decisions in bfloat16\n\n"
        f"Computed steps: mean PSNR in dB of {pairs} pairs, each against the uncached picture of "
        "the same precision.\n\n"
        "- *limit*: PSNR between two uncached pictures in bfloat16 whose initial noise differs by "
        f"{JITTER:g} of itself. What rounding\n  sets apart so, no decision brings together.\n"
        "- *float32*: the forecast in float32. *Its decisions*: the same steps computed, and lines "
        "followed as far, in bfloat16.\n"
        "- *own*: decisions learned from bfloat16's predictions, with the expected rounding error "
        "taken off, and with nothing taken\n  off, as version 0.2.0 did. *Gain*: over *its "
        "decisions*, mean of the pairs and its standard error.\n\n"
        f"{markdown(HEAD, rows)}\n"
    )


def main() -> None:
    parser = options(__doc__, RESULTS, 10, MODELS)
    parser.add_argument(
        "--tuning", action="store_true", help="take the pairs to choose settings on"
    )
    args = parsed(parser)
    errors: list[list[str]] = []
    rows: list[list[str]] = []
    with comfyui(args):
        for ground in euler_grounds(args.models):
            testbed = load(ground.model).on(ground)
            pairs = (testbed.tuning_pairs if args.tuning else testbed.test_pairs)(args.pairs)
            told = error_rows(testbed, pairs[0])
            made = rows_of(ground, *measure(testbed, pairs, torch.bfloat16))
            errors += told
            rows += made
            print("\n".join("  ".join(row) for row in (*told, *made)), flush=True)
    publish(page_of(errors, rows, args.pairs), RESULTS if args.write else None)


if __name__ == "__main__":
    main()
