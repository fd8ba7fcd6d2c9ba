"""Schedules, sizes and types that change from run to run, and within one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hostile import (
    MODES,
    SKIP_HALF,
    cached_run,
    latent,
    live_objects,
    run,
    sample_custom,
    skip_pattern,
    small_model,
)
from sampling import SKIP_ALL, SKIP_NONE, cached, report_of, spying

from teacache.report import Reason

pytestmark = pytest.mark.usefixtures("comfy")
both_modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(scope="module")
def model(comfy: Any) -> Any:
    return small_model()


def even(steps: int) -> list[float]:
    return [1 - step / steps for step in range(steps)] + [0.0]


# --- few steps ------------------------------------------------------------------------------------


@both_modes
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_few_steps(model: Any, steps: int, mode: str) -> None:
    """The first and the last one are computed whatever the threshold; nothing to skip is told."""
    native = run(model, steps=steps)
    got, report = cached_run(model, mode, SKIP_ALL, steps=steps)
    assert (report.steps, len(report.records)) == (steps, steps)
    assert not report.records[0].skipped and not report.records[-1].skipped
    needed = {"forecast": 4, "faithful": 2}[mode]  # a forecast needs three values of its own
    if steps <= needed:
        assert torch.equal(got, native)
        assert f"this is a {steps}-step schedule" in report.advice
    elif mode == "faithful":
        assert skip_pattern(report) == "c" + "s" * (steps - 2) + "c"
    else:
        assert skip_pattern(report).startswith("cccs")


# --- levels ---------------------------------------------------------------------------------------

RISES = [1.0, 0.8, 0.6, 0.4, 0.7, 0.5, 0.3, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
REPEATS = [1.0, 0.9, 0.8, 0.8, 0.7, 0.6, 0.6, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
TWO_ROUNDS = [*even(6)[:-1], *even(6)]
ENDS_NOISY = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
CLIMBS = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


@both_modes
@pytest.mark.parametrize("sigmas", [RISES, REPEATS, TWO_ROUNDS, ENDS_NOISY, CLIMBS])
def test_levels_in_any_order(model: Any, sigmas: list[float], mode: str) -> None:
    """Each evaluation is its own step; off is native; the skips are finite and leave nothing.

    Where a step does not move, one of its two evaluations adds nothing, under any threshold.
    """
    start = torch.ones(1, 16, 4, 4) if sigmas is CLIMBS else latent()
    native = sample_custom(model, sigmas, start=start)
    for threshold in (SKIP_NONE, SKIP_HALF[mode], SKIP_ALL):
        clone, handle = cached(model, threshold, mode=mode)
        got = sample_custom(clone, sigmas, start=start)
        report = report_of(handle)
        assert [record.step for record in report.records] == list(range(len(sigmas) - 1))
        assert torch.isfinite(got).all()
        assert not report.records[0].skipped
        leaves_noise = sigmas is ENDS_NOISY and mode == "forecast"
        assert leaves_noise or not report.records[-1].skipped
        if threshold == SKIP_NONE:
            torch.testing.assert_close(got, native, rtol=0, atol=1e-5 if sigmas is REPEATS else 0)
            lengths = [b - a for a, b in pairwise(report.sigmas)]
            moved = [bool(a and b) for a, b in zip(lengths, [1.0, *lengths], strict=False)]
            assert not any(r.skipped for r, m in zip(report.records, moved, strict=True) if m)
    assert report.skipped
    assert live_objects() == []


def test_nothing_is_continued_around_a_turn(model: Any) -> None:
    """What was seen on the way down does not foretell the way up: what follows is computed."""
    clone, handle = cached(model, SKIP_ALL, mode="forecast")
    sample_custom(clone, RISES)
    records = report_of(handle).records
    turns = [
        step
        for step, ((a, b), (_, c)) in enumerate(pairwise(pairwise(RISES)), start=1)
        if (b - a) * (c - b) < 0
    ]
    assert turns == [3, 4, 6, 7]
    assert [records[turn].reason for turn in turns] == [Reason.FIRST] * 4
    assert records[-2].skipped, "nothing is skipped behind the last turn"


@both_modes
def test_split_sigmas(model: Any, mode: str) -> None:
    """The second sampler knows nothing of the first: it equals one with a cache of its own."""
    high, low = even(16)[:9], even(16)[8:]
    shared, handle = cached(model, SKIP_HALF[mode], mode=mode)
    middle = sample_custom(shared, high)
    first = report_of(handle)
    got = sample_custom(shared, low, start=middle, noise=torch.zeros_like(middle))
    second = report_of(handle)
    fresh, alone = cached(model, SKIP_HALF[mode], mode=mode)
    assert torch.equal(got, sample_custom(fresh, low, start=middle, noise=torch.zeros_like(middle)))
    assert skip_pattern(second) == skip_pattern(report_of(alone))
    for report in (first, second):
        assert report.steps == len(report.records) == 8 and report.skipped
        assert report.records[0].reason is Reason.FIRST
    assert second.records[-1].reason is Reason.LAST
    assert (first.records[-1].reason is Reason.LAST) == (mode == "faithful")


# --- sizes, types, rows ---------------------------------------------------------------------------


@both_modes
def test_a_second_pass_in_another_size(model: Any, mode: str) -> None:
    """Hi-res: the first pass's latent, enlarged and denoised in part, with the same cache."""

    def passes(clone: Callable[[], tuple[Any, Any]]) -> list[torch.Tensor]:
        patched, _ = clone()
        first = run(patched, steps=10)
        large = torch.nn.functional.interpolate(first, scale_factor=2.0)
        patched, handle = clone()
        second = run(patched, steps=12, denoise=0.6, latent=large)
        report = report_of(handle)
        assert report.steps == len(report.records) == 12 and report.sigmas[0] < 0.9
        assert report.records[0].reason is Reason.FIRST and report.skipped
        return [first, second]

    shared = cached(model, SKIP_HALF[mode], mode=mode)
    one, two = passes(lambda: shared), passes(lambda: cached(model, SKIP_HALF[mode], mode=mode))
    assert all(map(torch.equal, one, two))
    assert two[1].shape == (1, 16, 8, 8)


@both_modes
def test_another_type_from_run_to_run(mode: str) -> None:
    model = small_model()
    shared, handle = cached(model, SKIP_HALF[mode], mode=mode)
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        model.model.to(dtype)
        model.model.manual_cast_dtype = dtype
        got = run(shared, steps=12)
        assert report_of(handle).skipped and not report_of(handle).warnings
        assert torch.equal(got, cached_run(model, mode, steps=12)[0])


def growing(after: int, change: Callable[[torch.Tensor], torch.Tensor], name: str) -> Any:
    """Euler's method that goes on with another latent after some steps."""
    import comfy.samplers

    def sample(model: Any, x: Any, sigmas: Any, extra_args: Any, **_: Any) -> torch.Tensor:
        for step, (sigma, following) in enumerate(pairwise(sigmas)):
            if step == after:
                x = change(x)
            denoised = model(x, sigma * x.new_ones([x.shape[0]]).float(), **extra_args)
            x = x + (following - sigma) * (x - denoised) / sigma
        return x

    sample.__name__ = name
    return comfy.samplers.KSAMPLER(sample)


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        (lambda x: x.repeat(1, 1, 2, 2), (1, 16, 8, 8)),
        (lambda x: x.repeat(2, 1, 1, 1), (2, 16, 4, 4)),
        (lambda x: x.double(), (1, 16, 4, 4)),
    ],
    ids=["size", "batch", "type"],
)
@both_modes
def test_another_latent_within_a_run_is_computed(
    model: Any, change: Any, shape: tuple[int, ...], mode: str
) -> None:
    sampler = growing(6, change, "sample_euler" if mode == "forecast" else "sample_growing")
    native = sample_custom(model, even(12), sampler=sampler)
    clone, handle = cached(model, SKIP_NONE, mode=mode)
    assert torch.equal(sample_custom(clone, even(12), sampler=sampler), native)
    clone, handle = cached(model, SKIP_ALL, mode=mode)
    got = sample_custom(clone, even(12), sampler=sampler)
    assert got.shape == shape and torch.isfinite(got).all()
    records = report_of(handle).records
    assert records[6].reason is Reason.MISMATCH
    assert records[5].skipped and any(record.skipped for record in records[7:])


@both_modes
@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("batch", [2, 5])
def test_the_rows_of_a_batch_stay_apart(model: Any, batch: int, cfg: float, mode: str) -> None:
    """Each row is what it is alone, where every eligible step is skipped in both."""
    import comfy.sample

    noise = comfy.sample.prepare_noise(latent(batch), 7)
    settings = {"max_skip": 1, "mode": mode}
    clone, handle = cached(model, SKIP_ALL, **settings)
    with spying(model) as spy:
        together = sample_custom(clone, even(12), noise=noise, start=latent(batch), cfg=cfg)
    decided = skip_pattern(report_of(handle))
    assert decided.count("s") >= 3
    assert len(spy.per_call) == (decided.count("c") if mode == "forecast" else 12)
    for row in range(batch):
        alone = sample_custom(clone, even(12), noise=noise[row : row + 1], cfg=cfg)
        assert skip_pattern(report_of(handle)) == decided
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-3, atol=1e-3)
    assert (together[0] - together[1]).abs().mean() > 0.1
