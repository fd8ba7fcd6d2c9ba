"""A comparison without a model: pictures of one grey each, and made-up times."""

from __future__ import annotations

import pytest
import torch

from teacache.comparison import Comparison, Sample, grid_points, parse_axis
from teacache.comparison.results import results, table
from teacache.errors import ExecutionError, UserError

SIZE = 16


class FakeBackend:
    """Gives each point a grey of its own; remembers who was sampled, and can fail or stop."""

    def __init__(self, failing=(), stop_after=None, greys=None, refused=(), counts=None):
        self.asked = []
        self.counts = counts or {}
        self.refused = refused
        self.failing, self.stop_after, self.greys = failing, stop_after, greys or {}

    def check(self, point):
        if point.settings[0][1] in self.refused:
            raise UserError(f"{point.settings[0][1]} is refused")

    def sample(self, point, on_step, short=False, steps=None):
        name = "reference" if point is None else dict(point.settings).get("max_skip", "cached")
        self.asked.append((name, short))
        if steps is not None:
            name = f"{steps} steps"
            self.asked[-1] = (name, short)
        if name in self.failing:
            raise ExecutionError(f"{name} does not go")
        if self.stop_after is not None and len(self.asked) > self.stop_after:
            raise KeyboardInterrupt
        on_step(5, 10)
        grey = 0.5 if name == "reference" else self.greys.get(name, 0.6)
        run = {"evaluations": 10, "computed": 4, "skipped": 6, "bytes_held": 7, "steps": 10}
        run |= self.counts.get(name, {})
        run |= {"warnings": [], "evidence": f"evidence of {name}"}
        seconds = 2.0 if name == "reference" else 1.0
        runs = [] if point is None else [run]
        return Sample(torch.full((1, SIZE, SIZE, 3), grey), seconds, runs)


def swept(backend, values="1,2,3", repeats=1, stop=False, fewer_steps=False):
    x = parse_axis(f"max_skip={values}", "x")
    comparison = Comparison(grid_points(x), repeats, fewer_steps)
    comparison.check(backend)
    told, kept = [], []
    if stop:
        with pytest.raises(KeyboardInterrupt):
            comparison.run(backend, told.append, lambda variant, _: kept.append(variant.label))
    else:
        comparison.run(backend, told.append, lambda variant, _: kept.append(variant.label))
    return comparison, results(comparison, x, None, "everything", {}), told, kept


def table_of(report):
    return table([report["reference"], *report["points"], *report["fewer_steps"]])
