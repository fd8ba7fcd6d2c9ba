"""What indicators read: timesteps, the input of the stack, the noise-aware view, first blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tiny_models
import torch
from sampling import SKIP_ALL, cached, recording, report_of, sample, spying, stack_blocks

from teacache.engine.device import DeviceReader
from teacache.engine.indicators import (
    StackInputReader,
    TimestepChanges,
    spectral_view,
)
from teacache.engine.strategy import SamplerTraits
from teacache.families.comfyui.image import SD3
from teacache.families.registry import find_family
from teacache.families.streams import BlockArguments, FamilyMismatch, Role, Stream

EULER = SamplerTraits("euler", deterministic=True, euler=True, one_eval_per_step=True)


# --- the timestep embedding ----------------------------------------------------------------------


class Embedding:
    """An embedding whose relative change is that of the level; notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[list[float]] = []

    def __call__(self, levels: list[float]) -> torch.Tensor:
        self.asked.append(levels)
        return torch.tensor(levels)[:, None] * torch.tensor([[1.0, -2.0]])


def test_changes_between_consecutive_levels_are_known_at_once() -> None:
    embedding = Embedding()
    changes = TimestepChanges(embedding, [1.0, 0.8, 0.8, 0.4], DeviceReader())
    assert embedding.asked == [[1.0, 0.8, 0.4]]
    assert changes.between(1.0, 0.8) == pytest.approx(0.2)
    assert changes.between(0.8, 0.4) == pytest.approx(0.5)
    assert changes.between(0.4, 0.4) == 0.0
    assert len(embedding.asked) == 1


def test_two_levels_are_a_schedule_too() -> None:
    embedding = Embedding()
    assert TimestepChanges(embedding, [1.0, 0.5], DeviceReader()).between(1.0, 0.5) == 0.5
    assert embedding.asked == [[1.0, 0.5]]


def test_other_changes_are_computed_when_they_are_asked_for_and_kept() -> None:
    embedding = Embedding()
    changes = TimestepChanges(embedding, [1.0], DeviceReader())
    assert embedding.asked == []
    for _ in range(2):
        assert changes.between(1.0, 0.4) == pytest.approx(0.6)
        assert changes.between(0.4, 1.0) == pytest.approx(1.5)
    assert embedding.asked == [[1.0, 0.4], [0.4, 1.0]]


# --- the input of the stack ----------------------------------------------------------------------

IMAGE = torch.arange(24.0).reshape(1, 8, 3)


def reading(kind: str, stride: int, read: Any = None) -> tuple[Any, torch.Tensor]:
    """What a reader makes of `IMAGE`, and the image as it is afterwards."""
    family = replace(SD3, modulated_input=read)
    image = IMAGE.clone()
    arguments = BlockArguments((image,), {}, Stream(Role.IMAGE, 0, "x"))
    reader = StackInputReader(kind, family, stride, DeviceReader())
    return reader(torch.nn.Identity(), arguments, image), image


def test_a_timestep_indicator_reads_nothing() -> None:
    assert reading("timestep", 1)[0] is None


@pytest.mark.parametrize("stride", [1, 3])
def test_the_input_itself_is_copied(stride: int) -> None:
    read, image = reading("stack_input", stride)
    assert torch.equal(read, IMAGE[:, ::stride])
    image.zero_()
    assert torch.equal(read, IMAGE[:, ::stride]), "blocks may write into their input"


def first_argument(block: Any, arguments: BlockArguments) -> torch.Tensor:
    return 2 * arguments[0, "x"]


@pytest.mark.parametrize("stride", [1, 3])
def test_the_modulated_input_is_what_the_familys_function_reads(stride: int) -> None:
    assert torch.equal(
        reading("modulated_input", stride, first_argument)[0], 2 * IMAGE[:, ::stride]
    )


def several_readings(read: Any, stride: int = 2, count: int = 3) -> tuple[list[Any], list[int]]:
    """Readings one after the other, and how many tokens were computed in each call."""
    computed: list[int] = []

    def counting(block: Any, arguments: BlockArguments) -> torch.Tensor:
        computed.append(arguments[0, "x"].shape[1])
        return read(block, arguments)

    family = replace(SD3, modulated_input=counting)
    reader = StackInputReader("modulated_input", family, stride, DeviceReader())
    arguments = BlockArguments((IMAGE,), {}, Stream(Role.IMAGE, 0, "x"))
    return [reader(torch.nn.Identity(), arguments, IMAGE) for _ in range(count)], computed


def test_tokens_that_stand_for_themselves_are_read_alone_after_one_comparison() -> None:
    found, computed = several_readings(first_argument)
    assert all(torch.equal(read, 2 * IMAGE[:, ::2]) for read in found)
    assert computed == [8, 4, 4, 4], "all and some once, then some"


def minus_mean(block: Any, arguments: BlockArguments) -> torch.Tensor:
    return arguments[0, "x"] - arguments[0, "x"].mean(dim=1, keepdim=True)


def refusing_some(block: Any, arguments: BlockArguments) -> torch.Tensor:
    if arguments[0, "x"].shape[1] != 8:
        raise RuntimeError
    return 2 * arguments[0, "x"]


def always_as_wide(block: Any, arguments: BlockArguments) -> torch.Tensor:
    return torch.zeros(1, 8, 3)


@pytest.mark.parametrize("read", [minus_mean, refusing_some, always_as_wide])
def test_tokens_that_depend_on_each_other_are_all_read(read: Any) -> None:
    found, computed = several_readings(read)
    whole = read(None, BlockArguments((IMAGE,), {}))
    assert all(torch.equal(each, whole[:, ::2]) for each in found)
    assert computed == [8, 4, 8, 8], "compared once"


@pytest.mark.parametrize(
    ("factor", "offset", "same"),
    [(1.005, 0.0, True), (1.02, 0.0, False), (1.0, 5e-4, True), (1.0, 0.5, False)],
)
def test_what_rounding_makes_of_fewer_tokens_is_no_difference(
    factor: float, offset: float, same: bool
) -> None:
    """A hundredth of a value, or a thousandth."""

    def read(block: Any, arguments: BlockArguments) -> torch.Tensor:
        tokens = arguments[0, "x"]
        return tokens if tokens.shape[1] == 8 else tokens * factor + offset

    _, computed = several_readings(read)
    assert computed == ([8, 4, 4, 4] if same else [8, 4, 8, 8])


def test_streams_that_cannot_be_thinned_are_all_read() -> None:
    family = replace(SD3, modulated_input=first_argument)
    reader = StackInputReader("modulated_input", family, 2, DeviceReader())
    arguments = BlockArguments((IMAGE,), {})
    for _ in range(2):
        read = reader(torch.nn.Identity(), arguments, IMAGE)
        assert read is not None and torch.equal(read, 2 * IMAGE[:, ::2])


def test_a_block_that_is_not_what_the_family_expects_is_a_mismatch() -> None:
    def failing(block: Any, arguments: BlockArguments) -> torch.Tensor:
        return block.norm1

    with pytest.raises(FamilyMismatch, match="norm1"):
        reading("modulated_input", 1, failing)


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


def test_the_gain_of_films_falls_with_the_third_power() -> None:
    sigma, shape = 0.6, (4, 6, 8)
    latent = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    view = spectral_view(latent, sigma)
    before, after = torch.fft.fftn(latent[0, 0]), torch.fft.fftn(view[0, 0])
    t, h, w = (torch.fft.fftfreq(size) for size in shape)
    squares = t[:, None, None] ** 2 + h[:, None] ** 2 + w**2
    power = 1 / (squares**1.5).clamp_min(1e-12)
    gain = 0.4 * power / (0.16 * power + 0.36)
    torch.testing.assert_close((after / before).real, gain / gain.mean(), rtol=1e-3, atol=1e-3)
    assert view.is_contiguous() and view.dtype == torch.float32


def test_levels_above_one_are_those_of_their_share_of_the_noise() -> None:
    latent = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for level, share in ((3.0, 0.75), (1.5, 0.6)):
        torch.testing.assert_close(spectral_view(latent, level), spectral_view(latent, share))
    assert not torch.allclose(spectral_view(latent, 1.0), spectral_view(latent, 0.5), rtol=1e-2)


def test_the_view_is_made_on_the_latents_device() -> None:
    assert spectral_view(torch.zeros(1, 2, 4, 4, device="meta"), 0.5).device.type == "meta"


def test_under_pure_noise_the_view_is_the_mean_alone() -> None:
    """The gain of every other frequency is next to nothing, and all remains finite."""
    latent = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    view = spectral_view(latent, 1.0)
    assert view.isfinite().all() and view.dtype == torch.float32
    torch.testing.assert_close(view, view.mean().expand_as(view), rtol=1e-3, atol=1e-3)


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


def test_two_levels_are_embedded_ahead() -> None:
    asked: list[list[float]] = []

    def embed(levels: list[float]) -> torch.Tensor:
        asked.append(levels)
        return torch.tensor(levels)[:, None]

    changes = TimestepChanges(embed, [1.0, 0.5], DeviceReader())
    assert asked == [[1.0, 0.5]]
    assert changes.between(1.0, 0.5) == pytest.approx(0.5) and len(asked) == 1
