"""A stand-in for a web server over HTTPS, with a certificate of its own."""

import hashlib
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from support.servers.progress_endpoint import write_certificate


@dataclass
class Web:
    """`files` are contents by path; `status` is answered for everything, if it is set."""

    url: str
    certificate: Path
    files: dict[str, bytes]
    status: int | None = None
    with_etag: bool = True
    cut: int | None = None
    """Bytes after which content ends too early."""


@contextmanager
def web(directory: Path, files: Mapping[str, bytes]) -> Iterator[Web]:
    """A server on a free loopback port; its certificate lies in `directory`."""
    certificate, key = write_certificate(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    site = Web(url="", certificate=certificate, files=dict(files))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = site.files.get(self.path.partition("?")[0])
            status = site.status or (404 if content is None else 200)
            body = content if content is not None and status == 200 else b"what the server says"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if site.with_etag:
                self.send_header("ETag", f'"{hashlib.sha1(body, usedforsecurity=False).hexdigest()}"')
            self.end_headers()
            self.wfile.write(body[: site.cut])

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    site.url = f"https://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
