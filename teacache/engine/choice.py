"""What one run does: everything that is settled before its first step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..config import TeaCacheConfig
from ..profiles.profile import Profile, threshold_of, with_range
from .strategy import FAITHFUL, PLANNED, Method, Solver, choose_method

NEVER_SKIP = 1e-30
"""A threshold that no change stays under."""


@dataclass(frozen=True)
class Choice:
    """config: with the range of steps that applies. threshold: in the indicator's distance; 0 is
    off. plan: the steps that are computed, where that is settled. notes: a sentence for each part
    that differs from what was asked for. evidence: what a preset was resolved to, and why.
    """

    config: TeaCacheConfig
    profile: Profile
    method: Method
    threshold: float
    plan: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    evidence: str = ""


def plain_choice(
    config: TeaCacheConfig, profile: Profile, solver: Solver, packed: bool = False
) -> Choice:
    """By mode and threshold. packed: the latent is a list of tokens, without height and width."""
    method, notes = choose_method(config, solver, packed)
    threshold = threshold_of(config, profile, method)
    config = with_range(config, profile, method)
    return Choice(config, profile, method, threshold, notes=tuple(notes))


def planned_choice(config: TeaCacheConfig, profile: Profile, plan: tuple[int, ...]) -> Choice:
    """Computes the steps of `plan`; the rest is predicted."""
    return Choice(config, profile, PLANNED, 1.0, plan)


def recording_choice(config: TeaCacheConfig, profile: Profile) -> Choice:
    """Computes every step, and reads what the profile reads."""
    every = replace(config, start_percent=0.0, end_percent=1.0)
    return Choice(every, replace(profile, warmup_steps=0), FAITHFUL, NEVER_SKIP)
