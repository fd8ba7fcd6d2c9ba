"""A stand-in for the pack ComfyUI-WanVideoWrapper: what its model and sampler show to others.

The names, the arguments and the order of the calls are the pack's; the arithmetic is as small as
it can be. ComfyUI's loader loads it as it loads the pack.
"""

from .nodes_sampler import WanVideoSampler, WanVideoSamplerv2

NODE_CLASS_MAPPINGS = {
    "WanVideoSampler": WanVideoSampler,
    "WanVideoSamplerv2": WanVideoSamplerv2,
}
