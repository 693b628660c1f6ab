"""Live reports to the operator: a thread of its own that can neither hold up nor end the training.

Only the latest state is kept, so a slow or absent endpoint costs nothing but freshness: every report is whole.
"""

import http.client
import logging
import ssl
import threading
import types
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sftjob_contract.codec import to_json
from sftjob_contract.progress import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where to POST: an https URL, the CA that signs for it, and the file with the bearer token."""

    url: str
    ca: Path | None
    token: Path | None


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds: between reports, after the first and at most after repeated failures, per request, and at the end."""

    interval: float = 2.0
    first_backoff: float = 1.0
    max_backoff: float = 30.0
    timeout: float = 10.0
    flush: float = 5.0


class Reporter:
    """Sends the state last offered. A context manager: leaving it sends what is pending, within `pace.flush`."""

    def __init__(self, endpoint: Endpoint | None, pace: Pace = Pace()) -> None:
        """Without an endpoint nothing is sent."""
        self._endpoint = endpoint
        self._pace = pace
        self._changed = threading.Condition()
        self._pending: Progress | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="progress-reporter", daemon=True)

    def offer(self, progress: Progress) -> None:
        """Replace the state to send. Returns at once, whatever the endpoint does."""
        with self._changed:
            self._pending = progress
            self._changed.notify()

    def __enter__(self) -> Self:
        """Start sending."""
        if self._endpoint is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        """Send what is pending at once, and give up after the flush time."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._endpoint is not None:
            self._thread.join(self._pace.flush)

    def _run(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending is not None or self._closing)
                progress, self._pending = self._pending, None
                last = self._closing
            if progress is None:
                return
            error = self._error_of_sending(progress)
            failures = failures + 1 if error else 0
            if error:
                self._keep(progress)
            if failures == 1:
                logger.warning("progress could not be reported, trying again: %s", error)
            if last:
                return
            with self._changed:
                self._changed.wait_for(lambda: self._closing, self._pause(failures))

    def _error_of_sending(self, progress: Progress) -> Exception | None:
        if self._endpoint is None:
            return None
        try:
            post(self._endpoint, progress, timeout=self._pace.timeout)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return error
        return None

    def _keep(self, progress: Progress) -> None:
        """Put back a state that was not sent, unless there is a newer one."""
        with self._changed:
            self._pending = self._pending or progress

    def _pause(self, failures: int) -> float:
        return self._pace.interval if failures == 0 else backoff(failures, self._pace)


def backoff(failures: int, pace: Pace) -> float:
    """Seconds to wait after so many failures in a row: doubling, bounded."""
    return float(min(pace.first_backoff * 2 ** min(failures - 1, 16), pace.max_backoff))


def post(endpoint: Endpoint, progress: Progress, *, timeout: float) -> None:
    """POST one report. The token and the CA are read anew, since the kubelet rotates them.

    Raises:
        OSError: no connection, a certificate that the CA did not sign, or an answer other than 2xx.
        http.client.HTTPException: the answer is not HTTP.
        ValueError: the URL is not one to report to, or the progress is not sayable in JSON.
    """
    url = urllib.parse.urlsplit(endpoint.url)
    if url.scheme != "https" or not url.hostname:
        raise ValueError("the URL must begin with https://")
    headers = {"Content-Type": "application/json"}
    if endpoint.token is not None:
        headers["Authorization"] = f"Bearer {endpoint.token.read_text(encoding='utf-8').strip()}"
    context = ssl.create_default_context(cafile=endpoint.ca)
    connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=timeout, context=context)
    try:
        connection.request("POST", url.path, to_json(progress).encode(), headers)
        answer = connection.getresponse()
        if not 200 <= answer.status < 300:
            raise OSError(f"the answer was {answer.status} {answer.reason}")
    finally:
        connection.close()
