"""What is compared: every way to sample, by name, in groups."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks import peers
from benchmarks.sampling import EULER, Sampler
from benchmarks.testbeds import COMFYUI, DIFFUSERS, STEPS, UNCACHED

FEWER_STEPS = (33, 25, 17, 12)
SOLVERS: dict[str, Sampler] = {"dpmpp_2m": ("dpmpp_2m", {}), "lms, order 2": ("lms", {"order": 2})}
CONVERGED: Sampler = ("dpmpp_2m", {})
"""The sampler of the converged reference."""
OURS = "ours"
ABLATION_INTERVAL = 4
MAIN, ABLATION, BOTH = ("main",), ("ablation",), ("main", "ablation")
"""Runs that a variant is in: that with the rivals, that with our modes that are no default."""
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
        steps: None for those of the uncached run.
        sampler: ComfyUI's sampler.
        quick: whether `--quick` includes it.
        selections: values of `--variants` that include it, beside `all`.
        pair_interval: it runs on one of so many pairs, unless `--quick` or `--variants ablation`
            is given. Above 1 for methods far from the front, and for our modes beside the default.
        unsupported: why it does not run on a testbed, by the testbed's name.
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
    unsupported: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Unique among the variants."""
        return f"{self.method} {self.setting}".strip()


UNCACHED_ENABLE = {COMFYUI: peers.uncached_comfyui, DIFFUSERS: peers.uncached_diffusers}


def variants(steps: int = STEPS) -> list[Variant]:
    """All variants, the uncached runs first.

    Args:
        steps: of the uncached run. Thresholds and reduced numbers of steps are scaled with the
            step size, so that the points are at about the same speed-ups for any number.
    """
    scale = STEPS / steps
    result = [
        *uncached(),
        *fewer_steps(scale),
        *faithful_teacache(scale),
        *our_modes(scale),
        *comfyui_caches(scale),
        *diffusers_caches(scale),
    ]
    names = [variant.name for variant in result]
    if len(set(names)) < len(names):
        raise ValueError("two variants have one name")
    return result


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


def fewer_steps(scale: float) -> list[Variant]:
    result = [
        Variant(
            "fewer steps", f"fewer steps, {name}", f"{steps / scale:.0f}", COMFYUI,
            UNCACHED_ENABLE[COMFYUI], steps=round(steps / scale), sampler=sampler,
            quick=steps in (25, 12) and "lms" not in name,
        )
        for name, sampler in {"euler": EULER, **SOLVERS}.items()
        for steps in FEWER_STEPS
    ]  # fmt: skip
    result += [
        Variant(
            "even skipping", "even skipping", f"{skipped} of {skipped + 1}", COMFYUI,
            peers.teacache_comfyui(
                mode="faithful", rel_l1_thresh=peers.ALWAYS_SKIP, max_skip=skipped
            ),
            quick=skipped < 3,
        )
        for skipped in (1, 2, 3)
    ]  # fmt: skip
    return result


def faithful_teacache(scale: float) -> list[Variant]:
    return [
        Variant(
            "faithful TeaCache", "faithful TeaCache", f"{threshold * scale:g}", COMFYUI,
            peers.teacache_comfyui(mode="faithful", rel_l1_thresh=threshold * scale),
            quick=threshold in (0.2, 0.4),
            selections=BOTH if threshold in (0.12, 0.2, 0.4) else MAIN,
        )
        for threshold in (0.12, 0.2, 0.3, 0.4, 0.6)
    ]  # fmt: skip


def our_modes(scale: float) -> list[Variant]:
    def points(
        label: str, thresholds: tuple[float, ...], quick: tuple[float, ...] = (), **config: Any
    ) -> list[Variant]:
        def selections(threshold: float) -> tuple[str, ...]:
            if label != "forecast":
                return ABLATION
            return BOTH if threshold in (0.025, 0.05, 0.1, 0.2) else MAIN

        return [
            Variant(
                OURS, f"{OURS}: {label}", f"{threshold * scale:g}", COMFYUI,
                peers.teacache_comfyui(rel_l1_thresh=threshold * scale, **config),
                quick=threshold in quick, selections=selections(threshold),
                pair_interval=1 if label == "forecast" else ABLATION_INTERVAL,
            )
            for threshold in thresholds
        ]  # fmt: skip

    def residual(indicator: str, predictor: str, *thresholds: float) -> list[Variant]:
        return points(
            f"residual, {indicator}, {predictor}", thresholds, cached="residual",
            indicator=indicator, predictor=predictor, mode="forecast",
        )  # fmt: skip

    forecast: dict[str, Any] = {"mode": "forecast"}
    plans = peers.CalibratedPlans()
    return [
        *(
            Variant(
                OURS, f"{OURS}: planned", f"{speedup:g}x", COMFYUI, plans.for_speedup(speedup),
                quick=speedup in (2.0, 3.0),
            )
            for speedup in (1.5, 2.0, 2.5, 3.0, 4.0)
        ),
        *points(
            "forecast", (0.02, 0.025, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5), (0.05, 0.1, 0.2), **forecast
        ),
        *(
            Variant(
                OURS, f"{OURS}: forecast, dpmpp_2m", f"{threshold * scale:g}", COMFYUI,
                peers.teacache_comfyui(rel_l1_thresh=threshold * scale, **forecast),
                sampler=SOLVERS["dpmpp_2m"], quick=threshold == 0.1,
            )
            for threshold in (0.02, 0.03, 0.05, 0.1, 0.2)
        ),
        *points("forecast, reuse", (0.025, 0.1, 0.2), predictor="reuse", **forecast),
        *points("forecast, linear", (0.025, 0.1, 0.2), predictor="linear", **forecast),
        *residual("rate", "reuse", 0.05, 0.2, 0.5),
        *residual("rate", "linear", 0.02, 0.05, 0.2),
        *residual("rate", "damped", 0.02, 0.05, 0.2),
        *residual("profile", "linear", 0.12, 0.2, 0.4),
        *residual("profile", "damped", 0.12, 0.2, 0.4),
        *(
            Variant(
                OURS, f"{OURS}: forecast, diffusers", f"{threshold * scale:g}", DIFFUSERS,
                peers.teacache_diffusers(threshold * scale, mode="forecast"),
                quick=threshold == 0.2,
            )
            for threshold in (0.03, 0.1, 0.2)
        ),
    ]  # fmt: skip


def comfyui_caches(scale: float) -> list[Variant]:
    nodes = {
        "EasyCache": (peers.easycache, (0.02, 0.05, 0.1, 0.2)),
        "LazyCache": (peers.lazycache, (0.02, 0.05, 0.1, 0.2)),
    }
    return [
        Variant(
            "in ComfyUI", name, f"{threshold * scale:g}", COMFYUI, enable(threshold * scale),
            quick=threshold in (0.05, 0.1),
        )
        for name, (enable, thresholds) in nodes.items()
        for threshold in thresholds
    ]  # fmt: skip


def diffusers_caches(scale: float) -> list[Variant]:
    no_batch = {
        "digits": "FasterCache needs both branches of guidance in one batch; the Wan pipeline "
        "calls the model once for each"
    }
    ratios, warmup = peers.MagCacheRatios(), round(8 / scale)
    wide = {"retention_ratio": 0.1, "max_skip_steps": 5}
    methods: list[tuple[str, str, peers.Enable, bool, dict[str, str]]] = [
        *(("FirstBlockCache", f"{t * scale:g}", peers.first_block_cache(t * scale),
           t in (0.05, 0.1), {}) for t in (0.03, 0.05, 0.1, 0.2)),
        *(("MagCache", f"{t * scale:g}", peers.magcache(ratios, t * scale), t == 0.12, {})
          for t in (0.06, 0.12)),
        *(("MagCache", f"{t * scale:g}, from 10 %, 5 in a row",
           peers.magcache(ratios, t * scale, **wide), False, {}) for t in (0.12, 0.3)),
        *(("TaylorSeer, lite", f"every {n}.", peers.taylorseer(n, True), n in (2, 4), {})
          for n in (2, 3, 4, 5)),
        ("TaylorSeer, attention", "every 4.", peers.taylorseer(4, False), False, {}),
        *(("FasterCache", f"below {t}", peers.fastercache(t), t == 641, no_batch)
          for t in (641, 1001)),
        *(("SeaCache", f"{t * scale:g}", peers.seacache(t * scale), t == 0.25, {})
          for t in (0.1, 0.25)),
        *(("SeaCache", f"{t * scale:g}, {n} in a row",
           peers.seacache(t * scale, max_consecutive_cached=n), False, {})
          for t, n in ((0.5, 3), (1.0, 5))),
    ]  # fmt: skip
    for name, taylor in (("DBCache", False), ("DBCache + TaylorSeer", True)):
        methods += [
            (name, f"F1B0 {t * scale:g}", peers.dbcache(t * scale, 1, warmup, taylor), t == 0.1, {})
            for t in (0.05, 0.1, 0.2)
        ]
    return [
        Variant(
            "cache-dit" if "DBCache" in method else "in diffusers",
            method, setting, DIFFUSERS, enable, quick=quick, unsupported=unsupported,
            pair_interval=4 if method in FAR_FROM_FRONT else 1,
        )
        for method, setting, enable, quick, unsupported in methods
    ]  # fmt: skip
