"""The comparison of half precision: decisions are followed exactly, and differ for one reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")
pytestmark = pytest.mark.usefixtures("comfy")

THRESHOLD: dict[str, Any] = {"rel_l1_thresh": 0.5}


@pytest.fixture(scope="module")
def testbed(comfy: Any) -> Any:
    from benchmarks.grounds import Ground
    from benchmarks.testbeds import load

    return load("demo").on(Ground("demo", 10, 4.0))


def test_the_decisions_of_a_run_give_its_picture_again(testbed: Any) -> None:
    from benchmarks.drawing import draw
    from benchmarks.half_precision import decided, following

    (pair,) = testbed.tuning_pairs(1)
    drawing, decisions = decided(testbed, pair, THRESHOLD)
    assert 4 < len(decisions.computed) == drawing.computed < 10
    again = draw(testbed, following(decisions), pair)
    assert torch.equal(again.frames, drawing.frames) and again.computed == drawing.computed
    fractions = {level: fraction / 2 for level, fraction in decisions.fractions.items()}
    other = draw(testbed, following(decisions._replace(fractions=fractions)), pair)
    assert not torch.equal(other.frames, drawing.frames)


def test_of_bfloat16_less_is_learned_where_nothing_is_taken_off(testbed: Any) -> None:
    from benchmarks.half_precision import decided, without_allowance
    from benchmarks.rounding_errors import in_precision

    half = in_precision(testbed, torch.bfloat16)
    (pair,) = testbed.tuning_pairs(1)

    def learned(testbed: Any) -> float:
        _, decisions = decided(testbed, pair, THRESHOLD)
        return sum(decisions.fractions.values()) / len(decisions.fractions)

    single, allowed = learned(testbed), learned(half)
    with without_allowance():
        assert learned(testbed) == single
        assert learned(half) < allowed


def test_rounding_is_what_sets_the_same_weights_apart(testbed: Any) -> None:
    from benchmarks.rounding_errors import calls_of, rounding_errors

    (pair,) = testbed.tuning_pairs(1)
    calls = calls_of(testbed, pair)[:3]
    assert len(calls) == 3 and all(call.latent.shape[0] == 2 for call in calls)
    errors = rounding_errors(testbed, calls, torch.bfloat16)
    assert (len(errors.branch), len(errors.correlation)) == (3, 2)
    assert min(errors.branch) > 0.3 and max(errors.branch) < 3
    assert min(errors.guided) > min(errors.branch), "guidance enlarges them"
    none = rounding_errors(testbed, calls, torch.float32)
    assert set(none.branch) == {0.0}


def test_rows() -> None:
    from benchmarks.grounds import Ground
    from benchmarks.half_precision import SETTINGS, gain, rows_of, summary

    one = [(10, 60.0), (10, 50.0), (11, 49.0), (11, 50.5)]
    two = [(12, 64.0), (12, 52.0), (13, 50.0), (13, 52.5)]
    records = [
        {"limit": limit, "settings": dict.fromkeys(SETTINGS, points)}
        for limit, points in ((54.0, one), (55.0, two))
    ]
    rows = rows_of(Ground("demo", 20, 7.0), records)
    assert [row[3] for row in rows] == list(SETTINGS)
    assert rows[0] == [
        "demo, 20 steps, guidance 7",
        "2",
        "54.5",
        "0.2",
        "11.0: 62.0",
        "11.0: 51.0",
        "12.0: 49.5",
        "12.0: 51.5",
        "-1.5 ± 0.5",
        "+0.5 ± 0.0",
    ]
    assert gain([(11, 49.0)], [(10, 50.0)]) == "-1.0"
    told = summary([records, records[:1]]).replace("\n", " ")
    assert (
        "-1.2 dB over those of float32 in the median of the 6 rows, -1.5 in the worst one" in told
    )
    assert "lose more than 0.5 dB in 6." in told
    assert (
        "+0.5 dB over those of float32 in the median of the 6 rows, +0.5 in the worst one" in told
    )


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    from benchmarks import half_precision
    from benchmarks.grounds import GROUNDS
    from teacache.errors import UserError

    path, (one, two, *_) = tmp_path / "out" / "kept.jsonl", GROUNDS
    half_precision.Measured(path).add(kind="pair", ground=one.slug, limit=50.0)
    kept = half_precision.Measured(path)
    assert [record["limit"] for record in kept.of("pair", one)] == [50.0]
    assert not kept.of("pair", two) and not kept.of("errors", one)
    path.write_text('{"kind": "header"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="other settings"):
        half_precision.Measured(path)
