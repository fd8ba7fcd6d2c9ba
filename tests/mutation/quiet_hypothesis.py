"""A pytest plugin: random cases are the same in each run, and failures are not made smaller."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings


def pytest_collection() -> None:
    settings.register_profile(
        "mutation",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
    )
    settings.load_profile("mutation")
