"""Numbers for Prometheus, in a registry of the server's own."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STEPS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0)
JOBS_S = (0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200)
OTHER = "other"  # of a method or route that there is not


class Metrics:
    """All that a server counts. streams: what those that are live fill in."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.streams = StreamMetrics(self.registry)
        self.job_seconds = Histogram("ussfast_job_seconds", "Time that a job ran.", buckets=JOBS_S, **own)
        self.job_audio = Counter("ussfast_job_audio_seconds", "Audio that jobs separated.", **own)
        self.requests = Counter(
            "ussfast_http_requests", "Requests that were answered.", ["method", "route", "status"], **own
        )
        self.prompts = Gauge("ussfast_prompts", "Prompts that can be asked for.", **own)

    def count_jobs(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """How many jobs there are by status is asked for whenever somebody reads."""
        self.registry.register(_Jobs(counts))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class StreamMetrics:
    """Of live streams."""

    def __init__(self, registry: CollectorRegistry):
        own: dict[str, Any] = {"registry": registry}
        self.open = Gauge("ussfast_streams", "Live streams.", **own)
        self.seconds = Counter("ussfast_stream_seconds", "Audio that streams brought.", **own)
        self.pieces = Counter("ussfast_stream_pieces", "Pieces that were sent.", **own)
        self.late_pieces = Counter("ussfast_stream_late_pieces", "Pieces that left after their deadline.", **own)
        self.refused = Counter("ussfast_streams_refused", "Streams that were refused.", ["reason"], **own)
        self.resumed = Counter("ussfast_streams_resumed", "Streams that went on after a lost connection.", **own)
        self.snapshots = Counter("ussfast_snapshots", "Snapshots of streams that were written.", **own)
        self.busy = Gauge("ussfast_hub_busy_ratio", "Share of the time that live streams take.", **own)
        self.step_seconds = Histogram(
            "ussfast_hub_step_seconds", "Time of a step of all streams.", buckets=STEPS_S, **own
        )


class _Jobs(Collector):
    def __init__(self, counts: Callable[[], Mapping[str, int]]):
        self._counts = counts

    def collect(self) -> Iterator[GaugeMetricFamily]:
        found = GaugeMetricFamily("ussfast_jobs", "Jobs that are kept, by status.", labels=["status"])
        for status, count in self._counts().items():
            found.add_metric([status], count)
        yield found


class Counted:
    """ASGI middleware that counts requests by what their route is called, never by what callers wrote."""

    METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            method = scope["method"] if scope["method"] in self.METHODS else OTHER
            route = getattr(scope.get("route"), "path", OTHER)
            self._metrics.requests.labels(method, route, str(status)).inc()
