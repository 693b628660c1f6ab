"""A stand-in for the object stores of Amazon (S3) and Google: enough of their HTTP APIs to list and read objects.

It answers as the real one does, error codes included, and remembers every request.
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_CHANGED = datetime(2026, 1, 1, tzinfo=UTC)


class ObjectStore:
    """Context manager; listens on a free port of the loopback interface at `url`.

    `objects` are contents by `BUCKET/KEY`; `fault` is a status and a code to answer everything with.
    """

    def __init__(self, objects: Mapping[str, bytes] | None = None, *, access_key: str = "AKIDOFTHEJOB") -> None:
        self.objects = dict(objects or {})
        self.access_key = access_key
        self.requests: list[str] = []
        self.fault: tuple[int, str] | None = None
        self.cut: int | None = None
        """Bytes after which the content of an object ends too early."""
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer()

            def do_HEAD(self) -> None:
                self._answer()

            def log_message(self, *_: object) -> None:
                """Be quiet."""

            def _answer(self) -> None:
                store.requests.append(f"{self.command} {self.path}")
                status, body, headers = store.answer(self.path, self.headers.get("Authorization") or "")
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body if store.cut is None or status != 200 else body[: store.cut])
                    self.close_connection = store.cut is not None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def downloads(self) -> list[str]:
        """Paths of the objects whose content was asked for."""
        return [
            request.removeprefix("GET ")
            for request in self.requests
            if request.startswith("GET ") and "?" not in request
        ]

    def answer(self, target: str, authorization: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers for a request."""
        if self.fault is not None:
            return _refusal(*self.fault)
        if target.startswith("/storage/v1/b/"):
            return self._google(target.removeprefix("/storage/v1/b/"))
        return self._amazon(target, authorization)

    def _amazon(self, target: str, authorization: str) -> tuple[int, bytes, dict[str, str]]:
        if f"Credential={self.access_key}/" not in authorization:
            return _refusal(403, "InvalidAccessKeyId")
        url = urlsplit(target)
        path = unquote(url.path).strip("/")
        if not any(name.startswith(f"{path.partition('/')[0]}/") for name in self.objects):
            return _refusal(404, "NoSuchBucket")
        if "/" not in path:
            return 200, self._listing(path, parse_qs(url.query)), {"Content-Type": "application/xml"}
        if path not in self.objects:
            return _refusal(404, "NoSuchKey")
        content = self.objects[path]
        etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return 200, content, {"ETag": f'"{etag}"', "Last-Modified": format_datetime(_CHANGED, usegmt=True)}

    def _google(self, target: str) -> tuple[int, bytes, dict[str, str]]:
        """The JSON API of Google's store; objects need no key here."""
        url = urlsplit(target)
        query = parse_qs(url.query)
        bucket, _, key = url.path.partition("/o")
        if key:
            content = self.objects.get(f"{bucket}{unquote(key)}")
            if content is None:
                return _refusal(404, "notFound")
            body = (
                content
                if query.get("alt") == ["media"]
                else json.dumps(_google_object(f"{bucket}{unquote(key)}", content)).encode()
            )
            return 200, body, {}
        start = f"{bucket}/{query.get('prefix', [''])[0]}"
        found = [_google_object(name, self.objects[name]) for name in sorted(self.objects) if name.startswith(start)]
        return 200, json.dumps({"items": found}).encode(), {}

    def _listing(self, bucket: str, query: Mapping[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        keys = [
            name.removeprefix(f"{bucket}/") for name in sorted(self.objects) if name.startswith(f"{bucket}/{prefix}")
        ]
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.objects[f'{bucket}/{key}'])}</Size>"
            f"<LastModified>{_CHANGED.isoformat().replace('+00:00', '.000Z')}</LastModified></Contents>"
            for key in keys
        )
        return (
            f"<?xml version='1.0'?><ListBucketResult><Name>{bucket}</Name><KeyCount>{len(keys)}</KeyCount>"
            f"<IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
        ).encode()


def _google_object(name: str, content: bytes) -> dict[str, str]:
    bucket, _, key = name.partition("/")
    changed = _CHANGED.isoformat().replace("+00:00", "Z")
    return {"bucket": bucket, "name": key, "generation": "1", "size": str(len(content)), "updated": changed}


def _refusal(status: int, code: str) -> tuple[int, bytes, dict[str, str]]:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>what the server says</Message></Error>"
    return status, body.encode(), {"Content-Type": "application/xml"}
