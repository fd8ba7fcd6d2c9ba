"""What Python says to the user in English is shown in the editor's language."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from calibrations import calibration, conditions, shifted_sigmas
from comfy_server import ROOT, Server
from playwright.sync_api import Browser, Page

from teacache.config import FORMER_VALUES, TeaCacheConfig, replace_former_values
from teacache.engine.decision import MIXED
from teacache.engine.presets import RunContext, describe_settings, resolve_settings
from teacache.engine.run import SCHEDULE_LEFT
from teacache.engine.strategy import SamplerTraits
from teacache.families.generic import forecast_only_family
from teacache.families.registry import FAMILIES, UNCACHEABLE, known_profiles
from teacache.profiles.calibrated import PlanResult
from teacache.profiles.profile import Threshold
from teacache.report import Reason, RunReport, StepRecord

pytestmark = pytest.mark.browser

EULER = SamplerTraits("euler", euler=True, one_eval_per_step=True)
SAMPLERS = (
    EULER,
    SamplerTraits("euler_ancestral", adds_noise=True),
    SamplerTraits("made_up", foreign=True),
    SamplerTraits(
        "made_up", forecast=False, computed_in_full="chooses its own noise levels", adaptive=True
    ),
    SamplerTraits("made_up", forecast=False, computed_in_full="lets small differences grow"),
    SamplerTraits("made_up", forecast=False, computed_in_full="evaluates ahead and goes back"),
    SamplerTraits("made_up", forecast=False, foreign=True),
    SamplerTraits("made_up", forecast=False, adds_noise=True),
)
PRESETS = ("auto", "faithful", "quality", "balanced", "learn", "2.0x", "4.0x")
NAMES = re.compile(
    r"(eta|learned-\w+-\w+|[\w.]+-uncalibrated|euler_ancestral|made_up|dpm_adaptive|dpmpp_2m"
    r"|[a-z_]+=\w+|rel_l1_thresh|max_skip|`profile`|mine|sd3|flux1(-dev)?|faithful|forecast|TeaCache"
    r"|Transformer|LoRA|Apply|EasyCache|FBCache|UNetModel|euler|rate|HiDream-O1|balanced|quality"
    r"|learn|auto|predictor|indicator|cached|Wan|SeedVR2|Trellis|PiD|causal|Animate|Self-Forcing"
    r"|prediction|reuse|MiniMax|Music|Kandinsky|Proteina|RFD4|YuE2|Stable Diffusion|FLUX\.1|dev)"
)
"""What is not translated: names of models, samplers, profiles and settings."""
ENGLISH = re.compile(r"[A-Za-z]{3,}")


def contexts() -> Iterator[RunContext]:
    """Runs with and without a calibration, of which some can be adapted and some cannot."""
    profile = known_profiles()["sd3-uncalibrated"]
    better = tuple(replace(tried, forecast=True) for tried in calibration().plan_results)
    bare = replace(profile, thresholds=(Threshold(0.4, None),))
    for sampler in SAMPLERS:
        yield RunContext(profile, conditions(), sampler)
        yield RunContext(bare, conditions(), sampler)
        yield RunContext(profile, conditions(), sampler, forecast_only=True)
    yield RunContext(known_profiles()["flux1-dev"], conditions(), SAMPLERS[1])
    yield RunContext(profile, replace(conditions(), sigmas=shifted_sigmas(10)), EULER)
    changes: tuple[dict[str, Any], ...] = (
        {}, {"family": "flux1"}, {"sigmas": shifted_sigmas(20)}, {"sigmas": shifted_sigmas(30)},
        {"sigmas": tuple(14 * s for s in shifted_sigmas(50))}, {"sigmas": shifted_sigmas(50, 1.0)},
        {"sampler": "dpmpp_2m", "weights_digest": "other", "patches_digest": "lora"},
        {"latent": (16, 64, 64), "guidance": 7.0},
    )  # fmt: skip
    owned = (
        calibration(),
        calibration(plan_results=better),
        calibration(plans={}, plan_results=(), default_result=None),
        calibration(default_result=PlanResult(17, 0.001, 0.002)),
        calibration(
            fit_rejection="R² 0.10 is below 0.5",
            profile=replace(calibration().profile, coefficients=(), calibrated=False),
        ),
    )
    for own in owned:
        for changed in changes:
            run = replace(conditions(), **changed)
            yield RunContext(profile, run, EULER, own, named=True)


def configs() -> Iterator[TeaCacheConfig]:
    for preset in PRESETS:
        yield TeaCacheConfig(rel_l1_thresh=None, preset=preset)
        yield TeaCacheConfig(rel_l1_thresh=0.3, preset=preset, start_percent=0.5, max_skip=1)
    yield TeaCacheConfig(rel_l1_thresh=None, mode="faithful", cached="prediction")
    yield TeaCacheConfig(rel_l1_thresh=None, cached="prediction", indicator="profile")


def advice() -> Iterator[str]:
    for steps in (4, 20):
        report = RunReport(
            host="", family="", family_name="M", profile="", calibrated=False, method="",
            cached="", indicator="", predictor="", sampler="", threshold=0.2, steps=steps,
            sigmas=[],
        )  # fmt: skip
        over = [StepRecord(0, 1.0, False, Reason.OVER_THRESHOLD, 0.5, 0.5, 1.0)] * steps
        report.records = over
        yield report.advice


def sentences() -> list[str]:
    """Sentences of every kind that the strip shows."""
    said = [MIXED, SCHEDULE_LEFT, *advice()]
    for name, values in FORMER_VALUES.items():
        said += [note for value in values for note in replace_former_values({name: value})[1]]
    said += [f"{each.name}: {each.reason}: the model is left as it is." for each in UNCACHEABLE]
    said += [
        "FLUX.1: runs without the cache: the sampler made_up is not known, and evaluation 2 is at "
        "noise level 0.6, to which the schedule does not lead",
        "It replaces an earlier Apply TeaCache on this model.",
        "Two caches are stacked: EasyCache and a TeaCache node of another pack skip steps of this "
        "model too, and the errors add up. Use one of them.",
        "Profile mine is saved: choose it in `profile` to use it.",
        "the pipeline has no network that takes a timestep: there are no steps to skip.",
        "sd3: runs without the cache: the model is not evaluated once at each timestep of the "
        "schedule, in their order",
        "sd3: runs without the cache: the scheduler euler adds noise here (eta)",
        "sd3: runs without the cache: its plan is for euler without noise, and it adds some (eta)",
        "The sampler made_up cannot be forecast (what it does between the steps is not known): "
        "every step is computed.",
        "10 computed steps were wanted, and 14 were computed: with fewer, this picture would "
        "change more than by sampling with fewer steps.",
    ]
    for context in contexts():
        for config in configs():
            settings = resolve_settings(config, context)
            said += [settings.evidence, *settings.notes]
    profile = known_profiles()["sd3-uncalibrated"]
    family = next(known for known in FAMILIES if known.id == "sd3")
    for config in configs():
        for own in (None, calibration()):
            said.append(describe_settings(config, family, profile, own))
        said.append(describe_settings(config, forecast_only_family("UNetModel"), profile))
    return sorted(set(filter(None, said)))


@pytest.fixture(scope="module")
def page(browser: Browser, running_server: Server) -> Iterator[Page]:
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(f"{running_server.url}/extensions/teacache/sentences.js")
    yield opened
    context.close()


def translated(page: Page, said: list[str], language: str) -> list[str]:
    phrases = {
        known: json.loads((ROOT / "locales" / known / "main.json").read_text())["teacache"]
        for known in ("en", language)
    }
    return page.evaluate(
        """async ([said, english, language]) => {
            const { translate } = await import("/extensions/teacache/sentences.js");
            const texts = { ...english, ...language };
            return said.map((sentence) => translate(sentence, texts));
        }""",
        [said, phrases["en"], phrases[language]],
    )


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_no_english_is_left(page: Page, language: str) -> None:
    said = sentences()
    assert len(said) > 100
    left = {
        sentence: shown
        for sentence, shown in zip(said, translated(page, said, language), strict=True)
        if ENGLISH.search(NAMES.sub("", shown))
    }
    assert left == {}


def test_in_english_everything_is_shown_as_it_was_said(page: Page) -> None:
    said = [*sentences(), "A sentence; and another, that nobody knows: of another pack."]
    assert translated(page, said, "en") == said


def test_what_has_no_translation_stays_as_it_is(page: Page) -> None:
    said = ["Something, and more; that nobody knows: at all."]
    assert translated(page, said, "ja") == said
