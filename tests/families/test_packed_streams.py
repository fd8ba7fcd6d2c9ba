"""Streams that are no [batch, tokens, width]: tuples of tensors, no batch, the batch elsewhere.

On made-up blocks everywhere; on ComfyUI's own classes (LTX-AV, MiniMax-H3) where it has them.
"""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from sampling import SKIP_ALL, SKIP_NONE, cached, report_of, sample, spying
from tiny_models import CONTEXT, DEPTH, WIDTH, TinyModel
from torch import nn

from teacache.engine.blocks import BlockStack
from teacache.families.comfyui.video_modulation import minimax_segment_sizes
from teacache.families.streams import BlockArguments, BlockList, Role, Stream


class Call:
    """A call of the model that computes, or skips with a fixed residual."""

    def __init__(self, skipping: bool = False, residual: torch.Tensor | None = None) -> None:
        self.skipping, self.image_tokens = skipping, 0
        self.residual = residual
        self.entry: torch.Tensor | None = None

    def on_stack_input(
        self, block: nn.Module, arguments: BlockArguments, image: torch.Tensor
    ) -> None:
        self.image_tokens, self.entry = image.shape[1], image.clone()

    def on_stack_output(self, image: torch.Tensor) -> None:
        self.residual = image - self.entry

    def predicted_output(self) -> torch.Tensor:
        return self.entry + self.residual

    def give_up(self, failure: Exception) -> None:
        raise failure


class Pair(nn.Module):
    """Works on a tuple in place, as LTX-AV's blocks do."""

    def forward(self, x: Any) -> Any:
        video, audio = x
        video.add_(audio.mean())
        audio.mul_(2.0)
        return video, audio


class Plain(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 1.5 + 1.0


STREAMS = [
    (Stream(Role.IMAGE, 0, "x", is_tuple=True), Pair, [(2, 3, 4), (2, 5, 2)]),
    (Stream(Role.IMAGE, 0, "x", batch_dim=None), Plain, (6, 4)),
    (Stream(Role.IMAGE, 0, "x", batch_dim=3), Plain, (2, 3, 4, 5, 6)),
    (Stream(Role.IMAGE, 0, "x"), Plain, (5, 2, 3, 4, 6)),
]


def make(shape: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    if isinstance(shape, list):
        return tuple(torch.randn(part, generator=generator) for part in shape)
    return torch.randn(shape, generator=generator)


def flat(value: Any) -> torch.Tensor:
    parts = value if isinstance(value, tuple) else (value,)
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize(("stream", "kind", "shape"), STREAMS)
def test_a_skip_adds_the_residual_in_the_streams_own_form(
    stream: Stream, kind: type[nn.Module], shape: Any
) -> None:
    transformer = nn.Module()
    transformer.blocks = nn.ModuleList([kind(), kind()])
    blocks = BlockStack(transformer, (BlockList("blocks", (stream,), (Role.IMAGE,)),))

    def run(value: Any) -> Any:
        for block in transformer.blocks:
            value = block(value)
        return value

    first = make(shape, 1)
    before = flat(first).clone()
    computing = Call()
    with blocks.installed(computing):
        out = run(first)
    residual = flat(out) - before
    later = make(shape, 2)
    expected = flat(later) + residual
    with blocks.installed(Call(skipping=True, residual=computing.residual)):
        skipped = run(later)
    assert type(skipped) is type(out)
    torch.testing.assert_close(flat(skipped), expected)


@pytest.mark.parametrize(("stream", "kind", "shape"), STREAMS)
def test_packing_is_undone(stream: Stream, kind: type[nn.Module], shape: Any) -> None:
    value = make(shape, 1)
    packed = stream.pack(value)
    rows = (
        1
        if stream.batch_dim is None
        else (value[0] if stream.is_tuple else value).shape[stream.batch_dim]
    )
    assert packed.shape[0] == rows
    assert torch.equal(flat(stream.unpack(packed, value)), flat(value))


def test_the_parts_of_a_stream_are_known() -> None:
    """What one tuple or one tensor holds beside the image is told apart (`engine/regions.py`)."""
    films, sound = torch.zeros(2, 3, 4), torch.zeros(2, 5, 2)
    pair = Stream(Role.IMAGE, 0, "x", is_tuple=True)
    assert BlockArguments(((films, sound),), {}, pair).image_parts() == (12, 10)
    spans = Stream(Role.IMAGE, 0, "x", batch_dim=None, part_sizes=minimax_segment_sizes)
    segments = [(0, 2, 0), (2, 5, 1), (5, 9, 2)]
    given = BlockArguments((torch.zeros(9, 4), torch.zeros(3, 4), segments), {}, spans)
    assert given.image_parts() == (2, 3, 4)
    plain = Stream(Role.IMAGE, 0, "x")
    assert BlockArguments((films,), {}, plain).image_parts() == ()


LTX_AV = TinyModel(
    "LTXAV",
    dict(
        cross_attention_dim=WIDTH,
        audio_cross_attention_dim=WIDTH // 2,
        attention_head_dim=64,
        num_attention_heads=WIDTH // 64,
        audio_attention_head_dim=32,
        audio_num_attention_heads=4,
        caption_channels=64,
        num_layers=DEPTH,
        connector_attention_head_dim=16,
        connector_num_attention_heads=4,
    ),
    latent=(128, 2, 4, 4),
    text=128,
    extra=lambda: {"attention_mask": torch.ones(1, CONTEXT, dtype=torch.long)},
)


def with_rope(transformer: Any) -> None:
    transformer.rope.inv_freq.copy_(torch.linspace(1.0, 0.1, 16))


MINIMAX_H3 = TinyModel(
    "MiniMaxH3",
    dict(
        hidden_size=WIDTH,
        num_layers=DEPTH,
        token_refiner_num_layers=1,
        num_attention_heads=2,
        ffn_hidden_size=2 * WIDTH,
        text_dim=64,
        time_embed_hidden_size=64,
        time_embed_dim=64,
    ),
    latent=(24, 2, 4, 4),
    text=64,
    prepare=with_rope,
)
AUDIO = {"ltx_av": (8, 6, 16), "minimax_h3": (32, 2, 6)}


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch, comfy: Any) -> Any:
    """(model, latent of video and audio) of a family, where this ComfyUI has it."""

    def make(name: str, tiny: TinyModel) -> tuple[Any, Any]:
        monkeypatch.setitem(tiny_models.TINY, name, tiny)
        model = tiny_models.build(name)
        import comfy.nested_tensor

        parts = [tiny_models.latent(name), torch.zeros(1, *AUDIO[name])]
        return model, comfy.nested_tensor.NestedTensor(parts)

    return make


@pytest.mark.parametrize(("name", "tiny"), [("ltx_av", LTX_AV), ("minimax_h3", MINIMAX_H3)])
def test_video_and_sound_are_skipped_together(name: str, tiny: TinyModel, pair: Any) -> None:
    model, latent = pair(name, tiny)
    native = sample(model, name, latent=latent).unbind()
    clone, handle = cached(model, SKIP_NONE)
    for mine, theirs in zip(sample(clone, name, latent=latent).unbind(), native, strict=True):
        assert torch.equal(mine, theirs)
    clone, handle = cached(model, SKIP_ALL)
    with spying(model) as spy:
        runs = [sample(clone, name, latent=latent).unbind() for _ in range(2)]
    report = report_of(handle)
    assert report.warnings == []
    assert [record.skipped for record in report.records] == [False, True, True, True, True, False]
    assert set(spy.per_call) == {0, DEPTH}
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)
        assert first.isfinite().all()
