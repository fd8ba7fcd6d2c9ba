"""Many jobs on a pool of workers: in this process one after the other, or on a Ray cluster.

A worker loads what its jobs need once and keeps it. What a job gives does not depend on the worker
that ran it, nor on what ran beside it.
"""

from .job import Failure, Job, Outcome, Worker, WorkerLost, WorkerSpec
from .pool import LocalPool, Pool, kept_open
from .scheduler import Watcher, outcomes, results

__all__ = [
    "Failure",
    "Job",
    "LocalPool",
    "Outcome",
    "Pool",
    "Watcher",
    "Worker",
    "WorkerLost",
    "WorkerSpec",
    "kept_open",
    "outcomes",
    "results",
]
