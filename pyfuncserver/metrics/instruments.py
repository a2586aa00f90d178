"""What we count, under names by Prometheus's conventions and with labels of few values.

The model's own instruments stand beside ours in the same files; their names are never changed.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from pyfuncserver.metrics import values

LATENCY_BUCKETS_S = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
)  # fmt: skip

BATCH_BUCKETS_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def install(identity: str) -> None:
    """Make this process's instruments write under ``identity``; before the model is imported."""
    values.install(identity)


def set_identity(identity: str) -> None:
    """Take another identity, after a fork. No two living processes may have the same."""
    values.set_identity(identity)


class Instruments:
    """Our instruments; one object a process, made when :func:`install` has been called.

    Where it has not, they count for this process alone.
    """

    def __init__(self) -> None:
        values.ensure_installed()
        self.requests = Counter(
            "pyfuncserver_requests",
            "Prediction requests answered, by dialect and status code.",
            ("model", "dialect", "code"),
            registry=None,
        )
        self.errors = Counter(
            "pyfuncserver_request_errors",
            "Prediction requests answered with an error, by its kind.",
            ("model", "dialect", "kind"),
            registry=None,
        )
        self.duration = Histogram(
            "pyfuncserver_request_duration_seconds",
            "Seconds from a request's decoding to its encoded answer.",
            ("model", "dialect"),
            buckets=LATENCY_BUCKETS_S,
            registry=None,
        )
        self.in_flight = Gauge(
            "pyfuncserver_requests_in_flight",
            "Prediction requests that are being answered.",
            ("model", "dialect"),
            multiprocess_mode="livesum",
            registry=None,
        )
        self.waiting = Gauge(
            "pyfuncserver_requests_waiting",
            "Prediction requests that wait for their turn.",
            ("model", "dialect"),
            multiprocess_mode="livesum",
            registry=None,
        )
        self.wait = Histogram(
            "pyfuncserver_request_wait_seconds",
            "Seconds that an accepted request waited for its turn, also those that left before.",
            ("model", "dialect"),
            buckets=LATENCY_BUCKETS_S,
            registry=None,
        )
        self.predictions = Counter(
            "pyfuncserver_predictions",
            "Predictions handed to the model, by where they ran: on the thread that serves the "
            "clients (loop), or on one of their own (thread).",
            ("model", "dialect", "where"),
            registry=None,
        )
        self.batches = Counter(
            "pyfuncserver_batches",
            "Batches handed to the model, by why no more calls were let in: as many rows as may be "
            "(full), nothing else waited (empty), only what may not be mixed (others), the delay "
            "was over (delay), a call that cannot be put together with others (alone).",
            ("closed",),
            registry=None,
        )
        self.batch_rows = Histogram(
            "pyfuncserver_batch_rows",
            "Rows handed to the model at once, where calls are put together.",
            buckets=BATCH_BUCKETS_ROWS,
            registry=None,
        )
        self.batch_wait = Histogram(
            "pyfuncserver_batch_wait_seconds",
            "Seconds from the arrival of a batch's first call until the model had it.",
            buckets=LATENCY_BUCKETS_S,
            registry=None,
        )
        self.batch_retries = Counter(
            "pyfuncserver_batch_retries",
            "Batches that failed and were run again, call by call.",
            registry=None,
        )
        self.parts = Counter(
            "pyfuncserver_stream_parts",
            "Parts of streamed answers handed over by the model, by dialect.",
            ("model", "dialect"),
            registry=None,
        )
        self.feedback = Counter(
            "pyfuncserver_feedback",
            "Feedback that was taken, which tells what became of predictions.",
            registry=None,
        )
        self.reward = Counter(
            "pyfuncserver_feedback_reward",
            "Rewards that feedback has brought, added up by their sign; what both give together "
            "is positive less negative.",
            ("sign",),
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

    def count_feedback(self, reward: float) -> None:
        """Count a feedback, and its reward: a counter only grows, so there is one for each sign."""
        self.feedback.inc()
        if reward:
            self.reward.labels("positive" if reward > 0 else "negative").inc(abs(reward))
