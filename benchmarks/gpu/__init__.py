"""What the cache is worth on an accelerator: real model sizes with random weights.

`python -m benchmarks.gpu` measures, `python -m benchmarks.gpu.cached_bytes` counts what the cache
holds, and `python -m benchmarks.gpu.visit` does everything that a device is needed for, in order.
"""
