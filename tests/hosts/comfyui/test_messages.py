"""What the node, the report and the log say of what other packs hand over: what is known, once."""

from __future__ import annotations

import functools
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from hostile import MODES, run, sample_custom, small_model
from paths import ROOT
from sampling import SKIP_NONE, cached, report_of

pytestmark = pytest.mark.usefixtures("comfy")

SIGMAS = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
PACK = "/somewhere/ComfyUI/custom_nodes/ComfyUI-Pack"
"""How ComfyUI names the module of a pack."""


@pytest.fixture(scope="module")
def model(comfy: Any) -> Any:
    return small_model()


def sampler() -> Callable[..., Any]:
    """A sampler function of another pack around another sampler, as several packs make them."""

    def make(inner: Any) -> Callable[..., Any]:
        def sampler(model: Any, x: Any, sigmas: Any, **options: Any) -> Any:
            options = {name: options.get(name) for name in ("extra_args", "callback", "disable")}
            return inner.sampler_function(model, x, sigmas, **options)

        return sampler

    import comfy.samplers

    return from_module(make(comfy.samplers.sampler_object("euler")), f"{PACK}.nodes")


def from_module(function: Any, module: str, qualname: str = "") -> Any:
    function.__module__ = module
    function.__qualname__ = qualname or function.__qualname__.split("<locals>.", 1)[-1]
    return function


# --- names of samplers ----------------------------------------------------------------------------


def test_a_wrapped_sampler_is_named_by_its_function_and_pack(model: Any) -> None:
    import comfy.samplers

    from teacache.hosts.comfyui.samplers import sampler_traits

    def name(function: Any, **options: Any) -> str:
        return sampler_traits(comfy.samplers.KSAMPLER(function, extra_options=options)).name

    assert name(sampler()) == "make.sampler of ComfyUI-Pack"
    assert name(functools.partial(sampler(), None)) == "make.sampler of ComfyUI-Pack"
    euler = comfy.samplers.sampler_object("euler")
    assert name(sampler(), inner=euler) == "make.sampler of ComfyUI-Pack, around euler"
    windows = sampler()
    windows.__module__ = r"C:\ComfyUI\custom_nodes\A_x_B.sub.nodes"
    assert name(windows) == "make.sampler of A_x_B"

    class Sampler(comfy.samplers.KSAMPLER):
        pass

    Sampler.__module__, Sampler.__qualname__ = f"{PACK}.samplers", "Sampler"
    traits = sampler_traits(Sampler(euler.sampler_function))
    assert traits.name == "Sampler of ComfyUI-Pack" and traits.foreign


@pytest.mark.parametrize("settings", [{}, {"predictor": "linear"}, {"preset": "2.0x"}], ids=repr)
def test_a_sampler_that_is_not_known_is_named_and_followed(
    model: Any, settings: dict[str, str]
) -> None:
    import comfy.samplers

    from teacache.config import TeaCacheConfig
    from teacache.hosts.comfyui.patch import apply_teacache

    given = {"rel_l1_thresh": None if "preset" in settings else 2.0, **settings}
    clone, handle = apply_teacache(model, TeaCacheConfig(**given))
    sample_custom(clone, SIGMAS, sampler=comfy.samplers.KSAMPLER(sampler()))
    report = report_of(handle)
    assert report.sampler == "make.sampler of ComfyUI-Pack" and report.skipped > 0
    assert not [text for text in report.warnings if "sampler" in text]


def test_a_function_that_another_pack_registers_is_not_comfyuis(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packs add their functions to `comfy.k_diffusion.sampling`, or exchange what is there."""
    import comfy.k_diffusion.sampling as known
    import comfy.samplers

    from teacache.hosts.comfyui.samplers import sampler_traits

    for name in ("sample_rk_beta", "sample_euler"):
        monkeypatch.setattr(known, name, sampler(), raising=False)
        traits = sampler_traits(comfy.samplers.KSAMPLER(vars(known)[name]))
        assert traits.foreign and not traits.plannable
        assert traits.name == "make.sampler of ComfyUI-Pack"


# --- other caches ---------------------------------------------------------------------------------


def passing(model_function: Any, arguments: dict[str, Any]) -> Any:
    return model_function(arguments["input"], arguments["timestep"], **arguments["c"])


def copy_of(function: FunctionType, module: str, qualname: str) -> Any:
    made = FunctionType(function.__code__, function.__globals__, function.__name__)
    return from_module(made, module, qualname)


def magcache(model: Any) -> Any:
    clone = model.clone()
    clone.model_options.setdefault("transformer_options", {})["magcache_thresh"] = 0.2
    clone.set_model_unet_function_wrapper(passing)
    return clone


def fbcache(model: Any) -> Any:
    clone = model.clone()
    name = "ApplyFBCacheOnModel.patch.<locals>.model_unet_function_wrapper"
    wrapper = copy_of(passing, "/x/custom_nodes/Comfy-WaveSpeed.fbcache_nodes", name)
    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def first_block(model: Any) -> Any:
    clone = model.clone()
    wrapper = functools.partial(copy_of(passing, "/x/custom_nodes/P.first_block_cache", "wrap"))
    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def keyed(model: Any) -> Any:
    """A wrapper of another kind than those of ComfyUI's own caches."""
    from comfy.patcher_extension import WrappersMP

    def through(executor: Any, *args: Any, **options: Any) -> Any:
        return executor(*args, **options)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "cache_dit", through)
    return clone


CACHES = [
    (magcache, "MagCache"), (fbcache, "FBCache"), (first_block, "FBCache"), (keyed, "cache-dit"),
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("other", "name"), CACHES)
def test_a_cache_of_another_pack_is_named(model: Any, other: Any, name: str, mode: str) -> None:
    from teacache.hosts.comfyui.other_caches import stacked_caches_warning

    assert f"{name} skips steps" in stacked_caches_warning(other(model))
    for first in (True, False):
        clone, handle = cached(other(model) if first else model, SKIP_NONE, mode=mode)
        run(clone if first else other(clone), steps=4)
        (said,) = [text for text in report_of(handle).warnings if "Two caches" in text]
        assert name in said


def test_a_sampler_that_skips_steps_itself_is_named(model: Any) -> None:
    import comfy.samplers

    skipping = from_module(
        sampler(), "/x/custom_nodes/ComfyUI-FSampler.sampling.engine", "create.ksampler_function"
    )
    clone, handle = cached(model, 0.4)
    sample_custom(clone, SIGMAS, sampler=comfy.samplers.KSAMPLER(skipping))
    (said,) = [text for text in report_of(handle).warnings if "Two caches" in text]
    assert "FSampler skips steps" in said


def test_what_is_no_cache_is_not_named(model: Any) -> None:
    """Nor is this pack's own wrapper, nor a folder above the packs that is named like a cache."""
    from teacache.hosts.comfyui.other_caches import stacked_caches_warning

    clone, _ = cached(model, 0.4)
    wrapper = copy_of(passing, "/home/teacache/custom_nodes/Tiles.nodes", "wrapper")
    clone.set_model_unet_function_wrapper(wrapper)
    assert stacked_caches_warning(clone) == ""


# --- what the node says before it knows the sampler -----------------------------------------------


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({}, "forecast"),
        ({"mode": "faithful"}, "faithful"),
        ({"cached": "residual", "indicator": "profile", "predictor": "reuse"}, "faithful"),
        ({"cached": "prediction", "indicator": "profile"}, "forecast"),
        ({"predictor": "linear"}, "prediction, rate, linear"),
        ({"rel_l1_thresh": 0.0}, "forecast"),
    ],
    ids=repr,
)
def test_the_line_says_what_runs_with_every_sampler(
    model: Any, settings: dict[str, Any], shown: str
) -> None:
    import comfy.samplers

    from teacache.config import TeaCacheConfig
    from teacache.hosts.comfyui.patch import apply_teacache

    clone, handle = apply_teacache(model, TeaCacheConfig(**{"rel_l1_thresh": None, **settings}))
    assert handle is not None
    assert handle.describe().split(" · ")[1] == shown
    if settings.get("rel_l1_thresh") == 0.0:
        return
    ancestral = comfy.samplers.sampler_object("euler_ancestral")
    for chosen in (None, comfy.samplers.KSAMPLER(sampler()), ancestral):
        sample_custom(clone, SIGMAS, **({} if chosen is None else {"sampler": chosen}))
        assert report_of(handle).method == shown


# --- the log --------------------------------------------------------------------------------------


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What a user sees."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]


def test_many_runs_of_one_step_are_logged_once(
    model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A regional sampler makes a run of one step for each region and step."""
    caplog.set_level(logging.DEBUG, logger="teacache")
    clone, handle = cached(fbcache(model), 0.4, mode="forecast")
    for _ in range(31):
        sample_custom(clone, [0.8, 0.6])
    said = lines(caplog)
    assert [line for line in said if "Two caches" not in line] == [
        "TeaCache: Stable Diffusion 3 / 3.5: runs of 1 step, in which nothing can be skipped"
    ]
    assert len(said) == 2 and len(handle.reports) > 1
    caplog.clear()
    sample_custom(clone, SIGMAS)
    sample_custom(clone, SIGMAS)
    said = lines(caplog)
    assert len([line for line in said if "of 5 steps computed" in line]) == 2
    assert len([line for line in said if "little to skip" in line]) in (0, 2)


@pytest.mark.parametrize(
    ("verbose", "expected"),
    [
        ("INFO", "INFO"),
        ("ERROR", "ERROR"),
        ([], "INFO"),
        ([("WARNING", None)], "WARNING"),
        ([("ERROR", None), ("DEBUG", None)], "DEBUG"),
        ([("DEBUG", "comfyui.log")], "DEBUG"),
        ([("ERROR", "comfyui.log")], "INFO"),
        (None, "INFO"),
        ([("LOUD", None)], "INFO"),
        (["DEBUG"], "INFO"),
    ],
    ids=repr,
)
def test_the_lowest_level_that_comfyui_logs(comfy: Any, verbose: Any, expected: str) -> None:
    """A name; in ComfyUI 0.33 pairs of a name and a file. Nothing else stops the nodes."""
    from teacache.hosts.comfyui.log_level import log_level

    assert log_level(verbose) == getattr(logging, expected)


SCRIPT = """
import asyncio, logging, sys, unittest.mock
sys.path.insert(0, {comfy!r})
sys.argv = ["main.py", "--cpu", *{arguments!r}]
import comfy.options
comfy.options.enable_args_parsing()
from comfy import cli_args
level = cli_args.args.verbose
if not isinstance(level, str):  # 0.33
    level = cli_args.get_console_log_level(level)
import comfy.model_management, utils.extra_config, nodes, server
from app.logger import setup_logger
setup_logger(log_level=level)
attributes = {{"client_id": None, "node_replace_manager": unittest.mock.Mock()}}
server.PromptServer.instance = type("Server", (), attributes)()
{before}
assert asyncio.run(nodes.load_custom_node({root!r}, module_parent="custom_nodes"))
{after}
log = logging.getLogger("teacache")
log.info("an info line")
log.warning("a warning line")
"""


@pytest.mark.parametrize(
    ("arguments", "before", "after", "expected"),
    [
        ([], "", "", 2),
        ([], "", "logging.getLogger().setLevel(logging.CRITICAL)", 2),
        (["--verbose", "WARNING"], "", "", 1),
        (["--verbose", "ERROR"], "", "", 0),
        ([], "logging.getLogger('teacache').setLevel(logging.ERROR)", "", 0),
        ([], "", "logging.disable(logging.CRITICAL)", 0),
        ([], "", "logging.getLogger().handlers.clear()", 1),
    ],
    ids=repr,
)
def test_the_level_is_the_one_that_comfyui_was_started_with(
    comfy_dir: Any, arguments: list[str], before: str, after: str, expected: int, tmp_path: Path
) -> None:
    """Another pack that silences the root logger does not silence this one; the user does."""
    script = SCRIPT.format(
        comfy=str(comfy_dir), root=str(ROOT), arguments=arguments, before=before, after=after
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=tmp_path,  # ComfyUI writes a log of details there
    )
    said = (done.stdout + done.stderr).splitlines()
    plain = [re.sub(r"\x1b\[\d+m", "", line) for line in said]
    shown = [re.fullmatch(r"(?:\[\w+\] )?(an info line|a warning line)", line) for line in plain]
    found = [match[1] for match in shown if match]
    assert found == ["an info line", "a warning line"][2 - expected :]
