"""One Ray of this machine for the tests, and the pools on it."""

from __future__ import annotations

from collections.abc import Sequence

from teacache.jobs import WorkerSpec
from teacache.jobs.cluster import Cluster, Share


def ray_pool(specs: Sequence[WorkerSpec]):
    """A pool of actors, one for each of `specs`."""
    from teacache.jobs.ray_pool import RayPool

    cluster = Cluster(local=True, cpus=4, gpus=0, nodes=1)
    return RayPool(specs, cluster, Share(len(specs), 0.5, 0.0))
