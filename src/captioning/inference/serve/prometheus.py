"""What a server counts, for Prometheus."""

import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters and histograms of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        shared: dict[str, Any] = {"namespace": "captioning", "registry": self.registry}
        self._requests = Counter("requests", "Requests that were answered", ["path", "status"], **shared)
        self._seconds = Histogram("request_seconds", "From a whole request to its answer", buckets=SECONDS, **shared)
        self.images = Counter("images", "Images of requests", ["outcome"], **shared)
        self._batches = Histogram("batch_images", "Of a batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128), **shared)
        self._batch_seconds = Histogram("batch_seconds", "That the model took", buckets=SECONDS, **shared)
        self.waiting = Gauge("waiting_images", "That are in no batch yet", **shared)

    def observe_batch(self, images: int, seconds: float) -> None:
        """Count a batch."""
        self._batches.observe(images)
        self._batch_seconds.observe(seconds)

    def counted(self, app: ASGIApp) -> ASGIApp:
        """An app whose answers are counted."""

        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            began = time.perf_counter()

            async def count(message: Message) -> None:
                if message["type"] == "http.response.start":
                    route = scope.get("route")  # which starlette adds; any path would be labels without end
                    self._requests.labels(getattr(route, "path", "other"), message["status"]).inc()
                    self._seconds.observe(time.perf_counter() - began)
                await send(message)

            await app(scope, receive, count)

        return call
