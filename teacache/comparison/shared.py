"""A comparison sampled in several processes, each with an uncached reference of its own.

Times of different processes, on different machines or beside other work, cannot be compared. So
every process samples the reference as well, and a speed-up is always the ratio of two times of one
process. Pictures and their likeness do not depend on the process, on one kind of machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..progress import Progress
from .axes import Point
from .runner import (
    WARM_UP,
    Comparison,
    PicturesListener,
    RunProgress,
    SamplingBackend,
    Variant,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Part:
    """What is sampled in one go: a point, or fewer steps without the cache.

    Args:
        point: its number; None for fewer steps.
        steps: sampling steps; None for those that are configured.
        references: runs of the reference beside it, unless the process has enough of them.
    """

    point: int | None
    steps: int | None = None
    references: int = 1


@dataclass(frozen=True)
class Measured:
    """The results of a part.

    Args:
        variant: what was sampled.
        reference: the reference, with the runs that were new.
        pictures, reference_pictures: [B, H, W, C], of the first run; None where that failed, or was
            in an earlier part.
    """

    variant: Variant
    reference: Variant
    pictures: Tensor | None
    reference_pictures: Tensor | None


Parts = Callable[[Sequence[Part]], Iterator[tuple[Part, Measured | Exception]]]
"""Samples parts, and gives each with its results, or why it could not be sampled anywhere, in the
order in which they end."""


class Bench:
    """One process's share of a comparison.

    It warms up once, with the point that one process alone would take, and samples the reference as
    often as each point: beside its first parts, so that both are timed under the same conditions.

    Args:
        process: its name.
        points, repeats: of the comparison.
        with_lpips: as for `Comparison`.
    """

    def __init__(
        self,
        process: str,
        backend: SamplingBackend,
        points: Sequence[Point],
        repeats: int,
        with_lpips: bool = True,
    ) -> None:
        self._process = process
        self._backend = backend
        self._comparison = Comparison(points, repeats, with_lpips=with_lpips)
        self._warm = False

    def sample(self, part: Part, on_progress: Callable[[Progress], None]) -> Measured:
        """Sample a part; progress is counted in its runs.

        Raises what the reference raises, or the first point if none of them can warm up.
        """
        comparison = self._comparison
        reference, known = comparison.reference, len(comparison.reference.seconds)
        wanted = min(max(part.references, 0 if known else 1), comparison.repeats - known)
        total, done, label = comparison.repeats + wanted, 0, WARM_UP

        def tell(progress: RunProgress) -> None:
            step = progress.step / progress.steps if progress.steps else 0.0
            on_progress(Progress(done + min(step, 1.0), total, label))

        if not self._warm:
            comparison.check(self._backend)
            comparison.warm_up(self._backend, tell)
            self._warm = True
        variant = Variant(None, part.steps)
        if part.point is not None:
            warm = comparison.variants[part.point]
            variant = Variant(warm.point, part.steps, failure=warm.failure)
        pictures: dict[Variant, Tensor] = {}
        for repeat in range(comparison.repeats):
            turn = [reference, variant] if repeat < wanted else [variant]
            for each in reversed(turn) if repeat % 2 else turn:
                if not variant.failure:
                    label = each.label
                    comparison.sample_in_turn([each], self._backend, tell, pictures.__setitem__)
                    done += 1
        variant.process = self._process
        seconds, runs = reference.seconds[known:], reference.runs[known:]
        return Measured(
            variant,
            replace(reference, seconds=seconds, runs=runs, process=self._process),
            pictures.get(variant),
            pictures.get(reference),
        )


def sample_in_parts(
    comparison: Comparison, parts: Parts, processes: int, on_pictures: PicturesListener
) -> None:
    """Sample everything, in as many processes as there are; what is done stays in the variants
    however this ends.

    Args:
        processes: about how many sample at once.

    Raises what the reference raises, or the first point if nothing could be sampled.
    """

    def collect(wanted: Sequence[Part], variants: Sequence[Variant]) -> None:
        by_part = dict(zip(wanted, variants, strict=True))
        for part, measured in parts(wanted):
            if isinstance(measured, Exception):
                by_part[part].failure = measured
            else:
                _take(comparison, by_part[part], measured, on_pictures)

    numbers = [n for n, variant in enumerate(comparison.variants) if not variant.failure]
    in_each = max(1, math.ceil(len(numbers) / processes))
    references = math.ceil(comparison.repeats / in_each)
    collect(
        [Part(number, references=references) for number in numbers],
        [comparison.variants[number] for number in numbers],
    )
    if not comparison.reference.seconds:
        comparison.raise_if_none_can_run()
    comparison.add_fewer_steps()
    collect([Part(None, each.steps, references) for each in comparison.fewer], comparison.fewer)


def _take(
    comparison: Comparison, variant: Variant, measured: Measured, on_pictures: PicturesListener
) -> None:
    """Add the results of a part to the comparison."""
    reference = comparison.reference
    first = not reference.seconds
    uncached = measured.reference
    if uncached.seconds:
        of_process = comparison.uncached_seconds.setdefault(uncached.process, [])
        of_process += uncached.seconds
        reference.merge(uncached)
        if first and measured.reference_pictures is not None:
            on_pictures(reference, measured.reference_pictures)
    variant.merge(measured.variant)
    if measured.pictures is not None:
        on_pictures(variant, measured.pictures)
