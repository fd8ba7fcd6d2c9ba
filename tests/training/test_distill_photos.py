"""Distilling the guidance of the photos model, on a tiny random teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training import distill_photos, photos
from training.grade_photos import Grader, velocity_errors

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def batch(size: int) -> Batch:
    generator = torch.Generator().manual_seed(2)
    latents, noise = torch.randn(2, size, *photos.LATENT, generator=generator)
    captions = torch.arange(size) % len(photos.CAPTIONS)
    return latents, noise, torch.linspace(0.1, 0.9, size), captions


def test_a_student_begins_as_its_teacher_without_guidance(teacher: Path) -> None:
    transformer, text = photos.load_model(teacher)
    student = distill_photos.new_student(transformer)
    latents, _, times, captions = batch(3)
    given = captions, photos.pack(latents), times
    with torch.no_grad():
        plain = photos.guided_velocity(transformer, text, *given, torch.ones(3))
        begun = photos.guided_velocity(student, text, *given, torch.tensor([1.0, 4.0, 8.0]))
        guided = photos.guided_velocity(transformer, text, *given, torch.full((3,), 4.0))
    torch.testing.assert_close(begun, plain, rtol=0, atol=1e-5)
    assert torch.equal(captions == 0, (guided - plain).abs().amax((1, 2)) < 1e-4)


def test_a_student_learns_the_guided_velocity_and_the_teacher_stays(teacher: Path) -> None:
    trainer = distill_photos.Distiller(*photos.load_model(teacher), torch.device("cpu"))
    before = {name: value.clone() for name, value in trainer.teacher.state_dict().items()}
    given = batch(4)

    def loss() -> float:
        trainer.step = 0
        with torch.no_grad():
            return float(trainer.loss(*given))

    untrained = loss()
    for _ in range(6):
        trainer.advance(lambda step: given, 1.0)  # type: ignore[arg-type]
    assert loss() < untrained
    assert all(torch.equal(before[k], v) for k, v in trainer.teacher.state_dict().items())
    embedder = trainer.model["transformer"].time_text_embed.guidance_embedder
    assert embedder.linear_2.weight.any()


def test_errors_are_those_of_the_velocity(teacher: Path, tmp_path: Path) -> None:
    """A student that has learned nothing is where the caption alone is; the teacher is exact."""
    trainer = distill_photos.Distiller(*photos.load_model(teacher), torch.device("cpu"))
    trainer.export(tmp_path / "student.safetensors")
    settings = 2, photos.SHIFT, 1, "cpu"
    original = Grader(teacher, *settings)
    errors = velocity_errors(Grader(tmp_path / "student.safetensors", *settings), original, 4.0)
    assert errors["student"] == pytest.approx(errors["caption alone"], rel=0.01)
    assert errors["student"] > 0.01
    assert velocity_errors(original, original, 4.0)["student"] == 0


def test_the_command_ends_with_weights_and_goes_on_where_it_was(
    teacher: Path,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    command = ["distill_photos", "--photos", str(archive), "--out", str(out), "--batch", "2"]
    command += ["--teacher", str(teacher), "--device", "cpu", "--minutes", "0.0002"]
    monkeypatch.setattr("sys.argv", [*command, "--decay-minutes", "0.0001"])
    distill_photos.main()
    weights = out / "photos_distilled.safetensors"
    about = photos.read_about(weights)
    assert about["guidance_embeds"] is True and about["step"] == 2
    transformer, _ = photos.load_model(weights)
    assert transformer.config.guidance_embeds is True
    assert "starts anew, step 0" in capsys.readouterr().out
    distill_photos.main()
    shown = capsys.readouterr().out
    assert "goes on from photos_distilled.pt, step 1" in shown
    assert "goes on with the decay of photos_distilled_decayed.pt, step 2" in shown
    assert photos.read_about(weights)["step"] == 2


def test_a_decay_longer_than_the_training_is_refused(
    archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["distill_photos", "--photos", str(archive), "--minutes", "3"]
    monkeypatch.setattr("sys.argv", [*command, "--decay-minutes", "4"])
    with pytest.raises(SystemExit):
        distill_photos.main()
    assert "--decay-minutes must be above 0 and at most --minutes, 3, not 4" in (
        capsys.readouterr().err
    )
