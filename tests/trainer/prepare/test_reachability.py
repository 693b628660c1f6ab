"""Why a server cannot be reached, in one clause, whatever library tried; and nothing that any of them said."""

import socket
import ssl
import urllib.error

import pytest

from sftjob_contract.reasons import Reason
from sftjob_trainer.sources.reachability import address, describe_error, unavailable, unreachable

SECRET = "never-to-be-seen"


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


class ProxyError(Exception):
    """Named as that of httpx."""


class ReadTimeout(Exception):  # noqa: N818 -- the name is what is judged
    """Named as that of httpx."""


@pytest.mark.parametrize(
    ("error", "clause"),
    [
        (socket.gaierror(-2, SECRET), "its name is not found"),
        (urllib.error.URLError(socket.gaierror(-3, SECRET)), "its name is not found"),
        (caused(RuntimeError(SECRET), caused(OSError(SECRET), socket.gaierror(-2, ""))), "its name is not found"),
        (urllib.error.URLError(ssl.SSLCertVerificationError(SECRET)), "its certificate is not trusted"),
        (ssl.SSLError(SECRET), "the TLS handshake fails"),
        (caused(OSError(SECRET), ConnectionRefusedError(111, SECRET)), "it refuses the connection"),
        (TimeoutError(SECRET), "it does not answer in time"),
        (ReadTimeout(SECRET), "it does not answer in time"),
        (ConnectionResetError(104, SECRET), "it breaks the connection off"),
        (ProxyError(SECRET), "the proxy refuses"),
        (OSError(f"Tunnel connection failed: 407 {SECRET}"), "the proxy refuses"),
        (OSError(f"AWS Error NETWORK_CONNECTION: curlCode: 6, {SECRET}"), "its name is not found"),
        (OSError(f"google::cloud::Status(UNAVAILABLE: CURL error [28]={SECRET})"), "it does not answer in time"),
        (OSError(f"curlCode: 60, {SECRET}"), "its certificate is not trusted"),
        (OSError(SECRET), "OSError"),
    ],
)
def test_the_most_telling_error_of_a_chain_is_named_and_its_words_are_not(error: Exception, clause: str) -> None:
    assert describe_error(error) == clause


def test_errors_that_lead_to_one_another_end() -> None:
    first, second = OSError("a"), OSError("b")
    first.__cause__, second.__cause__ = second, first
    assert describe_error(first) == "OSError"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"https://user:{SECRET}@hub.example.com:8443/a?sig={SECRET}", "https://hub.example.com:8443"),
        ("https://hub.example.com", "https://hub.example.com"),
        ("hub.example.com", None),
        ("http://[", None),
        ("http://host:none", None),
        (None, None),
    ],
)
def test_an_address_has_neither_credentials_nor_a_path(url: str | None, shown: str | None) -> None:
    assert address(url) == shown


def test_a_proxy_on_the_way_is_named_without_who_logs_in_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"http://user:{SECRET}@proxy:3128")
    monkeypatch.setenv("no_proxy", "inside.example.com")
    told = unreachable("hf://org/tiny", "https://huggingface.co/api", ProxyError(SECRET))
    assert told.message == (
        "hf://org/tiny: https://huggingface.co through the proxy http://proxy:3128 cannot be reached: the proxy refuses"
    )
    inside = unreachable("a", "https://inside.example.com", ProxyError(SECRET)).message
    assert inside == "a: https://inside.example.com cannot be reached: the proxy refuses"


@pytest.mark.parametrize(("status", "passes_by"), [(500, True), (503, True), (429, True), (408, True), (418, False)])
def test_a_server_that_is_out_of_order_is_unreachable_and_any_other_answer_is_not(status: int, passes_by: bool) -> None:
    told = unavailable("s3://lab", "http://store:9000/x", status)
    assert told.message == f"s3://lab: the server http://store:9000 answered with HTTP {status}"
    assert told.reason is (Reason.UNREACHABLE if passes_by else Reason.INTERNAL_ERROR)
