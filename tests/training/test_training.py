"""The demo model's training: resuming changes nothing, and the measure of success can fail."""

from __future__ import annotations

import argparse
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from teacache.demo.model import Tokenizer
from training import data, evaluate, train_transformer
from training.data import Captioner, Concept
from training.flow import rate
from training.sampling import schedule
from training.train_transformer import Batches, Trainer

CONCEPTS = [
    Concept("red apple", ("fruit", "ripe")),
    Concept("fox", ("animal", "wild")),
    Concept("robot", ()),
]
TOKENIZER = Tokenizer.from_texts(t for c in CONCEPTS for t in (c.label, *c.tags))


@pytest.fixture(autouse=True)
def small_transformer(monkeypatch):
    small = {"num_layers": 2, "num_attention_heads": 1, "caption_projection_dim": 64}
    config = {**train_transformer.TRANSFORMER, **small}
    monkeypatch.setattr(train_transformer, "TRANSFORMER", config)


def new_trainer() -> Trainer:
    torch.manual_seed(0)
    args = argparse.Namespace(device="cpu", compile=False, optimizer="muon", steps=4, decay=0.4)
    return Trainer(TOKENIZER, args)


def batches() -> Batches:
    latents = torch.randn(len(CONCEPTS), 16, 16, 16, generator=torch.Generator().manual_seed(1))
    return Batches(latents, Captioner(CONCEPTS), TOKENIZER, size=2, seed=0)


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path):
    straight = new_trainer()
    losses = [straight.advance(batches()) for _ in range(4)]
    first = new_trainer()
    for _ in range(2):
        first.advance(batches())
    first.save(tmp_path / "checkpoint.pt")
    second = new_trainer()
    second.load(tmp_path / "checkpoint.pt")
    assert second.step == 2
    again = [second.advance(batches()) for _ in range(2)]
    assert again == pytest.approx(losses[2:], rel=1e-4)
    for key, weight in straight.ema.items():
        torch.testing.assert_close(second.ema[key], weight, atol=1e-4, rtol=1e-3)


def test_a_checkpoint_with_other_captions_is_refused(tmp_path):
    new_trainer().save(tmp_path / "checkpoint.pt")
    args = argparse.Namespace(device="cpu", compile=False, optimizer="muon", steps=4, decay=0.4)
    with pytest.raises(SystemExit, match="other captions"):
        Trainer(Tokenizer(["other"]), args).load(tmp_path / "checkpoint.pt")


def test_every_picture_is_used_equally_often():
    made = batches()
    picks = [made.index(i) for i in range(3 * len(CONCEPTS))]
    assert sorted(picks) == sorted([*range(len(CONCEPTS))] * 3)


def test_the_learning_rate_rises_holds_and_ends_at_zero():
    rates = [rate(step, 1000) for step in range(1001)]
    assert rates[0] < 0.1 and rates[300] == 1 and rates[1000] == 0
    assert rates[300:] == sorted(rates[300:], reverse=True)


def test_captions_hold_only_the_concepts_own_words():
    captioner, rng = Captioner(CONCEPTS), random.Random(0)
    for index, concept in enumerate(CONCEPTS):
        own = set(Tokenizer.split(" ".join([concept.label, *concept.tags])))
        captions = [captioner(index, rng) for _ in range(400)]
        assert all(set(Tokenizer.split(c)) <= own for c in captions)
        assert 0.05 < captions.count("") / 400 < 0.16
        assert captions.count(concept.label) / 400 > 0.45


def test_the_chosen_concepts_are_many_and_distinct():
    labels = data.chosen_labels()
    assert len(labels) == len(set(labels)) >= 300
    assert data.icon_name("rescue worker’s helmet") == "rescue-workers-helmet"


def test_a_tarball_that_was_tampered_with_is_refused(tmp_path):
    (tmp_path / data.ICONS[2]).write_bytes(b"not the package")
    with pytest.raises(SystemExit, match="expected"):
        data.fetch(data.ICONS, tmp_path)


def test_recognition_accepts_the_picture_and_refuses_another():
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    pictures = blocks.repeat(16, 1).repeat(16, 2)
    own = torch.arange(20)
    noisy = np.clip(pictures + rng.normal(0, 20, pictures.shape), 0, 255).astype(np.uint8)
    assert evaluate.recognised(noisy, pictures, own).all()
    assert not evaluate.recognised(noisy, pictures, own.roll(1)).any()
    grey = np.full_like(pictures, 128)
    assert evaluate.recognised(grey, pictures, own).sum() <= 1


def test_the_sampling_schedule_is_comfyuis(comfy):
    from comfy.model_sampling import ModelSamplingDiscreteFlow
    from comfy.samplers import simple_scheduler

    config = SimpleNamespace(sampling_settings={"shift": 3.0})
    theirs = simple_scheduler(ModelSamplingDiscreteFlow(config), 25)
    torch.testing.assert_close(schedule(25), theirs, atol=1e-4, rtol=0)
