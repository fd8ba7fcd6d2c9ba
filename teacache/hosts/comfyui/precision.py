"""How precisely ComfyUI's models compute: samplers get their outputs in float32."""

from __future__ import annotations

from typing import Any

import torch

from ...engine.rounding import HALF, rounding_error
from ...families.streams import FamilyMismatch, reading_model


class Rounding:
    """The rounding errors in the predictions of one run.

    Args:
        guider: a `comfy.samplers.CFGGuider`.
    """

    def __init__(self, guider: Any) -> None:
        self._guider = guider
        self._dtype: torch.dtype | None = None
        """None before the first evaluation."""
        self._outputs: list[torch.Tensor] = []

    def begin_evaluation(self) -> None:
        """What is noted from here on is of another evaluation."""
        self._outputs = []
        if self._dtype is None:
            try:
                with reading_model():
                    self._dtype = computing_dtype(self._guider.model_patcher.model)
            except FamilyMismatch:
                self._dtype = torch.float32

    def noted(self, outputs: Any) -> Any:
        """`outputs` of a pass before guidance; those of an evaluation's first pass are kept."""
        if self._dtype in HALF and not self._outputs and isinstance(outputs, (list, tuple)):
            self._outputs = [each for each in outputs if isinstance(each, torch.Tensor)]
        return outputs

    def error(self, denoised: Any) -> torch.Tensor | None:
        """Relative rounding error of the derivative; None where it is negligible or not known.

        Args:
            denoised: the latent after guidance, which the derivative leads to.
        """
        outputs, self._outputs = self._outputs, []
        if self._dtype is None or not isinstance(denoised, torch.Tensor):
            return None
        return rounding_error(self._dtype, denoised, outputs)


def computing_dtype(model: Any) -> torch.dtype:
    """The type that a model computes in: the one that weights of another type are cast to, if any.

    Args:
        model: a `comfy.model_base.BaseModel`.
    """
    cast: torch.dtype | None = model.manual_cast_dtype
    own: torch.dtype = model.get_dtype()
    return own if cast is None else cast
