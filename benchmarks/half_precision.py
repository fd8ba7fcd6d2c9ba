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

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import peers, rounding_errors
from benchmarks.command import comfyui, euler_grounds, options, parsed
from benchmarks.drawing import Drawing, draw
from benchmarks.grounds import BY_SLUG, Ground
from benchmarks.pareto import OUT
from benchmarks.peers import Enable
from benchmarks.roughness import MODELS, publish
from benchmarks.rounding_errors import in_precision
from benchmarks.testbeds import Pair, Testbed, load
from teacache.config import TeaCacheConfig
from teacache.engine.predictors import Damped
from teacache.errors import UserError
from teacache.journal import Record, append_records, header_of, read_records, write_records
from teacache.tables import markdown

RESULTS = Path(__file__).parent / "results" / "half_precision.md"
DEFAULT = ("demo-20-g4", "demo-20-g7", "digits-20-g5", "photos-20-g4", "unet-20-g5-normal")
SETTINGS: dict[str, dict[str, Any]] = {
    "0.2": {},
    "1.5x": {"rel_l1_thresh": None, "preset": "1.5x"},
    "2x": {"rel_l1_thresh": None, "preset": "2x"},
}
"""By name: the default threshold, and presets, which keep the number of computed steps."""
MOST_LOST = 0.5
"""In dB, by decisions that were learned from bfloat16 against those of float32."""
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


Point = tuple[float, float]
"""Computed steps, and PSNR in dB to the uncached picture of the same precision."""


class Figures(NamedTuple):
    """One setting, for each pair.

    Args:
        single: of the float32 runs.
        replayed: of the decisions of those in bfloat16.
        plain, allowed: of its own decisions, without and with the rounding error taken off.
    """

    single: list[Point]
    replayed: list[Point]
    plain: list[Point]
    allowed: list[Point]


def measure(testbed: Testbed, half: Testbed, pair: Pair) -> Record:
    """What is measured of a pair: by setting, a point for each field of `Figures`; and the PSNR
    between uncached pictures that only rounding sets apart.

    Args:
        half: the testbed in bfloat16.
    """
    reference = draw(testbed, peers.uncached_comfyui, pair).frames
    rounded = draw(half, peers.uncached_comfyui, pair).frames
    again = draw(jittered(half), peers.uncached_comfyui, pair)
    settings = {}
    for name, config in SETTINGS.items():
        drawing, decisions = decided(testbed, pair, config)
        own = peers.teacache_comfyui(**config)
        replayed = draw(half, following(decisions), pair)
        with without_allowance():
            plain = draw(half, own, pair)
        points = [(drawing.computed, drawing.psnr_to(reference))]
        for each in (replayed, plain, draw(half, own, pair)):
            points.append((each.computed, each.psnr_to(rounded)))
        settings[name] = points
    return {"limit": again.psnr_to(rounded), "settings": settings}


def cell(points: Sequence[Point]) -> str:
    """Mean computed steps: mean PSNR."""
    steps, qualities = zip(*points, strict=True)
    return f"{statistics.fmean(steps):.1f}: {statistics.fmean(qualities):.1f}"


def differences(points: Sequence[Point], over: Sequence[Point]) -> list[float]:
    """PSNR over that of `over`, pair by pair."""
    return [a - b for (_, a), (_, b) in zip(points, over, strict=True)]


def gain(points: Sequence[Point], over: Sequence[Point]) -> str:
    """Mean PSNR over that of `over`, with the standard error of that mean."""
    each = differences(points, over)
    mean = statistics.fmean(each)
    if len(each) < 2:
        return f"{mean:+.1f}"
    return f"{mean:+.1f} ± {statistics.stdev(each) / math.sqrt(len(each)):.1f}"


def figures_of(measured: Sequence[Record]) -> dict[str, Figures]:
    """By setting, the figures of all pairs (`measure`)."""
    return {
        name: Figures(*map(list, zip(*(each["settings"][name] for each in measured), strict=True)))
        for name in SETTINGS
    }


def summary(grounds: Sequence[Sequence[Record]]) -> str:
    """The gains over the decisions of float32, over all grounds and settings.

    Args:
        grounds: what was measured of each.
    """
    found = [figures for measured in grounds for figures in figures_of(measured).values()]
    ways = {
        "With nothing taken off": [each.plain for each in found],
        "With the expected rounding error taken off": [each.allowed for each in found],
    }
    sentences = []
    for what, points in ways.items():
        gains = [
            statistics.fmean(differences(own, each.replayed))
            for own, each in zip(points, found, strict=True)
        ]
        sentences.append(
            f"{what}, decisions give {statistics.median(gains):+.1f} dB over those of float32\n"
            f"in the median of the {len(gains)} rows, {min(gains):+.1f} in the worst one, and lose "
            f"more than {MOST_LOST} dB in {sum(each < -MOST_LOST for each in gains)}."
        )
    return "\n".join(sentences)


def rows_of(ground: Ground, measured: Sequence[Record]) -> list[list[str]]:
    """The rows of the table.

    Args:
        measured: of each pair (`measure`).
    """
    limit = statistics.fmean(record["limit"] for record in measured)
    rows = []
    for name, figures in figures_of(measured).items():
        gains = (gain(points, figures.replayed) for points in (figures.plain, figures.allowed))
        rows.append(
            [ground.name, str(len(measured)), f"{limit:.1f}", name, *map(cell, figures), *gains]
        )
    return rows


class Measured:
    """What has been measured, in a file, so that an interrupted run can be resumed.

    Raises:
        UserError: the file was made with other settings.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        header = header_of(settings=SETTINGS, jitter=JITTER)
        self._records = read_records(path) or [header]
        if self._records[0] != header:
            raise UserError(f"{path} was made with other settings: remove it")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_records(path, self._records)

    def add(self, **record: Any) -> None:
        append_records(self._path, [record])
        self._records.append(record)

    def of(self, kind: str, ground: Ground) -> list[Record]:
        """The records of a kind and a ground."""
        wanted = kind, ground.slug
        return [each for each in self._records[1:] if (each["kind"], each["ground"]) == wanted]


HEAD = (
    "ground", "pairs", "limit", "setting", "float32", "its decisions", "own, nothing taken off",
    "own", "nothing taken off, gain", "own, gain",
)  # fmt: skip


def page_of(grounds: Sequence[Ground], measured: Measured, pairs: int) -> str:
    """The page of all grounds of which a pair is complete.

    Args:
        pairs: that were asked for.
    """
    known = {ground: measured.of("pair", ground)[:pairs] for ground in grounds}
    known = {ground: records for ground, records in known.items() if records}
    errors = [row for ground in known for row in measured.of("errors", ground)[0]["rows"]]
    rows = [row for ground, records in known.items() for row in rows_of(ground, records)]
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
        f"{markdown(rounding_errors.HEAD, errors)}\n\n"
        "## Decisions in bfloat16\n\n"
        "Computed steps: mean PSNR in dB of the pairs, each against the uncached picture of "
        "the same precision.\n\n"
        "- *limit*: PSNR between two uncached pictures in bfloat16 whose initial noise differs by "
        f"{JITTER:g} of itself. What rounding\n  sets apart so, no decision brings together.\n"
        "- *float32*: the forecast in float32. *Its decisions*: the same steps computed, and lines "
        "followed as far, in bfloat16.\n"
        "- *own*: decisions learned from bfloat16's predictions, with the expected rounding error "
        "taken off, and with nothing taken\n  off, as version 0.2.0 did. *Gain*: over *its "
        "decisions*, mean of the pairs and its standard error.\n\n"
        f"{summary(list(known.values()))}\n\n"
        f"{markdown(HEAD, rows)}\n"
    )


def main() -> None:
    parser = options(__doc__, RESULTS, 8)
    parser.add_argument(
        "--grounds", nargs="+", choices=[g.slug for g in euler_grounds(MODELS)], default=DEFAULT
    )
    parser.add_argument(
        "--tuning", action="store_true", help="take the pairs to choose settings on"
    )
    args = parsed(parser)
    grounds = [BY_SLUG[slug] for slug in args.grounds]
    measured = Measured(OUT / f"half_precision{'_tuning' if args.tuning else ''}.jsonl")
    with comfyui(args):
        testbeds = {name: load(name) for name in dict.fromkeys(g.model for g in grounds)}
        halves = {name: in_precision(each, torch.bfloat16) for name, each in testbeds.items()}
        work = [(number, ground) for number in range(args.pairs) for ground in grounds]
        for number, ground in tqdm(work, unit="pair"):
            testbed, half = (models[ground.model].on(ground) for models in (testbeds, halves))
            pairs = (testbed.tuning_pairs if args.tuning else testbed.test_pairs)(args.pairs)
            if not measured.of("errors", ground):
                rows = rounding_errors.error_rows(testbed, pairs[0])
                measured.add(kind="errors", ground=ground.slug, rows=rows)
            if len(measured.of("pair", ground)) <= number:
                record = measure(testbed, half, pairs[number])
                measured.add(kind="pair", ground=ground.slug, **record)
    publish(page_of(grounds, measured, args.pairs), RESULTS if args.write else None)


if __name__ == "__main__":
    main()
