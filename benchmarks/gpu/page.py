"""The page of results, from the records of the journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.gpu.cases import CASES
from benchmarks.gpu.models import REAL, TINY
from benchmarks.gpu.rows import UNCACHED
from teacache.journal import Record
from teacache.tables import markdown

UNKNOWN = "-"
STEP_HEAD = (
    "model", "host", "way", "full step", "skip", "of a full step", "decision", "skipped", "gain",
    "limit", "peak", "held",
)  # fmt: skip
EXPLAINED = """Random weights in bfloat16, two steps skipped for each one computed. `full step` and
`skip` are medians of the time from the end of one step to the end of the next, on the device's own
clock; `decision` is what measuring and deciding take in a computed step. `gain` is over the run
without a cache, and `limit` what it could be at most, 1 / (1 - s (1 - f)), where the share s of the
steps is skipped and a skip costs the fraction f of a full step. `peak` is the most memory in use,
weights included; `held` what the cache kept of it. Runs alternate, and ratios are taken within a
repeat."""


def page_of(records: Sequence[Record]) -> str:
    """The page.

    Args:
        records: of the journal, its header first.
    """
    header, *others = records
    rows = {record["case"]: record for record in others if record["kind"] == "row"}
    measured = {name: row for name, row in rows.items() if not {"failed", "left_out"} & row.keys()}
    sizes = TINY if header["tiny"] else REAL
    command = "python -m benchmarks.gpu" + (" --tiny" if header["tiny"] else "")
    names = ("device", "driver", "torch", "diffusers", "comfyui", "python", "teacache")
    about = " · ".join(f"{name} {header[name]}" for name in names if header[name])
    parts = [
        "# The cache on an accelerator",
        f"`{command}` · {about}",
    ]
    if header["tiny"]:
        parts.append("**A rehearsal with tiny models: its figures tell nothing of real ones.**")
    parts += [EXPLAINED, *_sections(measured, {name: size.title for name, size in sizes.items()})]
    parts += _missing(rows)
    return "\n\n".join(parts) + "\n"


def _sections(rows: Mapping[str, Record], titles: Mapping[str, str]) -> list[str]:
    headings: dict[str, tuple[str, Callable[[list[tuple[str, str, Record]]], str]]] = {
        "steps": ("A step", _steps),
        "reads": ("Waiting for the device", _reads),
        "peers": ("Beside other caches", _steps),
        "offload": ("Cached values in main memory", _offload),
        "fp8": ("Weights in 8 bits", _steps),
        "compile": ("torch.compile", _compile),
    }
    sections = []
    for kind, (heading, table) in headings.items():
        found = [
            (titles[case.model], case.host, rows[case.name])
            for case in CASES
            if case.kind == kind and case.name in rows
        ]
        if found:
            sections += [f"## {heading}", table(found)]
    return sections


def _steps(found: list[tuple[str, str, Record]]) -> str:
    return markdown(STEP_HEAD, [row for each in found for row in _way_rows(*each)])


def _way_rows(title: str, host: str, record: Record) -> Iterable[list[str]]:
    full = None
    for name, way in record["ways"].items():
        if name.startswith(UNCACHED):
            full = way["step"]
        share = way["skip"] / full if way["skip"] and full else None
        yield [
            title, host, name + ("" if way["finite"] else " (not finite)"),
            _milliseconds(way["step"]), _milliseconds(way["skip"]), _percent(share),
            _milliseconds(way["decision"]), _percent(way["skipped"]), _factor(way["gain"]),
            _factor(way["limit"]), _bytes(way["peak"]), _bytes(way["held"]),
        ]  # fmt: skip


def _offload(found: list[tuple[str, str, Record]]) -> str:
    pinned = all(record["pinned"] for _, _, record in found)
    said = "Main memory was pinned, so that copies overlap with the model's work."
    return f"{said if pinned else 'No memory could be pinned.'}\n\n{_steps(found)}"


def _compile(found: list[tuple[str, str, Record]]) -> str:
    notes = [
        f"- {title}, {host}: `{record['backend']}`, first runs {record['first_runs']:.0f} s, "
        f"{record['graphs']} graphs, compiled again afterwards: {record['compiled_again']}"
        for title, host, record in found
    ]
    return "\n".join(notes) + "\n\n" + _steps(found)


def _reads(found: list[tuple[str, str, Record]]) -> str:
    head = ("model", "host", "way", "in a computed step", "in a skipped step",
            "the run's own count", "steps that must not wait", "places")  # fmt: skip
    rows = [
        [
            title, host, name, f"{each['per_computed']:.1f}", f"{each['per_skipped']:.1f}",
            str(each["counted"]),
            f"{len(each['promised_none'])}: {each['broken'] or 'none did'}",
            ", ".join(f"`{place}` {count}" for place, count in each["places"].items()) or UNKNOWN,
        ]
        for title, host, record in found
        for name, each in record["reads"].items()
    ]  # fmt: skip
    return markdown(head, rows)


def _missing(rows: Mapping[str, Record]) -> list[str]:
    lines = []
    for case in CASES:
        row = rows.get(case.name)
        why = "not measured yet" if row is None else row.get("left_out")
        if row is not None and "failed" in row:
            why = f"failed: {row['failed']}"
        if why:
            lines.append(f"- {case.name}: {why}")
    return ["## Not measured", "\n".join(lines)] if lines else []


def _milliseconds(seconds: Any) -> str:
    if seconds is None:
        return UNKNOWN
    return f"{1e3 * seconds:.1f} ms" if seconds >= 1e-3 else f"{1e3 * seconds:.3f} ms"


def _percent(share: Any) -> str:
    return UNKNOWN if share is None else f"{share:.1%}"


def _factor(value: Any) -> str:
    return UNKNOWN if value is None else f"{value:.2f}x"


def _bytes(value: Any) -> str:
    if value is None:
        return UNKNOWN
    if value >= 1e8:
        return f"{value / 1e9:.2f} GB"
    return f"{value / 1e6:.1f} MB" if value >= 1e5 else f"{value / 1e3:.1f} kB"
