"""Numbers of a service for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
PICTURES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """What is counted, of one service; memory and CPU time of the process, too.

    Args:
        waiting: how many pictures wait.
        present: how many requests wait or are answered.
    """

    def __init__(self, waiting: Callable[[], int], present: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        own = {"namespace": "mmconvnext", "registry": self._registry}
        text = "Requests for a prediction, by the status of the answer; 499: the client had gone."
        self.requests = Counter("requests", text, ["status"], **own)
        text = "Seconds from a request's header to its answer."
        self.request_seconds = Histogram("request_seconds", text, buckets=SECONDS, **own)
        text = "Seconds of all detectors on a batch, with decoding and outlines."
        self.batch_seconds = Histogram("batch_seconds", text, buckets=SECONDS, **own)
        self.batch_pictures = Histogram(
            "batch_pictures", "Pictures in a batch.", buckets=PICTURES, **own
        )
        Gauge("waiting_pictures", "Pictures that wait.", **own).set_function(waiting)
        text = "Requests that wait or are answered."
        Gauge("present_requests", text, **own).set_function(present)

    def response(self) -> Response:
        """All of it, as text."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)
