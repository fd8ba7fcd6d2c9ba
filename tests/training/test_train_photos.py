"""Training the photos model further: from its weights, to files of its own, in a given time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training import photos, train_photos
from training.train_photos import Batches


@pytest.fixture
def train(teacher: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Runs the command with some options, in a folder of its own."""

    def run(*options: str, out: Path = tmp_path / "out") -> None:
        command = ["train_photos", "--photos", str(archive), "--out", str(out), "--batch", "2"]
        command += ["--device", "cpu", "--start", str(teacher), *options]
        monkeypatch.setattr("sys.argv", command)
        train_photos.main()

    return run


BRIEF = ("--minutes", "0.0005")


def test_it_goes_on_from_the_weights_and_leaves_them(
    train, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = teacher.read_bytes()
    train(*BRIEF)
    assert "starts from the weights in teacher.safetensors, step 1" in capsys.readouterr().out
    weights = tmp_path / "out" / "photos.safetensors"
    first = photos.read_about(weights)["step"]
    assert first > 1 and teacher.read_bytes() == before
    assert {path.name for path in weights.parent.iterdir()} == {
        "photos.safetensors", "photos.pt", "photos.jsonl"
    }  # fmt: skip
    own, _ = photos.load_model(weights)
    origin, _ = photos.load_model(teacher)
    moved = [
        float((one - other).abs().max())
        for one, other in zip(own.parameters(), origin.parameters(), strict=True)
    ]
    assert 0 < max(moved) < 0.5
    train(*BRIEF)
    assert f"goes on from photos.pt, step {first}" in capsys.readouterr().out
    assert photos.read_about(weights)["step"] > first
    train(*BRIEF, "--decay")
    assert (tmp_path / "out" / "photos_decayed.pt").is_file()


def test_weights_of_others_are_not_overwritten_unasked(
    train, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    there = folder / "photos.safetensors"
    there.write_bytes(teacher.read_bytes())
    with pytest.raises(SystemExit) as stopped:
        train(*BRIEF, out=folder)
    assert stopped.value.code == 2
    assert "no checkpoint of a training beside it; choose another folder, or add --overwrite" in (
        capsys.readouterr().err
    )
    assert there.read_bytes() == teacher.read_bytes() and len(list(folder.iterdir())) == 1
    train(*BRIEF, "--overwrite", out=folder)
    assert photos.read_about(there)["step"] > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--photos", "missing.zip"), "--photos: there is no missing.zip; models/photos/README.md"),
        (("--start", "missing.safetensors"), "--start: there is no missing.safetensors; --anew"),
    ],
)
def test_what_is_missing_is_named(
    train, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        train(*BRIEF, *options)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_pictures_are_cut_where_their_corners_are(archive: Path) -> None:
    batches = Batches(archive, 2, 0, torch.device("cpu"))
    shape = batches.pictures.shape
    batches.pictures = torch.arange(batches.pictures.numel()).reshape(shape)
    corners = torch.tensor([[0, 3], [8, 1]])
    cut = batches.cut([2, 0], corners, torch.tensor([False, True]))
    size = photos.SIZE
    assert torch.equal(cut[0], batches.pictures[2, :, :size, 3 : 3 + size])
    assert torch.equal(cut[1], batches.pictures[0, :, 8 : 8 + size, 1 : 1 + size].flip(-1))


def test_the_usual_options_name_what_the_repository_has() -> None:
    assert train_photos.COMMITTED.is_file()
    assert photos.read_about(train_photos.COMMITTED)["step"] > 1000
