"""The grounds that caches are compared on: a model, its number of steps, guidance and sampler."""

from __future__ import annotations

from dataclasses import dataclass

SMOOTH, ROUGH = "smooth", "rough"
SPEEDUPS = (1.25, 1.5, 1.8, 2.0)
"""At which ways to sample are compared."""
WITHOUT_BLOCKS = ("unet",)
"""Models that are no list of blocks after each other."""


@dataclass(frozen=True)
class Ground:
    """How one model is sampled.

    Args:
        model: a testbed's name.
        steps, guidance: of the uncached run.
        sampler, scheduler: ComfyUI's names.
        kind: `SMOOTH`, the best case, or `ROUGH`, as people sample large models.
    """

    model: str
    steps: int
    guidance: float
    sampler: str = "euler"
    scheduler: str = "simple"
    kind: str = ROUGH

    @property
    def name(self) -> str:
        """For tables, such as `demo, 20 steps, guidance 7`; what is usual is left out."""
        usual = [self.model, f"{self.steps} steps", f"guidance {self.guidance:g}"]
        return ", ".join([*usual, *self._unusual])

    @property
    def slug(self) -> str:
        """For commands and files, such as `demo-20-g7`; what is usual is left out."""
        return "-".join([self.model, str(self.steps), f"g{self.guidance:g}", *self._unusual])

    @property
    def heading(self) -> str:
        """Of the ground's rows in the tables of all grounds."""
        return f"{self.name} ({self.kind})"

    @property
    def has_blocks(self) -> bool:
        """Whether the model is a list of blocks, which residuals and most caches need."""
        return self.model not in WITHOUT_BLOCKS

    @property
    def _unusual(self) -> list[str]:
        names = {self.sampler: "euler", self.scheduler: "simple"}
        return [name for name, usual in names.items() if name != usual]


GROUNDS = (
    Ground("demo", 50, 3.0, kind=SMOOTH),
    Ground("demo", 20, 7.0),
    Ground("demo", 20, 4.0),
    Ground("demo", 12, 4.0),
    Ground("demo", 20, 4.0, "dpmpp_2m"),
    Ground("demo", 20, 4.0, "res_multistep"),
    Ground("demo", 20, 4.0, scheduler="beta"),
    Ground("digits", 50, 3.0, kind=SMOOTH),
    Ground("digits", 20, 5.0),
    Ground("photos", 20, 4.0),
    Ground("photos", 28, 4.0),
    Ground("photos-distilled", 28, 4.0),
    Ground("unet", 20, 5.0, scheduler="normal"),
    Ground("unet", 30, 5.0, scheduler="normal"),
)
BY_SLUG = {ground.slug: ground for ground in GROUNDS}
