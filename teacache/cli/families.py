"""`teacache families`: the table of model families, as text or as docs/families.md."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import tables
from ..profiles.profile import Profile, load_profiles

if TYPE_CHECKING:
    from ..families.spec import Family, Uncacheable

TESTED = {
    "run": "run",
    "newer": "run on 0.33",
    "stand_in": "on a stand-in",
    "read": "read only",
}

PAGE = """# Model families

<!-- Made by `python -m teacache families --markdown`; a test compares the two. -->

TeaCache recognises the model by the class of its transformer; nothing has to be chosen. The mode
`forecast` needs nothing else of it: models that are in no row, UNets of Stable Diffusion 1.5 and
SDXL first, have that mode alone. For the mode `faithful` and the indicator `profile`, each family
has one or more profiles: the polynomial that turns the measured change of an indicator into the
distance that is added up until it reaches the threshold.

- **Indicator**: what is compared from step to step. `modulated_input`: the tokens that enter the
  first attention. `timestep`, `timestep_projection`: the embedding of the noise level, known for
  the whole run before its first step. `stack_input`: the tokens that enter the first block.
- **Threshold**: the value used while the node's threshold stands at its default.
- **Calibrated**: whether somebody fitted the polynomial to this model. An uncalibrated profile
  adds up four times the indicator's own change, a slope set by hand so that 0.2 skips about half
  of 50 steps on the demo model, or is a set whose origin is unknown.
- **Published**: thresholds that the source of the profile names, with the speed-up it states.
- **Tested**: *run* on a small instance of ComfyUI's own class, with blocks counted and results
  compared; *run on 0.33* where the class exists only in newer ComfyUI than the oldest supported
  one; *on a stand-in* of the same structure, where only a ComfyUI newer than 0.33 has the class;
  *read only* in the source of a newer ComfyUI.

{table}

## Forecast only

The block stack of these cannot be cached; their predictions are continued, in the mode `forecast`.

{forecast_only}

## Left as they are

These are recognised too; the node says why they run without the cache.

{untouched}
"""


@dataclass(frozen=True)
class Row:
    """One profile of one family."""

    family: str
    tested: str
    profile: Profile

    @property
    def calibrated(self) -> str:
        return "yes" if self.profile.calibrated else "no"

    @property
    def published(self) -> str:
        return ", ".join(
            f"{threshold.value:g}" + (f" ({threshold.effect})" if threshold.effect else "")
            for threshold in self.profile.thresholds
        )

    def cells(self) -> list[str]:
        profile = self.profile
        threshold = f"{profile.default_threshold:g}"
        return [
            self.family,
            profile.name,
            profile.indicator,
            threshold,
            self.calibrated,
            self.tested,
        ]


COLUMNS = ["Family", "Profile", "Indicator", "Threshold", "Calibrated", "Tested"]


def _tables() -> tuple[Sequence[Family], Sequence[Uncacheable]]:
    """The families, imported here because that loads torch, which other commands do without."""
    from ..families.registry import FAMILIES, UNCACHEABLE

    return FAMILIES, UNCACHEABLE


def rows() -> list[Row]:
    """Every profile of every family, in the order of the table."""
    families, _ = _tables()
    profiles = load_profiles().values()
    return [
        Row(family.name, TESTED[family.tested], profile)
        for family in families
        for profile in profiles
        if profile.family == family.id
    ]


def text() -> str:
    """The table for a terminal."""
    cells = [COLUMNS, *(row.cells() for row in rows())]
    lines = [tables.aligned(cells, len(COLUMNS), rule=True)]
    for heading, forecast in (("Forecast only", True), ("Left as they are", False)):
        named = [": ".join(entry) for entry in _without_blocks(forecast)]
        lines += ["", f"{heading}:", *named]
    return "\n".join(lines)


def markdown() -> str:
    """docs/families.md."""
    header = [*COLUMNS, "Published", "Source"]
    body = ([*row.cells(), row.published, row.profile.source] for row in rows())
    columns = ["Model", "Why"]
    return PAGE.format(
        table=tables.markdown(header, body),
        forecast_only=tables.markdown(columns, _without_blocks(True)),
        untouched=tables.markdown(columns, _without_blocks(False)),
    )


def _without_blocks(forecast: bool) -> list[list[str]]:
    """Name and reason of the models whose blocks cannot be cached: those that can be forecast, or
    the others."""
    return [[entry.name, entry.reason] for entry in _tables()[1] if entry.forecast is forecast]


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "families",
        help="list the model families and their profiles",
        description="Lists the model families, their profiles, and how each entry was tested.",
    )
    parser.add_argument("--markdown", action="store_true", help="as the page docs/families.md")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    print(markdown() if args.markdown else text(), end="" if args.markdown else "\n")
    return 0
