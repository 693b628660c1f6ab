"""A stand-in for the operator's progress endpoint: HTTPS with a certificate of its own, answering as told."""

import json
import queue
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from threading import Thread
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sftjob_contract.codec import from_json
from sftjob_contract.reports.progress import Progress

DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class Report:
    """One POST that was received."""

    path: str
    authorization: str | None
    progress: Progress


@dataclass
class ProgressEndpoint:
    """`answer` decides the status for the n-th report, counted from 1; it may block, and may be replaced."""

    url: str
    ca: Path
    reports: queue.Queue[Report] = field(default_factory=queue.Queue)
    answer: Callable[[int], int] = lambda _number: 204
    received: int = 0
    connections: int = 0
    open: set[socket.socket] = field(default_factory=set)

    def close_connections(self) -> None:
        """Close what clients keep open, as a server does with idle connections."""
        for connection in list(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self.open.clear()

    def next(self) -> Report:
        """The next report, waiting for it if need be."""
        return self.reports.get(timeout=DEADLINE_SECONDS)

    def wait_for(self, condition: Callable[[Progress], bool]) -> Progress:
        """The first state from now on that is as wanted."""
        while not condition(progress := self.next().progress):
            pass
        return progress


@contextmanager
def progress_endpoint(directory: Path) -> Iterator[ProgressEndpoint]:
    """An endpoint on a free loopback port; its certificate lies in `directory`."""
    certificate, key = write_certificate(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.endpoint = ProgressEndpoint(f"https://127.0.0.1:{server.server_port}/v1/progress", certificate)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def hanging_endpoint() -> Iterator[str]:
    """The URL of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"https://127.0.0.1:{server.getsockname()[1]}/"


def write_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "progress")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "ca.crt", directory / "tls.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


class _Server(ThreadingHTTPServer):
    endpoint: ProgressEndpoint
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that refuses the certificate is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        self.server.endpoint.connections += 1
        self.server.endpoint.open.add(self.request)
        super().setup()

    def do_POST(self) -> None:
        endpoint = self.server.endpoint
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Content-Type"] == "application/json"
        json.loads(body)
        endpoint.received += 1
        number = endpoint.received
        progress = from_json(Progress, body, ignore_unknown=False)
        endpoint.reports.put(Report(self.path, self.headers["Authorization"], progress))
        self.send_response(endpoint.answer(number))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class's name
        """Say nothing."""
