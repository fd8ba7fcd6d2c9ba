"""What `/metrics` tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .models import Pictures

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
"""Upper bounds of the times that are counted together."""
SPEEDUPS = (1, 1.1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 6)


class Metrics:
    """The counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "teacache_requests", "Answers", ["path", "status"], registry=registry
        )
        self.jobs = Counter(
            "teacache_jobs",
            "Sampling jobs that ended: done, failed, cancelled, or refused as the queue was full",
            ["outcome"],
            registry=registry,
        )
        self.waiting = Gauge("teacache_queue_length", "Jobs that wait", registry=registry)
        self.capacity = Gauge(
            "teacache_queue_capacity", "Jobs that may wait at most", registry=registry
        )
        self.running = Gauge("teacache_jobs_running", "Jobs that are sampled", registry=registry)
        self.slots = Gauge(
            "teacache_slots", "Jobs that are sampled at a time at most", registry=registry
        )
        self.queue_seconds = Histogram(
            "teacache_queue_seconds", "Time in the queue", buckets=SECONDS, registry=registry
        )
        self.sampling_seconds = Histogram(
            "teacache_sampling_seconds",
            "Time of sampling, with text encoding and decoding",
            buckets=SECONDS,
            registry=registry,
        )
        self.pictures = Counter("teacache_pictures", "Pictures made", registry=registry)
        self.steps = Counter(
            "teacache_steps",
            "Model evaluations in runs with the cache: computed or skipped",
            ["decision"],
            registry=registry,
        )
        self.speedup = Histogram(
            "teacache_speedup",
            "Estimated speed-up of a run: its time had every step been computed, over its time",
            buckets=SPEEDUPS,
            registry=registry,
        )
        self.saved_seconds = Counter(
            "teacache_saved_seconds", "Estimated time that skipped steps saved", registry=registry
        )
        for outcome in ("done", "failed", "cancelled", "refused"):
            self.jobs.labels(outcome)
        for decision in ("computed", "skipped"):
            self.steps.labels(decision)

    def sampled(self, pictures: Pictures) -> None:
        """Counts the result of a job."""
        self.sampling_seconds.observe(pictures.seconds)
        self.pictures.inc(len(pictures.images))
        for run in pictures.runs:
            self.steps.labels("computed").inc(run["computed"])
            self.steps.labels("skipped").inc(run["skipped"])
            if run["estimated_speedup"] is not None:
                self.speedup.observe(run["estimated_speedup"])
                self.saved_seconds.inc(max(run["saved_seconds"], 0.0))

    def text(self) -> bytes:
        """The counters in Prometheus' text format."""
        return generate_latest(self.registry)
