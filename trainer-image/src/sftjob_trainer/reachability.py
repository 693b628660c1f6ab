"""Servers that cannot be reached: which address it was, and what went wrong on the way there.

Nothing that a server or a library said is repeated, since it may echo what we sent; only the kind of error is named.
"""

import re
import socket
import ssl
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure

PASSING: Final = frozenset({408, 425, 429})
"""HTTP statuses below 500 that mean: not now."""
_SERVER_ERRORS: Final = 500
_NO_DOWNLOAD: Final = "LocalEntryNotFoundError"
"""What huggingface_hub raises of a file that it could neither download nor find in its cache."""
_CURL: Final = re.compile(r"curl(?:Code: | error )?\D{0,3}(\d{1,2})\b|CURL error \[?(\d{1,2})\]?")
_CURL_PROBLEMS: Final = {
    5: "the name of the proxy is not found",
    6: "its name is not found",
    7: "the connection fails",
    28: "it does not answer in time",
    35: "the TLS handshake fails",
    60: "its certificate is not trusted",
    77: "the file of trusted certificates cannot be read",
}
"""What the error codes of libcurl mean, which the clients of object stores pass on
(https://curl.se/libcurl/c/libcurl-errors.html)."""


def unreachable(what: str, url: str | None, error: BaseException) -> Failure:
    """The verdict on a request for `what` (a source or destination) that got no answer; `url` is where it went."""
    place = address(url)
    where = f"{place}{_through_proxy(url)}" if place else "the server"
    return Failure(Reason.UNREACHABLE, f"{what}: {where} cannot be reached: {problem(error)}")


def unavailable(what: str, url: str | None, status: int, who: str = "the server") -> Failure:
    """The verdict on an answer that is no answer: HTTP 5xx and its like pass by, other ones nobody expects."""
    place = address(url)
    at = f" {place}" if place else ""
    passing = status >= _SERVER_ERRORS or status in PASSING
    return Failure(
        Reason.UNREACHABLE if passing else Reason.INTERNAL_ERROR, f"{what}: {who}{at} answered with HTTP {status}"
    )


def is_of_the_network(error: BaseException) -> bool:
    """Whether `error` comes from a connection, and not from a file."""
    chain = list(_chain(error))
    network = (socket.gaierror, ssl.SSLError, ConnectionError, TimeoutError)
    return type(error).__name__ == _NO_DOWNLOAD or any(
        isinstance(each, network) or type(each).__module__.startswith("httpx") for each in chain
    )


def url_of(error: BaseException) -> str | None:
    """Where the request went that an error of httpx, which huggingface_hub speaks HTTP with, is about."""
    for each in _chain(error):
        with suppress(RuntimeError):  # an httpx error without its request
            if (request := getattr(each, "request", None)) is not None:
                return str(request.url)
    return None


def address(url: str | None) -> str | None:
    """Scheme, host and port of `url`: not who logs in there, and not what is asked for."""
    try:
        parts = urllib.parse.urlsplit(url or "")
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    return f"{parts.scheme}://{parts.hostname}{port}" if parts.hostname and parts.scheme else None


def problem(error: BaseException) -> str:
    """What went wrong, by the most telling of the errors that led to `error`."""
    chain = list(_chain(error))
    for kinds, said in (
        ((socket.gaierror,), "its name is not found"),
        ((ssl.SSLCertVerificationError,), "its certificate is not trusted"),
        ((ssl.SSLError,), "the TLS handshake fails"),
        ((ConnectionRefusedError,), "it refuses the connection"),
        ((TimeoutError,), "it does not answer in time"),
        ((ConnectionError,), "it breaks the connection off"),
    ):
        if any(isinstance(each, kinds) for each in chain):
            return said
    names = [type(each).__name__ for each in chain]
    if any("Timeout" in name for name in names):
        return "it does not answer in time"
    if any("Proxy" in name for name in names) or any("Tunnel connection failed" in str(each) for each in chain):
        return "the proxy refuses"
    codes = (found for each in chain if (found := _CURL.search(str(each))))
    known = (_CURL_PROBLEMS.get(int(found[1] or found[2])) for found in codes)
    return next((said for said in known if said), names[0])


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and what led to it, each once."""
    seen: set[int] = set()
    following: list[object] = [error]
    while following:
        each = following.pop(0)
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        following += [getattr(each, "reason", None), each.__cause__, each.__context__]


def _through_proxy(url: str | None) -> str:
    """Which proxy of the environment (HTTPS_PROXY, NO_PROXY) requests for `url` go through, if any."""
    parts = urllib.parse.urlsplit(url or "")
    if urllib.request.proxy_bypass(parts.netloc):
        return ""
    proxy = address(urllib.request.getproxies().get(parts.scheme))
    return f" through the proxy {proxy}" if proxy else ""
