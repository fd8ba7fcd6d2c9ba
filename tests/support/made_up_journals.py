"""Records of comparisons that nobody ran."""

from __future__ import annotations

from collections.abc import Mapping


def pair_of(
    caption: str,
    seconds: Mapping[str, float],
    psnr: float | Mapping[str, float] = 50.0,
    lpips: float | None = None,
) -> list[dict]:
    """The records of one pair.

    Args:
        caption: of the pair, whose seed is 0.
        seconds: by variant; processor time is half of them.
        psnr: in dB, of all variants or by variant, against both references.
        lpips: of all variants.
    """
    place = {"prompt": caption, "seed": 0}

    def sample(name: str, took: float) -> dict:
        similarity = {"psnr": psnr if isinstance(psnr, float) else psnr[name], "ssim": 0.9}
        if lpips is not None:
            similarity["lpips"] = lpips
        return {
            "kind": "sample", "variant": name, **place, "seconds": took, "cpu": took / 2,
            "computed": 25, "uncached": similarity, "converged": similarity,
        }  # fmt: skip

    samples = [sample(name, took) for name, took in seconds.items()]
    return [*samples, {"kind": "pair", **place, "agreement": 90.0, "lpips": lpips is not None}]
