"""What is compared: every way to sample, by name, in groups."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from benchmarks import peers
from benchmarks.grounds import SPEEDUPS, Ground
from benchmarks.sampling import EULER, Sampler
from benchmarks.testbeds import COMFYUI, DIFFUSERS, STEPS, UNCACHED

FEWER_STEPS = (*SPEEDUPS, 3.0)
"""Speed-ups that numbers of steps are chosen for."""
SOLVERS: dict[str, Sampler] = {"dpmpp_2m": ("dpmpp_2m", {}), "lms, order 2": ("lms", {"order": 2})}
CONVERGED: Sampler = ("dpmpp_2m", {})
"""The sampler of the converged reference."""
OURS = "ours"
OURS_DEFAULT, OURS_IN_DIFFUSERS = f"{OURS}: forecast", f"{OURS}: forecast, diffusers"
FAITHFUL, FEWER = "faithful TeaCache", "fewer steps"
RESIDUALS = "forecast, residuals"
ABLATION_INTERVAL = 4
MAIN, ABLATION, BOTH = ("main",), ("ablation",), ("main", "ablation")
"""Runs that a variant is in: that with the rivals, that with our modes that are no default."""
PIPELINES_WITHOUT_BATCH = {"digits": "Wan", "photos": "FLUX"}
"""By model: pipelines that call it once for each branch of guidance."""
FAR_FROM_FRONT = ("FasterCache", "TaylorSeer, attention")


@dataclass(frozen=True)
class Variant:
    """A method with one setting.

    Args:
        group: heading in the table.
        method: a line in the plots.
        setting: a point on that line.
        host: `COMFYUI` or `DIFFUSERS`.
        enable: enables the method on a testbed.
        steps: None for the ground's.
        sampler: ComfyUI's sampler.
        quick: whether `--quick` includes it.
        selections: values of `--variants` that include it, beside `all`.
        pair_interval: it runs on one of so many pairs, unless `--quick` or `--variants ablation`
            is given. Above 1 for methods far from the front, and for our modes beside the default.
        unsupported: why it does not run on the ground, if so.
    """

    group: str
    method: str
    setting: str
    host: str
    enable: peers.Enable
    steps: int | None = None
    sampler: Sampler = EULER
    quick: bool = False
    selections: tuple[str, ...] = MAIN
    pair_interval: int = 1
    unsupported: str | None = None

    @property
    def name(self) -> str:
        """Unique among the variants."""
        return f"{self.method} {self.setting}".strip()


UNCACHED_ENABLE = {COMFYUI: peers.uncached_comfyui, DIFFUSERS: peers.uncached_diffusers}


def variants(ground: Ground) -> list[Variant]:
    """All variants on a ground, the uncached runs first.

    Thresholds are scaled with the step size, so that the points are at about the same speed-ups for
    any number of steps.
    """
    scale = STEPS / ground.steps
    result = [
        *uncached(),
        *fewer_steps(ground),
        *even_skipping(),
        *faithful_teacache(scale),
        *our_modes(scale),
        *(our_default_on_second_order(scale) if ground.sampler == EULER[0] else []),
        *our_default_in_diffusers(scale),
        *comfyui_caches(scale),
        *diffusers_caches(scale, ground.model),
    ]
    if ground.sampler != EULER[0]:
        result = [with_sampler(variant, (ground.sampler, {})) for variant in result]
    if not ground.has_blocks:
        result = [without_blocks(variant) for variant in result]
    names = [variant.name for variant in result]
    if len(set(names)) < len(names):
        raise ValueError("two variants have one name")
    return result


def with_sampler(variant: Variant, sampler: Sampler) -> Variant:
    """The variant on a ground with another sampler than Euler."""
    if variant.host == DIFFUSERS:
        return replace(variant, unsupported="on diffusers the testbeds take Euler steps alone")
    return replace(variant, sampler=sampler)


def without_blocks(variant: Variant) -> Variant:
    """The variant on a ground whose model is no list of blocks."""
    of_ours = (FAITHFUL, "even skipping", f"{OURS}: {RESIDUALS}", f"{OURS}: residual")
    if variant.method.startswith(of_ours):
        return replace(variant, unsupported="it needs the list of blocks, which a UNet has not")
    if variant.group in ("in diffusers", "cache-dit"):
        return replace(variant, unsupported="it is for transformers; this model is a UNet")
    return variant


def uncached() -> list[Variant]:
    result = [
        Variant("no cache", name, "", host, UNCACHED_ENABLE[host], quick=True, selections=BOTH)
        for host, name in UNCACHED.items()
    ]
    result += [
        Variant(
            "noise floor", name, "again", host, UNCACHED_ENABLE[host], quick=True, pair_interval=8
        )
        for host, name in UNCACHED.items()
    ]
    return result


def fewer_steps(ground: Ground) -> list[Variant]:
    """The ground's sampler with fewer steps; beside Euler, other solvers with as many."""
    counts = {round(ground.steps / speedup): speedup for speedup in FEWER_STEPS}
    solvers: dict[str, Sampler] = {ground.sampler: (ground.sampler, {})}
    if ground.sampler == EULER[0]:
        solvers |= SOLVERS
    return [
        Variant(
            FEWER, f"{FEWER}, {name}", f"{steps}", COMFYUI,
            UNCACHED_ENABLE[COMFYUI], steps=steps, sampler=sampler,
            quick=speedup in (2.0, 3.0) and "lms" not in name,
        )
        for name, sampler in solvers.items()
        for steps, speedup in counts.items()
    ]  # fmt: skip


def even_skipping() -> list[Variant]:
    return [
        Variant(
            "even skipping", "even skipping", f"{skipped} of {skipped + 1}", COMFYUI,
            peers.teacache_comfyui(
                mode="faithful", rel_l1_thresh=peers.ALWAYS_SKIP, max_skip=skipped
            ),
            quick=skipped < 3,
        )
        for skipped in (1, 2, 3)
    ]  # fmt: skip


def faithful_teacache(scale: float) -> list[Variant]:
    return [
        Variant(
            FAITHFUL, FAITHFUL, f"{threshold * scale:g}", COMFYUI,
            peers.teacache_comfyui(mode="faithful", rel_l1_thresh=threshold * scale),
            quick=threshold in (0.2, 0.4),
            selections=BOTH if threshold in (0.12, 0.2, 0.4) else MAIN,
        )
        for threshold in (0.06, 0.09, 0.12, 0.2, 0.3, 0.4, 0.6)
    ]  # fmt: skip


def our_modes(scale: float) -> list[Variant]:
    def points(
        label: str, thresholds: tuple[float, ...], quick: tuple[float, ...] = (), **config: Any
    ) -> list[Variant]:
        def selections(threshold: float) -> tuple[str, ...]:
            if label == RESIDUALS:
                return BOTH
            if label != "forecast":
                return ABLATION
            return BOTH if threshold in (0.025, 0.05, 0.1, 0.2) else MAIN

        return [
            Variant(
                OURS, f"{OURS}: {label}", f"{threshold * scale:g}", COMFYUI,
                peers.teacache_comfyui(rel_l1_thresh=threshold * scale, **config),
                quick=threshold in quick, selections=selections(threshold),
                pair_interval=1 if label in ("forecast", RESIDUALS) else ABLATION_INTERVAL,
            )
            for threshold in thresholds
        ]  # fmt: skip

    def residual(indicator: str, predictor: str, *thresholds: float) -> list[Variant]:
        return points(
            f"residual, {indicator}, {predictor}", thresholds, cached="residual",
            indicator=indicator, predictor=predictor, mode="forecast",
        )  # fmt: skip

    forecast: dict[str, Any] = {"mode": "forecast"}
    presets = {
        "preset": peers.Presets(),
        "preset, one run": peers.Presets(quick=True),
        "preset, calibrated": peers.Presets(quick=False),
    }
    return [
        *(
            Variant(
                OURS, f"{OURS}: {name}", f"{speedup:g}x", COMFYUI, ways.for_speedup(speedup),
                quick=speedup in (2.0, 3.0),
            )
            for name, ways in presets.items()
            for speedup in (1.25, 1.5, 1.8, 2.0, 3.0)
        ),
        *points(
            "forecast", (0.005, 0.01, 0.02, 0.025, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5),
            (0.05, 0.1, 0.2), **forecast,
        ),
        *points(
            RESIDUALS, (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5), (0.1,), cached="residual",
            **forecast,
        ),
        *points("forecast, reuse", (0.025, 0.1, 0.2), predictor="reuse", **forecast),
        *points("forecast, linear", (0.025, 0.1, 0.2), predictor="linear", **forecast),
        *residual("rate", "reuse", 0.05, 0.2, 0.5),
        *residual("rate", "linear", 0.02, 0.05, 0.2),
        *residual("rate", "damped", 0.02, 0.05, 0.2),
        *residual("profile", "linear", 0.12, 0.2, 0.4),
        *residual("profile", "damped", 0.12, 0.2, 0.4),
    ]  # fmt: skip


def our_default_on_second_order(scale: float) -> list[Variant]:
    return [
        Variant(
            OURS, f"{OURS}: forecast, dpmpp_2m", f"{threshold * scale:g}", COMFYUI,
            peers.teacache_comfyui(rel_l1_thresh=threshold * scale, mode="forecast"),
            sampler=SOLVERS["dpmpp_2m"], quick=threshold == 0.1,
        )
        for threshold in (0.02, 0.03, 0.05, 0.1, 0.2)
    ]  # fmt: skip


def our_default_in_diffusers(scale: float) -> list[Variant]:
    return [
        Variant(
            OURS, OURS_IN_DIFFUSERS, f"{threshold * scale:g}", DIFFUSERS,
            peers.teacache_diffusers(threshold * scale, mode="forecast"),
            quick=threshold == 0.2,
        )
        for threshold in (0.03, 0.1, 0.2)
    ]  # fmt: skip


def comfyui_caches(scale: float) -> list[Variant]:
    nodes = {
        "EasyCache": (peers.easycache, (0.007, 0.012, 0.02, 0.05, 0.1, 0.2, 0.5)),
        "LazyCache": (peers.lazycache, (0.004, 0.02, 0.05, 0.1, 0.2, 0.5)),
    }
    return [
        Variant(
            "in ComfyUI", name, f"{threshold * scale:g}", COMFYUI, enable(threshold * scale),
            quick=threshold in (0.05, 0.1),
        )
        for name, (enable, thresholds) in nodes.items()
        for threshold in thresholds
    ]  # fmt: skip


def diffusers_caches(scale: float, model: str) -> list[Variant]:
    no_batch = None
    if model == "photos-distilled":
        no_batch = "FasterCache needs two branches of guidance, and this model has one"
    elif model in PIPELINES_WITHOUT_BATCH:
        no_batch = (
            "FasterCache needs both branches of guidance in one batch; the "
            f"{PIPELINES_WITHOUT_BATCH[model]} pipeline calls the model once for each"
        )
    ratios, warmup = peers.MagCacheRatios(), round(8 / scale)
    wide = {"retention_ratio": 0.1, "max_skip_steps": 5}
    methods: list[tuple[str, str, peers.Enable, bool, str | None]] = [
        *(("FirstBlockCache", f"{t * scale:g}", peers.first_block_cache(t * scale),
           t in (0.05, 0.1), None) for t in (0.02, 0.03, 0.05, 0.1, 0.2)),
        *(("MagCache", f"{t * scale:g}", peers.magcache(ratios, t * scale), t == 0.12, None)
          for t in (0.003, 0.01, 0.03, 0.06, 0.12)),
        *(("MagCache", f"{t * scale:g}, from 10 %, 5 in a row",
           peers.magcache(ratios, t * scale, **wide), False, None) for t in (0.12, 0.3)),
        *(("TaylorSeer, lite", f"every {n}.", peers.taylorseer(n, True), n in (2, 4), None)
          for n in (2, 3, 4, 5)),
        ("TaylorSeer, attention", "every 4.", peers.taylorseer(4, False), False, None),
        *(("FasterCache", f"below {t}", peers.fastercache(t), t == 641, no_batch)
          for t in (641, 1001)),
        *(("SeaCache", f"{t * scale:g}", peers.seacache(t * scale), t == 0.25, None)
          for t in (0.035, 0.06, 0.1, 0.25)),
        *(("SeaCache", f"{t * scale:g}, {n} in a row",
           peers.seacache(t * scale, max_consecutive_cached=n), False, None)
          for t, n in ((0.5, 3), (1.0, 5))),
    ]  # fmt: skip
    for name, taylor in (("DBCache", False), ("DBCache + TaylorSeer", True)):
        methods += [
            (name, f"F1B0 {t * scale:g}", peers.dbcache(t * scale, 1, warmup, taylor),
             t == 0.1, None)
            for t in (0.025, 0.05, 0.1, 0.2)
        ]  # fmt: skip
    return [
        Variant(
            "cache-dit" if "DBCache" in method else "in diffusers",
            method, setting, DIFFUSERS, enable, quick=quick, unsupported=unsupported,
            pair_interval=4 if method in FAR_FROM_FRONT else 1,
        )
        for method, setting, enable, quick, unsupported in methods
    ]  # fmt: skip
