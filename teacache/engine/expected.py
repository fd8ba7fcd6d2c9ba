"""What the skips of a run are expected to have missed, by the errors that were measured in it."""

from __future__ import annotations

import torch

from ..report import RunReport
from .device import OUT_OF_MEMORY, DeferredScalar, DeviceReader

OFF_PATH = 2.0
"""How many times the largest expected error of its calibration a planned run must have, for its
report to say that it left the path of the calibration."""


class ExpectedError:
    """Adds up `RunReport.expected_error`.

    A forecast tells the error of a skip beforehand. A plan measures nothing beforehand: there the
    error of the prediction for the next computed step, scaled to the skipped ones before it, is
    read once, when the run ends.

    Args:
        report: of the run.
        reader: reads from the device.
        usual: largest expected error of the plan in its calibration, None where it is not known.
    """

    def __init__(self, report: RunReport, reader: DeviceReader, usual: float | None) -> None:
        self._report, self._reader, self._usual = report, reader, usual
        self._deferred = False

    def add(self, steps: float) -> None:
        """Skipped evaluations are expected to have missed as much as `steps` average steps."""
        before = self._report.expected_error or 0.0
        self._report.expected_error = before + steps / self._report.steps

    def defer(self, steps: torch.Tensor) -> None:
        """As `add`, of a scalar that is still on the device."""
        self._reader.defer(DeferredScalar(steps, self.add))
        self._deferred = True

    def finish(self) -> None:
        """The run is done: read what was deferred, and compare with the plan's calibration."""
        if not self._deferred:
            return
        try:
            self._reader.read()
        except OUT_OF_MEMORY:
            return
        missed = self._report.expected_error
        if self._usual and missed is not None and missed > OFF_PATH * self._usual:
            self._report.warn(
                "This run left the path that its plan was calibrated on: predictions missed "
                f"{missed / self._usual:.1f} times as much as in the worst of those runs, so that "
                "the picture may change more. More computed steps, or a preset without the plan, "
                "are safer here."
            )
