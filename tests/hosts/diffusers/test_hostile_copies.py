"""Diffusers: copies of a pipeline, pipelines in threads, and what shares their transformer."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

import tiny_pipelines
from foreign_pipelines import copy_of, in_threads
from hostile import MODES
from pipeline_sampling import SKIP_ALL, assert_nothing_is_left, report_of, state_of
from tiny_pipelines import STEPS, flow, generate

from teacache.engine.blocks import BlockProxy
from teacache.hosts.diffusers.enable import disable_teacache, enable_teacache, teacache
from teacache.report import RunReport

MANY = {"forecast": 1.0, "faithful": 0.4}
both_modes = pytest.mark.parametrize("mode", MODES)


def pattern(report: RunReport) -> list[tuple[bool, float]]:
    return [(record.skipped, record.sigma) for record in report.records]


def step_by_step(barrier: threading.Barrier) -> Any:
    """A callback that waits for the other threads after each step."""

    def wait(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        barrier.wait(timeout=60)
        return inputs

    return wait


@both_modes
def test_a_copy_runs_on_its_own_scheduler(mode: str) -> None:
    pipe = tiny_pipelines.build("sd3")
    alone = copy_of(pipe, shift=4.0)
    with teacache(alone, MANY[mode], mode=mode) as handle:
        expected, wanted = generate(alone, "sd3", steps=9), report_of(handle)
    with teacache(pipe, MANY[mode], mode=mode) as handle:
        generate(pipe, "sd3")
        copied = copy_of(pipe, shift=4.0)
        assert copied.teacache is handle
        assert torch.equal(generate(copied, "sd3", steps=9), expected)
        assert pattern(report_of(handle)) == pattern(wanted) and wanted.skipped
        assert report_of(handle).sigmas == wanted.sigmas
        generate(pipe, "sd3")
        assert report_of(handle).steps == STEPS
    assert_nothing_is_left(pipe)


@both_modes
@pytest.mark.parametrize("name", ["sd3", "wan21", "lumina2"])
def test_two_copies_in_two_threads(name: str, mode: str) -> None:
    """They take their steps at the same time, and each is what it is alone."""
    pipe = tiny_pipelines.build(name)
    before = state_of(pipe)
    parts = {"one": {"seed": 1, "shift": 1.0}, "two": {"seed": 2, "shift": 5.0}}

    def sampled(target: Any, seed: int, **more: Any) -> Any:
        more |= {"height": 32, "width": 32}
        return generate(target, name, steps=9, seed=seed, **more)

    expected, reports = [], []
    for part in parts.values():
        alone = copy_of(pipe, part["shift"])
        with teacache(alone, SKIP_ALL, mode=mode) as handle:
            expected.append(sampled(alone, part["seed"]))
            reports.append(pattern(report_of(handle)))
    assert all(any(skipped for skipped, _ in report) for report in reports)
    with teacache(pipe, SKIP_ALL, mode=mode) as handle:
        copies = [copy_of(pipe, part["shift"]) for part in parts.values()]
        got = in_threads(
            *(
                lambda barrier, copied=copied, part=part: sampled(
                    copied, part["seed"], callback_on_step_end=step_by_step(barrier)
                )
                for copied, part in zip(copies, parts.values(), strict=True)
            )
        )
        assert sorted(map(pattern, handle.reports)) == sorted(reports)
    assert all(map(torch.equal, got, expected))
    assert state_of(pipe) == before
    assert_nothing_is_left(pipe)


@both_modes
def test_a_pipeline_without_the_cache_beside_one_with_it(mode: str) -> None:
    """They share the transformer: the other thread's calls are neither cached nor counted."""
    pipe = tiny_pipelines.build("sd3")
    plain = copy_of(pipe)
    native = generate(plain, "sd3", steps=9, seed=2)
    with teacache(pipe, SKIP_ALL, mode=mode) as handle:
        expected = generate(pipe, "sd3", steps=9)
        wanted = pattern(report_of(handle))
        got, other = in_threads(
            *(
                lambda barrier, target=target, seed=seed: generate(
                    target, "sd3", steps=9, seed=seed, callback_on_step_end=step_by_step(barrier)
                )
                for target, seed in ((pipe, 0), (plain, 2))
            )
        )
        assert pattern(report_of(handle)) == wanted and len(handle.reports) == 2
    assert torch.equal(other, native) and torch.equal(got, expected)


def test_loops_of_the_users_own_in_two_threads() -> None:
    transformer = tiny_pipelines.build("sd3").transformer
    text = {"encoder_hidden_states": torch.ones(1, 5, 32), "pooled_projections": torch.ones(1, 12)}

    def loop(seed: int, barrier: threading.Barrier | None = None) -> torch.Tensor:
        x = tiny_pipelines.noise(seed, 1, 4, 8, 8)
        with torch.no_grad():
            for t in torch.linspace(1000, 1000 / STEPS, STEPS):
                x = x - transformer(x, timestep=t.reshape(1), **text)[0] / STEPS
                if barrier is not None:
                    barrier.wait(timeout=60)
        return x

    with teacache(transformer, SKIP_ALL, num_steps=STEPS, mode="faithful") as handle:
        expected = [loop(1), loop(2)]
        got = in_threads(*(lambda barrier, seed=seed: loop(seed, barrier) for seed in (1, 2)))
    assert all(map(torch.equal, got, expected))
    assert [report.skipped for report in handle.reports] == [STEPS - 2] * 4
    assert [report.outcome for report in handle.reports] == ["done"] * 4
    assert "forward" not in vars(transformer)


def test_a_pipeline_over_a_transformer_that_has_a_cache_of_its_own() -> None:
    """The pipeline's loop comes first; the transformer's own cache sees none of its calls."""
    pipe = tiny_pipelines.build("sd3")
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        expected = generate(pipe, "sd3")
        with teacache(pipe.transformer, SKIP_ALL, num_steps=3, mode="faithful") as other:
            assert torch.equal(generate(pipe, "sd3"), expected)
        assert not other.reports and len(handle.reports) == 2


def test_a_copy_is_turned_on_and_off_by_itself() -> None:
    pipe = tiny_pipelines.build("sd3")
    native = generate(pipe, "sd3")
    kind = type(pipe)
    handle = enable_teacache(pipe, SKIP_ALL, mode="faithful")
    cached = generate(pipe, "sd3")
    copied = copy_of(pipe)
    disable_teacache(copied)
    assert type(copied) is kind and "teacache" not in vars(copied)
    assert torch.equal(generate(copied, "sd3"), native) and len(handle.reports) == 1
    assert torch.equal(generate(pipe, "sd3"), cached) and len(handle.reports) == 2
    other = enable_teacache(copied, 1e-12, mode="faithful")
    assert torch.equal(generate(copied, "sd3"), native) and len(other.reports) == 1
    assert pipe.teacache is handle and torch.equal(generate(pipe, "sd3"), cached)
    again, deep = copy_of(pipe), copy.deepcopy(pipe)
    assert deep.transformer is not pipe.transformer
    for each in (again, deep):
        assert torch.equal(generate(each, "sd3"), cached) and each.teacache is handle
    handle.disable()
    for each in (pipe, again, deep):
        assert type(each) is kind and "teacache" not in vars(each)
        assert torch.equal(generate(each, "sd3"), native)
    assert len(handle.reports) == 5 and copied.teacache is other
    disable_teacache(copied)


def test_a_pipeline_with_the_cache_is_still_a_pipeline(tmp_path: Path) -> None:
    """What reads its class, saves it, pickles it, or makes another one of its parts."""
    import diffusers

    pipe = tiny_pipelines.build("sd3")
    kind, native = type(pipe), generate(pipe, "sd3")
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        cached = generate(pipe, "sd3")
        assert isinstance(pipe, kind) and type(pipe).__name__ == kind.__name__
        assert (type(pipe).__module__, repr(type(pipe))) == (kind.__module__, repr(kind))
        pipe.save_pretrained(tmp_path / "saved")
        assert diffusers.DiffusionPipeline.load_config(tmp_path / "saved")["_class_name"] == (
            kind.__name__
        )
        stream = io.BytesIO(pickle.dumps(pipe))
        loaded = pickle.load(stream)
        assert type(loaded) is kind and torch.equal(generate(loaded, "sd3"), native)
        image = diffusers.AutoPipelineForImage2Image.from_pipe(pipe)
        assert type(image) is diffusers.StableDiffusion3Img2ImgPipeline
        for made in (image, type(pipe)(**pipe.components), kind.from_pipe(pipe)):
            made.set_progress_bar_config(disable=True)
            assert "teacache" not in vars(made)
        for made in (type(pipe)(**pipe.components), kind.from_pipe(pipe)):
            made.set_progress_bar_config(disable=True)
            assert torch.equal(generate(made, "sd3"), native)
        pipe.register_modules(scheduler=flow(shift=3.0))
        pipe.scheduler = flow()
        assert torch.equal(generate(pipe, "sd3"), cached) and len(handle.reports) == 2
    assert type(pipe) is kind


def test_a_progress_bar_of_the_users_own_stays() -> None:
    """Set before or while the cache is on."""
    pipe = tiny_pipelines.build("sd3")
    shown: list[int | None] = []

    kind = type(pipe)

    def own(iterable: Any = None, total: int | None = None) -> Any:
        shown.append(total)
        return kind.progress_bar(pipe, iterable, total)

    pipe.progress_bar = own
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        generate(pipe, "sd3")
        assert report_of(handle).skipped == STEPS - 2
    assert pipe.progress_bar is own
    del pipe.progress_bar
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        pipe.progress_bar = own
        generate(pipe, "sd3")
        assert report_of(handle).skipped == STEPS - 2
    assert pipe.progress_bar is own and shown == [STEPS] * 2


def test_a_class_that_another_package_derives_from_it() -> None:
    """Its progress bar is reached by `super` and by the name of its base, with the cache on."""
    pipe = tiny_pipelines.build("sd3")
    kind, native = type(pipe), generate(pipe, "sd3")
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        expected, base = generate(pipe, "sd3"), type(pipe)

        class BySuper(base):  # type: ignore[valid-type, misc]
            def progress_bar(self, *args: Any, **options: Any) -> Any:
                return super().progress_bar(*args, **options)

        class ByName(base):  # type: ignore[valid-type, misc]
            def progress_bar(self, *args: Any, **options: Any) -> Any:
                return base.progress_bar(self, *args, **options)

        for derived in (BySuper, ByName):
            pipe.__class__ = derived
            for each in (pipe, copy.copy(pipe), copy.deepcopy(pipe)):
                assert type(each) is derived and torch.equal(generate(each, "sd3"), expected)
                assert report_of(handle).skipped == STEPS - 2
    assert type(pipe) is ByName and torch.equal(generate(pipe, "sd3"), native)
    pipe.__class__ = base
    pipe.progress_bar = lambda *args, **options: base.progress_bar(pipe, *args, **options)
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        assert torch.equal(generate(pipe, "sd3"), expected) and len(handle.reports) == 1
    assert type(pipe) is kind


def test_a_failure_in_one_thread_leaves_the_other() -> None:
    pipe = tiny_pipelines.build("sd3")
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        expected = generate(pipe, "sd3", steps=9)
        one, two = copy_of(pipe), copy_of(pipe)
        done = threading.Event()

        def failing(barrier: threading.Barrier) -> str:
            def fail(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> Any:
                if step == 2:
                    raise RuntimeError("stop")
                return inputs

            with pytest.raises(RuntimeError, match="stop"):
                generate(one, "sd3", steps=9, callback_on_step_end=fail)
            done.set()
            return "failed"

        def going_on(barrier: threading.Barrier) -> Any:
            def wait(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> Any:
                if step == 1:
                    done.wait(timeout=60)
                return inputs

            return generate(two, "sd3", steps=9, callback_on_step_end=wait)

        _, got = in_threads(failing, going_on)
        assert sorted(report.outcome for report in handle.reports) == ["done", "done", "failed"]
    assert torch.equal(got, expected)
    assert not any(isinstance(module, BlockProxy) for module in pipe.transformer.modules())
    assert "forward" not in vars(pipe.transformer)
