"""What is cached, how change is measured, and what stands in: chosen together."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..config import TeaCacheConfig


@dataclass(frozen=True)
class Solver:
    """What is known of the sampler that a run serves.

    name: as the host calls it. smooth: whether its noise levels follow one trajectory, so that
    values may be extrapolated from step to step: no noise is added on the way, and nothing but
    the prediction itself is taken from the model. euler: whether a step is
    x + (next level - level) * derivative. single: whether it evaluates once at each level of the
    schedule, in order. own_levels: whether it chooses its noise levels itself, and may judge its
    next one by what the model has answered: every step is computed.
    """

    name: str
    smooth: bool
    euler: bool = False
    single: bool = False
    own_levels: bool = False


@dataclass(frozen=True)
class Method:
    """cached: `residual` of the block stack of each branch, or the whole `prediction`.
    indicator, predictor: as in `TeaCacheConfig`, without `auto`.
    """

    cached: str
    indicator: str
    predictor: str

    @property
    def whole(self) -> bool:
        return self.cached == "prediction"

    @property
    def name(self) -> str:
        """The mode's name, or the parts of a method that is none of them."""
        names = [name for name, known in (MODES | {"planned": PLANNED}).items() if known == self]
        return names[0] if names else f"{self.cached}, {self.indicator}, {self.predictor}"


FAITHFUL = Method("residual", "profile", "reuse")
"""TeaCache as published."""
FORECAST = Method("prediction", "rate", "damped")
"""The mode that measured best (docs/results.md)."""
PLANNED = Method("prediction", "plan", "damped")
"""What is computed stands before the run; skips as `forecast`."""
INSIDE = ("profile", "first_block")
"""Indicators that read the inside of the model."""
MODES = {"forecast": FORECAST, "faithful": FAITHFUL}


def asked_method(config: TeaCacheConfig) -> Method:
    """The method that `config` asks for."""
    chosen = MODES[config.mode]
    named = {
        part: value
        for part in ("cached", "indicator", "predictor")
        if (value := getattr(config, part)) != "auto"
    }
    if "cached" not in named and named.get("indicator") in INSIDE:
        named["cached"] = "residual"
    return replace(chosen, **named)


PACKED_NOTE = (
    "indicator=spectral needs a latent with height and width, and this pipeline hands its "
    "transformer a list of tokens: the profile's indicator is used."
)


def choose_method(
    config: TeaCacheConfig, solver: Solver, packed: bool = False
) -> tuple[Method, list[str]]:
    """What a run with `solver` uses, and a sentence for each part that differs from `config`.

    packed: the latent is a list of tokens.
    """
    method, notes = asked_method(config), []
    if method.indicator == "spectral" and packed:
        notes.append(PACKED_NOTE)
        method = replace(method, cached="residual", indicator="profile")
    if method.whole and method.indicator in INSIDE:
        notes.append(
            f"cached=prediction runs nothing of the model on a skipped step, so that "
            f"indicator={method.indicator} has nothing to read: rate is used."
        )
        method = replace(method, indicator="rate")
    if solver.smooth:
        return method, notes
    if solver.own_levels:
        notes.append(
            f"The sampler {solver.name} chooses its own noise levels: every step is computed."
        )
        return FAITHFUL, notes
    if method == FORECAST:
        notes.append(
            f"The sampler {solver.name} cannot be forecast (it adds noise, or takes more than the "
            "prediction from the model): the faithful mode is used."
        )
        return FAITHFUL, notes
    if method.whole or method.predictor != "reuse" or method.indicator == "rate":
        safe = replace(
            method,
            cached="residual",
            predictor="reuse",
            indicator="profile" if method.indicator == "rate" else method.indicator,
        )
        notes.append(
            f"The sampler {solver.name} cannot be extrapolated: cached={safe.cached}, "
            f"indicator={safe.indicator} and predictor={safe.predictor} are used."
        )
        method = safe
    return method, notes
