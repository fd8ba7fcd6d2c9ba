"""One page of what `benchmarks.pareto` measured on the rough grounds, from its journals.

    python -m benchmarks.pareto
    python -m benchmarks.rough --write

Of each ground: our default, our best other mode, faithful TeaCache, the best rival and fewer steps
at four measured speed-ups. Which mode or rival is the best one is decided at each speed-up, and for
each reference, by mean PSNR.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fronts import MEASURES, REFERENCES, Point, curves, points, quality_at_speedup
from benchmarks.grounds import GROUNDS, ROUGH, SPEEDUPS, Ground
from benchmarks.journal import Journal
from benchmarks.pareto import OUT, RESULTS, journal_path
from benchmarks.pareto_report import pairs_with_lpips, shown
from benchmarks.roughness import publish
from benchmarks.variants import FAITHFUL, FEWER, OURS, OURS_DEFAULT, OURS_IN_DIFFUSERS
from teacache.errors import UserError

PAGE = RESULTS / "rough.md"
DEFAULT, OTHER, RIVAL = "our default", "our best other mode", "best rival"
ROLES = (DEFAULT, OTHER, FAITHFUL, RIVAL, FEWER)
"""The rows of the tables."""
NAMED = (OTHER, RIVAL, FEWER)
"""Roles of several methods: the table says which one it is."""
ABOUT = """\
`python -m benchmarks.pareto`, then `python -m benchmarks.rough --write`. Speed-ups are measured:
processor time of the same host's uncached run over that of the method, of the same pair in the same
run, one thread; median over the pairs. Figures at a speed-up lie on each method's Pareto front,
interpolated between its neighbouring points over the logarithm of the speed-up. –: the front does
not reach it. ≥ and ≤: the front's slowest point is faster, and its figure is given. In small models
a skipped step costs a larger share of a computed one than in large ones. Points at which more than
5 % of the pictures are identical with the reference are left out.

The best other mode, the best rival and the best of fewer steps are those with the highest mean PSNR
at that speed-up, so that the name can change from cell to cell; of each column, that of the highest
is in bold. Rivals are the caches of ComfyUI, diffusers and cache-dit, and even skipping. No setting
was chosen on the pairs."""


@dataclass(frozen=True)
class Cell:
    """The best method of a role at a speed-up.

    Args:
        method: its name.
        figures: by name of a measure, what `quality_at_speedup` gives; None where the front of that
            measure does not reach the speed-up or it was not measured.
    """

    method: str
    figures: dict[str, tuple[float, bool] | None]

    @property
    def mean(self) -> float:
        """Mean PSNR in dB."""
        figure = self.figures["mean"]
        assert figure is not None
        return figure[0]


def role_of(point: Point) -> str | None:
    """The row that a point counts for; None for uncached runs and for our default in diffusers."""
    if point.is_uncached or point.method == OURS_IN_DIFFUSERS:
        return None
    if point.method == OURS_DEFAULT:
        return DEFAULT
    if point.group == OURS:
        return OTHER
    return point.group if point.group in (FAITHFUL, FEWER) else RIVAL


def best(measured: Sequence[Point], role: str, reference: str, speedup: float) -> Cell | None:
    """The method of a role with the highest mean PSNR at a speed-up; None if none reaches it."""
    mine = [point for point in measured if role_of(point) == role]
    by_measure = {measure: curves(mine, reference, measure) for measure in MEASURES}
    cells = [
        Cell(
            method,
            {
                measure: quality_at_speedup(found[method], speedup) if method in found else None
                for measure, found in by_measure.items()
            },
        )
        for method in by_measure["mean"]
    ]
    reached = [cell for cell in cells if cell.figures["mean"] is not None]
    return max(reached, key=lambda cell: cell.mean, default=None)


def cells(role: str, column: Mapping[str, Cell | None], measures: Sequence[str]) -> str:
    """What a table shows of a role: its figures, in bold if its mean PSNR is the highest."""
    cell = column[role]
    if cell is None:
        return "–"
    text = " / ".join(shown(cell.figures[measure], measure) for measure in measures)
    if cell.mean >= max(other.mean for other in column.values() if other is not None):
        text = f"**{text}**"
    method = cell.method.removeprefix(f"{OURS}: ").removeprefix(f"{FEWER}, ")
    return f"{method}: {text}" if role in NAMED else text


def best_of_roles(
    measured: Sequence[Point], reference: str, speedup: float
) -> dict[str, Cell | None]:
    """By role."""
    return {role: best(measured, role, reference, speedup) for role in ROLES}


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def overview(measured: Mapping[Ground, Sequence[Point]]) -> list[str]:
    """A table of all grounds: mean PSNR and that of the worst pairs, against the uncached."""
    rows = []
    for ground, of_ground in measured.items():
        for speedup in SPEEDUPS:
            column = best_of_roles(of_ground, "uncached", speedup)
            texts = [cells(role, column, ("mean", "worst")) for role in ROLES]
            rows.append([ground.name, f"{speedup:g}x", *texts])
    return markdown(["ground", "speed-up", *ROLES], rows)


def section(ground: Ground, journal: Journal, measured: Sequence[Point]) -> list[str]:
    """The lines of a ground: a table for each reference, by role and speed-up."""
    with_lpips = pairs_with_lpips(journal)
    measures = [measure for measure in MEASURES if with_lpips or measure != "lpips"]
    lpips = f"LPIPS on {with_lpips}" if with_lpips else f"no LPIPS ({journal.no_lpips})"
    points_page = journal_path(RESULTS, ground).with_suffix(".md")
    link = f" [All points]({points_page.name})." if points_page.is_file() else ""
    lines = [
        f"## {ground.name}",
        "",
        f"`{journal.header['command']}`: {len(journal.pairs)} pairs, {lpips}.{link}",
    ]
    units = "PSNR mean / worst 5 % in dB / 1 - SSIM" + " / LPIPS" * bool(with_lpips)
    for reference in REFERENCES:
        columns = [best_of_roles(measured, reference, speedup) for speedup in SPEEDUPS]
        head = [f"against the {reference} picture", *(f"{speedup:g}x" for speedup in SPEEDUPS)]
        rows = [[role, *(cells(role, column, measures) for column in columns)] for role in ROLES]
        lines += ["", f"{units} in 0.0001:", "", *markdown(head, rows)]
    return [*lines, ""]


def page(folder: Path) -> str:
    """The page of the journals in a folder.

    Raises:
        UserError: no rough ground has a complete pair, or one was measured on several threads.
    """
    journals, missing = {}, []
    for ground in (ground for ground in GROUNDS if ground.kind == ROUGH):
        path = journal_path(folder, ground)
        journal = Journal.read(path) if path.is_file() else None
        if journal is None or not journal.pairs:
            missing.append(ground.slug)
            continue
        if journal.header["threads"] != 1:
            raise UserError(
                f"{path} was measured on {journal.header['threads']} threads; processor time "
                "tells speed-ups on 1 alone"
            )
        journals[ground] = journal
    if not journals:
        raise UserError(f"{folder} has no complete pair of a rough ground yet")
    measured = {ground: points(journal, "cpu") for ground, journal in journals.items()}
    lines = ["# Beside rivals on the rough grounds", "", ABOUT, ""]
    if missing:
        lines += [f"Not measured: {', '.join(missing)}.", ""]
    lines += ["PSNR mean / worst 5 % in dB against the uncached picture:", "", *overview(measured)]
    lines += [""]
    for ground, journal in journals.items():
        lines += section(ground, journal, measured[ground])
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the measurements")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    args = parser.parse_args()
    try:
        text = page(args.out)
    except UserError as problem:
        parser.error(str(problem))
    publish(text, PAGE if args.write else None)


if __name__ == "__main__":
    main()
