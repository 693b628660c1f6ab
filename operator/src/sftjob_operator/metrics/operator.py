"""Metrics of the operator: counted as events occur, or read at a scrape."""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

import aiohttp
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from sftjob_operator.metrics.requests import resource_and_verb

_BUCKETS_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
NO_ANSWER: Final = "none"
"""The code of a request without a response."""


class FailureCause(StrEnum):
    """Why work on a job has to be repeated."""

    UNAVAILABLE = "unavailable"
    """The API server currently cannot answer."""
    REFUSED = "refused"
    """The API server rejects the request."""
    FAULT = "fault"
    """An internal error of the operator."""


class OperatorMetrics:
    """The metrics of one operator, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._reconciles = Histogram(
            "sftjob_reconcile_duration_seconds",
            "Duration of one reconciliation of a job, with its requests.",
            buckets=_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self._failures = Counter(
            "sftjob_reconcile_errors",
            "Reconciliations of a job that have to be retried.",
            ["cause"],
            registry=self.registry,
        )
        for cause in FailureCause:
            self._failures.labels(cause)
        self._requests = Counter(
            "sftjob_api_requests",
            "Requests to the API server; a watch is one.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )

    def read(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """Add a gauge that calls `value` at each scrape."""
        Gauge(name, documentation, registry=self.registry).set_function(value)

    def reconciled(self, seconds: float) -> None:
        """Observe the duration of one pass over a job, however it ended."""
        self._reconciles.observe(seconds)

    def failed(self, cause: FailureCause) -> None:
        """Count a pass over a job that has to be repeated."""
        self._failures.labels(cause).inc()

    def trace(self) -> aiohttp.TraceConfig:
        """Return the trace configuration with which a client session to the API server counts its requests."""
        config = aiohttp.TraceConfig()
        config.on_request_end.append(self._answered)
        config.on_request_exception.append(self._unanswered)
        return config

    async def _answered(
        self, _session: aiohttp.ClientSession, _context: Any, request: aiohttp.TraceRequestEndParams
    ) -> None:
        resource, verb = resource_and_verb(request.method, request.url)
        self._requests.labels(verb, resource, str(request.response.status)).inc()

    async def _unanswered(
        self, _session: aiohttp.ClientSession, _context: Any, request: aiohttp.TraceRequestExceptionParams
    ) -> None:
        resource, verb = resource_and_verb(request.method, request.url)
        self._requests.labels(verb, resource, NO_ANSWER).inc()
