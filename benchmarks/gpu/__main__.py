"""The cache on an accelerator: real model sizes with random weights, in ComfyUI and diffusers.

    python -m benchmarks.gpu --minutes 6        # on a CUDA device
    python -m benchmarks.gpu --tiny             # the same on a processor, with tiny models

Rows are measured in the order of their importance. Each is written to a journal in the folder
`--out` when it is measured; the same command goes on where an earlier one stopped, and no row is
begun that is expected to take longer than what is left of `--minutes`. A page is made of the
journal.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu.cases import CASES, Case
from benchmarks.gpu.models import REAL, TINY
from benchmarks.gpu.page import page_of
from benchmarks.gpu.session import Session, measure_rows, open_rows
from benchmarks.journal import resumed
from teacache.errors import UserError
from teacache.files import write_atomically
from teacache.hosts.comfyui.headless.boot import PACK, boot, find_comfyui
from teacache.journal import Record, read_records

RESULTS = Path(__file__).parents[1] / "results" / "gpu.md"


def boot_with_usual_attention(comfyui: Path, output: Path) -> None:
    """ComfyUI in this process, with the attention that it takes on a CUDA device: PyTorch's.

    Args:
        comfyui: its folder. output: for what it writes.
    """
    sys.path.insert(0, str(comfyui))
    importlib.import_module("comfy.cli_args").args.use_pytorch_cross_attention = True
    boot(comfyui, output)


def chosen_cases(only: str | None) -> list[Case]:
    """The rows whose names contain a text.

    Raises:
        UserError: there are none.
    """
    found = [case for case in CASES if only is None or only in case.name]
    if not found:
        raise UserError(
            f"--only: no row has {only!r} in its name; names are such as {CASES[0].name!r}"
        )
    return found


def header_for(device: torch.device, tiny: bool) -> Record:
    """What the rows of a journal are measured with."""
    import comfyui_version
    import diffusers

    import teacache

    return {
        "device": device_name(device),
        "driver": driver_of(device),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "comfyui": comfyui_version.__version__,
        "python": platform.python_version(),
        "teacache": teacache.__version__,
        "tiny": tiny,
    }


def device_name(device: torch.device) -> str:
    """What the device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def driver_of(device: torch.device) -> str:
    """The version of the device's driver; empty where there is none, or it does not tell."""
    if device.type != "cuda":
        return ""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().partition("\n")[0]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--minutes", type=float, default=6.0, help="time for all rows; default 6")
    parser.add_argument("--tiny", action="store_true", help="tiny models, on a processor as well")
    parser.add_argument("--only", metavar="TEXT", help="rows with this text in their name")
    parser.add_argument("--device", help="default: cuda, with --tiny cpu where there is none")
    parser.add_argument("--comfyui", type=Path)
    parser.add_argument("--out", type=Path, help="folder of the journal; default output/gpu")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    args = parser.parse_args(arguments)
    if args.minutes <= 0:
        parser.error(f"--minutes must be above 0, not {args.minutes:g}")
    return args


def chosen_device(named: str | None, tiny: bool) -> torch.device:
    """The device to measure on.

    Raises:
        UserError: there is none for the published sizes.
    """
    if named is not None:
        return torch.device(named)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if not tiny:
        raise UserError("there is no CUDA device; --tiny rehearses on the processor")
    return torch.device("cpu")


def write_page(journal: Path, pages: Iterable[Path]) -> None:
    """Write the page of what has been measured so far, so that it is there whenever a run ends."""
    text = page_of(read_records(journal))
    for page in pages:
        write_atomically(page, lambda file: file.write_text(text, encoding="utf-8"))


def main(arguments: list[str] | None = None) -> int:
    """The command.

    Returns:
        Its exit status: 1 if a row has failed, 2 for unusable input.
    """
    args = parse(arguments)
    try:
        device, cases = chosen_device(args.device, args.tiny), chosen_cases(args.only)
        session = Session(device, TINY if args.tiny else REAL, args.tiny, args.minutes)
        folder = args.out or PACK / "output" / "gpu"
        folder.mkdir(parents=True, exist_ok=True)
        journal = folder / ("gpu_tiny.jsonl" if args.tiny else "gpu.jsonl")
        with tempfile.TemporaryDirectory() as output:
            boot_with_usual_attention(find_comfyui(args.comfyui), Path(output))
            header = header_for(device, args.tiny)
            known = resumed(journal, header, "--out")
            pages = [journal.with_suffix(".md"), *([RESULTS] if args.write else [])]
            write = partial(write_page, journal, pages)
            write()
            good = measure_rows(session, open_rows(known, cases), journal, write)
    except UserError as problem:
        print(f"benchmarks.gpu: {problem}", file=sys.stderr)
        return 2
    print(f"{journal}, {journal.with_suffix('.md').name}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
