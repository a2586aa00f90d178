"""What we count, under names by Prometheus's conventions and with labels of few values.

The model's own instruments stand beside ours in the same files; their names are never changed.
"""

from __future__ import annotations

import os

from prometheus_client import Counter, Gauge, Histogram

from pyfuncserver.metrics import values

LATENCY_BUCKETS_S = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
)  # fmt: skip

_identity = [values.NOBODY]


def install(identity: str) -> None:
    """Make this process's instruments write under ``identity``; before the model is imported."""
    set_identity(identity)
    values.install(lambda: _identity[0])
    # A process that the model forks would write over the figures of the one that forked it.
    os.register_at_fork(after_in_child=lambda: set_identity(values.NOBODY))


def set_identity(identity: str) -> None:
    """Take another identity, after a fork. No two living processes may have the same."""
    _identity[0] = identity


class Instruments:
    """Our instruments; one object a process, made when :func:`install` has been called."""

    def __init__(self) -> None:
        self.requests = Counter(
            "pyfuncserver_requests",
            "Prediction requests answered, by dialect and status code.",
            ("dialect", "code"),
            registry=None,
        )
        self.errors = Counter(
            "pyfuncserver_request_errors",
            "Prediction requests answered with an error, by its kind.",
            ("dialect", "kind"),
            registry=None,
        )
        self.duration = Histogram(
            "pyfuncserver_request_duration_seconds",
            "Seconds from a request's decoding to its encoded answer.",
            ("dialect",),
            buckets=LATENCY_BUCKETS_S,
            registry=None,
        )
        self.in_flight = Gauge(
            "pyfuncserver_requests_in_flight",
            "Prediction requests that are being answered.",
            ("dialect",),
            multiprocess_mode="livesum",
            registry=None,
        )
        self.waiting = Gauge(
            "pyfuncserver_requests_waiting",
            "Prediction requests that wait for their turn.",
            ("dialect",),
            multiprocess_mode="livesum",
            registry=None,
        )
        self.wait = Histogram(
            "pyfuncserver_request_wait_seconds",
            "Seconds that an accepted request waited for its turn, also those that left before.",
            ("dialect",),
            buckets=LATENCY_BUCKETS_S,
            registry=None,
        )
        self.refusals = Counter(
            "pyfuncserver_http_refusals",
            "HTTP requests refused before it was known what they ask for, by status code.",
            ("code",),
            registry=None,
        )
        self.model = Gauge(
            "pyfuncserver_model_info",
            "The model that is served; always 1.",
            ("name", "version", "full_name", "project", "kind", "loader"),
            multiprocess_mode="livemax",
            registry=None,
        )
