"""A calibration in words."""

from __future__ import annotations

from ..profiles.calibrated import Calibration, PlanResult


def calibration_table(calibration: Calibration) -> str:
    """The results as plain text, for a node or the command."""
    made, profile = calibration.provenance, calibration.profile
    runs = len(made.get("cases", []))
    lines = [
        f"Profile {calibration.name} · {profile.family} · {made.get('model', '')} · "
        f"{calibration.conditions.sampler}, {made.get('scheduler', '')}, "
        f"{calibration.steps} steps · {runs} run{'s' if runs > 1 else ''}",
        "",
        *_rows(calibration),
        "",
        fit_line(calibration),
    ]
    return "\n".join(lines)


def fit_line(calibration: Calibration) -> str:
    """How good the coefficients are, or why there are none."""
    profile, points = calibration.profile, calibration.fit_points
    if calibration.fit_rejection:
        return (
            f"No coefficients: {calibration.fit_rejection} ({points} points). The faithful mode "
            "keeps the family's; plans need none, nor does indicator=rate."
        )
    assert profile.r2 is not None and profile.x_range is not None
    low, high = profile.x_range
    return (
        f"Coefficients for the faithful mode: R² {profile.r2:.3f} on {points} points, indicator "
        f"{low:.3g} to {high:.3g}."
    )


def _rows(calibration: Calibration) -> list[str]:
    """A heading and a line for each number of computed steps that was tried."""
    if calibration.default_result is None:
        return ["Learned the usual errors of this model from one uncached run; nothing was tried."]
    results = [
        _row(calibration, result, "  forecast" if result.forecast else "  planned")
        for result in reversed(calibration.plan_results)
    ]
    heading = "speed-up  computed  error of the latent, mean  worst run"
    return [heading, *results, _row(calibration, calibration.default_result, "  default, before")]


def _row(calibration: Calibration, result: PlanResult, label: str) -> str:
    speedup, steps = calibration.speedup(result.computed_steps), calibration.steps
    return (
        f"{speedup:7.2f}x  {f'{result.computed_steps} of {steps}':>8}  "
        f"{100 * result.mean_error:24.3g} %  {100 * result.worst_error:7.3g} %{label}"
    )
