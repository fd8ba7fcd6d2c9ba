"""Indicators that need no coefficients: the error rate, the noise-aware view, the first block."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampling import SKIP_ALL, cached, recording, report_of, sample, spying, stack_blocks

from teacache.config import FORCE_COMPUTE, TeaCacheConfig
from teacache.engine.decision import Decision
from teacache.engine.device import DeviceReader
from teacache.engine.forward import PredictionForward
from teacache.engine.indicators import ErrorRate, StackInputReader, spectral_view
from teacache.engine.predictors import Predictor, make_predictor
from teacache.engine.run import Run
from teacache.engine.strategy import SamplerTraits, settings_from_config
from teacache.families.comfyui.image import SD3
from teacache.families.registry import find_family
from teacache.families.streams import BlockArguments
from teacache.profiles.profile import load_profiles

EULER = SamplerTraits("euler", deterministic=True, euler=True, one_eval_per_step=True)


# --- the error rate ------------------------------------------------------------------------------


def rate_after(name: str, series: list[tuple[float, float]]) -> tuple[ErrorRate, Predictor]:
    predictor, rate = make_predictor(name), ErrorRate(DeviceReader())
    for sigma, value in series:
        tensor = torch.tensor([[value]])
        rate.measure(predictor, sigma, tensor)
        predictor.observe(sigma, tensor)
    return rate, predictor


def test_nothing_is_known_before_a_prediction_could_be_compared() -> None:
    for name, count in (("reuse", 1), ("linear", 2)):
        series = [(1.0 - 0.1 * i, 1.0 + i * i) for i in range(count + 1)]
        rate, predictor = rate_after(name, series[:count])
        assert rate.distance(predictor, 0.5, 1.0) is None
        rate, predictor = rate_after(name, series)
        assert rate.distance(predictor, 0.5, 1.0) is not None


@given(curvature=st.floats(0.1, 3.0), ahead=st.floats(0.02, 0.3), share=st.floats(0.2, 2.0))
def test_the_error_of_a_line_through_a_parabola_is_foretold_exactly(
    curvature: float, ahead: float, share: float
) -> None:
    def value(sigma: float) -> float:
        return 5.0 + curvature * sigma * sigma

    rate, predictor = rate_after("linear", [(s, value(s)) for s in (0.9, 0.8, 0.7)])
    sigma = 0.7 - ahead
    told = rate.distance(predictor, sigma, share)
    missed = abs(value(sigma) - float(predictor.predict(sigma)))
    seen_on = 2 * value(0.8) - value(0.9)  # what the relative error was measured on
    assert told == pytest.approx(missed / seen_on * share, rel=2e-2, abs=1e-4)


def test_a_line_has_no_error_and_is_not_followed_out_of_reach() -> None:
    rate, predictor = rate_after("linear", [(0.9, 1.0), (0.8, 2.0), (0.7, 3.0)])
    assert rate.distance(predictor, 0.6, 1.0) == pytest.approx(0.0, abs=1e-5)
    assert not rate.beyond_horizon(predictor, 0.31)
    assert rate.beyond_horizon(predictor, 0.29)


def test_what_is_not_finite_is_not_trusted() -> None:
    rate, predictor = rate_after("reuse", [(0.9, 0.0), (0.8, 1.0)])
    assert rate.distance(predictor, 0.7, 1.0) == FORCE_COMPUTE


def run_of(sigmas: list[float], **config: Any) -> Run:
    choice = settings_from_config(
        TeaCacheConfig(**config), load_profiles()["sd3-uncalibrated"], EULER
    )
    return Run(choice, SD3, EULER, sigmas, host="test")


def integrate(run: Run, sigmas: list[float], derivative: Any) -> tuple[torch.Tensor, Run]:
    """Euler's method with the run's forecasts, on a derivative that depends on sigma alone."""
    x = torch.zeros(1, 3, dtype=torch.float64)
    for sigma, following in pairwise(sigmas):
        run.begin_evaluation(sigma, torch.device("cpu"))
        decision: Decision = run.decide("prediction")
        call = PredictionForward(run, decision, "prediction", "layout")
        exact = derivative(sigma)
        value = call.predict(exact) if call.skipping else call.observe(exact)
        x = x + (following - sigma) * value
        run.end_evaluation()
    run.finish("done")
    return x, run


@pytest.mark.parametrize("predictor", ["linear", "blend"])
@pytest.mark.parametrize("rising", [False, True])
def test_a_parabola_is_integrated_as_if_nothing_had_been_skipped(
    predictor: str, rising: bool
) -> None:
    """What lines miss of a parabola is made good in full; up to the last step."""
    steps = 24
    sigmas = [(i / steps) ** 1.3 for i in range(steps + 1)]
    sigmas = sigmas if rising else sigmas[::-1]
    bend = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)

    def derivative(sigma: float) -> torch.Tensor:
        return 3.0 + 2.0 * sigma + bend * sigma * sigma

    got, run = integrate(run_of(sigmas, rel_l1_thresh=0.5, predictor=predictor), sigmas, derivative)
    exact = sum((b - a) * derivative(a) for a, b in pairwise(sigmas))
    assert run.report.skipped >= 8
    torch.testing.assert_close(got, exact, rtol=0, atol=1e-10)


# --- the noise-aware view ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 4, 12, 10), (1, 3, 5, 8, 6), (1, 2, 40)])
def test_without_noise_the_view_is_the_latent(shape: tuple[int, ...]) -> None:
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(spectral_view(latent, 0.0), latent, rtol=1e-4, atol=1e-4)


def test_the_gain_is_the_published_one() -> None:
    """Each frequency of a picture is scaled by a S / (a^2 S + b^2), S = |f|^-2, over its mean."""
    sigma, size = 0.6, 16
    latent = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(0))
    before, after = torch.fft.fftn(latent[0, 0]), torch.fft.fftn(spectral_view(latent, sigma)[0, 0])
    f = torch.fft.fftfreq(size)
    power = 1 / (f[:, None] ** 2 + f[None, :] ** 2).clamp_min(1e-12)
    gain = 0.4 * power / (0.16 * power + 0.36)
    torch.testing.assert_close((after / before).real, gain / gain.mean(), rtol=1e-3, atol=1e-3)


def test_under_noise_only_the_coarse_is_seen() -> None:
    fine = torch.tensor([1.0, -1.0]).repeat(8)[None, :] * torch.ones(16, 1)
    coarse = torch.sin(torch.arange(16) * (2 * torch.pi / 16))[None, :] * torch.ones(16, 1)
    seen = {
        name: spectral_view(picture[None, None], 0.8).abs().mean() / picture.abs().mean()
        for name, picture in {"fine": fine, "coarse": coarse}.items()
    }
    assert seen["coarse"] > 4 * seen["fine"]


@pytest.mark.parametrize("cached_part", ["residual", "prediction"])
def test_spectral_skips_at_most_two_in_a_row(comfy: Any, cached_part: str) -> None:
    model = tiny_models.build("sd3")
    config = {"mode": "forecast", "indicator": "spectral", "cached": cached_part}
    clone, handle = cached(model, SKIP_ALL, **config)
    out = sample(clone, "sd3", steps=14)
    records = report_of(handle).records
    pattern = "".join("s" if record.skipped else "C" for record in records)
    assert pattern == "CssCssCssCssCC"
    assert torch.isfinite(out).all()
    clone, handle = cached(model, SKIP_ALL, **config, max_skip=5)
    sample(clone, "sd3", steps=14)
    assert "sssss" in "".join("s" if r.skipped else "C" for r in report_of(handle).records)


# --- the first block -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd3", "flux1", "qwen_image", "wan21", "hidream"])
def test_only_the_first_block_runs_on_a_skip(comfy: Any, name: str) -> None:
    model = tiny_models.build(name)
    clone, handle = cached(model, SKIP_ALL, indicator="first_block")
    blocks = len(stack_blocks(model))
    with spying(model) as spy:
        sample(clone, name, steps=6)
    assert report_of(handle).skipped == 4
    assert sorted(set(spy.per_call)) == [1, blocks]
    assert spy.per_call.count(1) == 4 * spy.per_call.count(blocks) // 2


@pytest.mark.parametrize("predictor", ["reuse", "linear"])
def test_a_residual_behind_the_first_block_is_continued(comfy: Any, predictor: str) -> None:
    """What the blocks behind the first add is, on a skip, what the computed steps tell."""
    model = tiny_models.build("sd3")
    clone, handle = cached(
        model, SKIP_ALL, indicator="first_block", predictor=predictor, start_percent=0.4
    )
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    first = stack_blocks(model)[0]
    final = model.model.diffusion_model.final_layer
    entries: list[torch.Tensor] = []
    hooks = [
        first.register_forward_hook(lambda m, a, out: entries.append(out[1].clone())),
        final.register_forward_pre_hook(lambda m, a: seen.append((entries.pop(), a[0].clone()))),
    ]
    sample(clone, "sd3", steps=6)
    for hook in hooks:
        hook.remove()
    records = report_of(handle).records
    assert [record.skipped for record in records] == [False, False, False, True, True, False]
    residuals = [after - before for before, after in seen]
    s = [record.sigma for record in records]
    for step in (3, 4):
        expected = residuals[2]
        if predictor == "linear":
            slope = (residuals[2] - residuals[1]) / (s[2] - s[1])
            expected = residuals[2] + slope * (s[step] - s[2])
        torch.testing.assert_close(residuals[step], expected, rtol=1e-4, atol=1e-5)


def test_the_first_blocks_change_is_what_is_reported(comfy: Any) -> None:
    model = tiny_models.build("sd3")
    clone, handle = cached(model, 1e-12, indicator="first_block")
    recorded, _ = recording(clone)
    before_after: list[torch.Tensor] = []
    first = stack_blocks(model)[0]
    hook = first.register_forward_hook(
        lambda m, a, k, out: before_after.append(out[1] - k.get("x", a[1] if len(a) > 1 else None)),
        with_kwargs=True,
    )
    sample(recorded, "sd3", steps=5)
    hook.remove()
    for step, record in enumerate(report_of(handle).records[1:-1], start=1):
        now, then = before_after[step], before_after[step - 1]
        changes = (now - then).abs().flatten(1).mean(1) / then.abs().flatten(1).mean(1)
        assert record.distance == pytest.approx(changes.max().item(), rel=1e-4)


def test_fewer_tokens_change_the_distance_little(comfy: Any) -> None:
    model = tiny_models.build("sd3")
    distances = []
    for stride in (1, 3):
        clone, handle = cached(model, 1e-12, token_stride=stride)
        sample(clone, "sd3", steps=6)
        report = report_of(handle)
        distances.append([record.distance for record in report.records[1:-1]])
    assert distances[0] != distances[1]
    assert distances[0] == pytest.approx(distances[1], rel=0.2)


READ_BY_TOKEN = {"sd3": True, "flux1": True, "qwen_image": True, "ltx": True, "cosmos1": False}


@pytest.mark.parametrize("name", list(READ_BY_TOKEN))
def test_of_thinned_tokens_only_those_are_read_where_that_is_the_same(
    comfy: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reading is every third token of the family's own; from the second one on no other is
    computed, where the family modulates each token by itself."""
    model = tiny_models.build(name)
    family = find_family(model.model.diffusion_model)
    assert family is not None and family.modulated_input is not None
    original, read = family.modulated_input, StackInputReader.__call__
    computed: list[int] = []
    given: list[int] = []

    def counting(block: Any, arguments: BlockArguments) -> torch.Tensor:
        found = original(block, arguments)
        computed.append(found.shape[1])
        return found

    reader = StackInputReader(
        "modulated_input", replace(family, modulated_input=counting), 3, DeviceReader()
    )

    def reading(
        _: StackInputReader, block: Any, arguments: BlockArguments, image: torch.Tensor
    ) -> Any:
        found = read(reader, block, arguments, image)
        assert found is not None
        torch.testing.assert_close(found, original(block, arguments)[:, ::3])
        given.append(found.shape[1])
        return found

    monkeypatch.setattr(StackInputReader, "__call__", reading)
    clone, _ = cached(model, 1e-12, token_stride=3)
    sample(clone, name, steps=4)
    assert len(given) >= 4 and given[0] < max(computed)
    assert computed[-1] == (given[-1] if READ_BY_TOKEN[name] else max(computed))


def test_tokens_with_modulations_of_their_own_are_all_read(comfy: Any) -> None:
    """A guiding frame of HunyuanVideo has another row of the modulation, by place."""
    transformer = tiny_models.build("hunyuan_video").model.diffusion_model
    family = find_family(transformer)
    assert family is not None and family.modulated_input is not None
    reader = StackInputReader("modulated_input", family, 2, DeviceReader())
    image, vec = torch.randn(1, 8, tiny_models.WIDTH), torch.randn(1, 2, tiny_models.WIDTH)
    spans = [(0, 3, 0), (3, None, 1)]
    given = {"img": image, "vec": vec, "modulation_dims_img": spans}
    arguments = BlockArguments((), given, family.block_lists[0].image_stream())
    block = transformer.double_blocks[0]
    with torch.inference_mode():
        expected = family.modulated_input(block, arguments)[:, ::2]
        for _ in range(2):
            found = reader(block, arguments, image)
            assert found is not None
            torch.testing.assert_close(found, expected)
