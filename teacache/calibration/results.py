"""A calibration in words."""

from __future__ import annotations

from ..profiles.calibrated import Calibration, Outcome


def calibration_table(calibration: Calibration) -> str:
    """What was found, for a node or the command: plain text."""
    made, profile = calibration.made, calibration.profile
    runs = len(made.get("cases", []))
    lines = [
        f"Profile {calibration.name} · {profile.family} · {made.get('model', '')} · "
        f"{calibration.conditions.sampler}, {made.get('scheduler', '')}, "
        f"{calibration.steps} steps · {runs} runs",
        "",
        "speed-up  computed  error of the latent, mean  worst run",
        *(_row(calibration, tried, "") for tried in reversed(calibration.curve)),
        _row(calibration, calibration.default, "  default, before"),
        "",
        fit_line(calibration),
    ]
    return "\n".join(lines)


def fit_line(calibration: Calibration) -> str:
    """How good the coefficients are, or why there are none."""
    profile, points = calibration.profile, calibration.points
    if calibration.refused:
        return (
            f"No coefficients: {calibration.refused} ({points} points). The faithful mode keeps "
            "the family's; plans need none, nor do indicator=rate and first_block."
        )
    assert profile.r2 is not None and profile.x_range is not None
    low, high = profile.x_range
    return (
        f"Coefficients for the faithful mode: R² {profile.r2:.3f} on {points} points, indicator "
        f"{low:.3g} to {high:.3g}."
    )


def _row(calibration: Calibration, tried: Outcome, label: str) -> str:
    speedup, steps = calibration.speedup(tried.computed), calibration.steps
    return (
        f"{speedup:7.2f}x  {f'{tried.computed} of {steps}':>8}  {100 * tried.mean:24.3g} %  "
        f"{100 * tried.worst:7.3g} %{label}"
    )
