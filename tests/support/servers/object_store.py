"""A stand-in for the object stores of Amazon (S3) and Google: enough of their HTTP APIs to list, read and write.

It answers as the real one does, error codes included, and remembers every request.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.message import Message
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self
from urllib.parse import parse_qs, unquote, urlencode, urlsplit
from xml.sax.saxutils import escape

import pytest

from support.servers.request_body import read_body

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
_CHANGED = datetime(2026, 1, 1, tzinfo=UTC)


SECRET: Final = "never-to-be-seen"


class ObjectStore:
    """Context manager; listens on a free port of the loopback interface at `url`.

    `objects` are contents by `BUCKET/KEY`; `fault` is a status and a code to answer everything with.
    """

    def __init__(self, objects: Mapping[str, bytes] | None = None, *, access_key: str = "AKIDOFTHEJOB") -> None:
        self.objects = dict(objects or {})
        self.access_key = access_key
        self.requests: list[str] = []
        self.buckets: set[str] = {name.partition("/")[0] for name in self.objects}
        self.fault: tuple[int, str] | None = None
        self.read_only = False
        """Whether the key may write nothing."""
        self.encrypts = False
        """Whether ETags say nothing about contents, as with keys of one's own."""
        self.spoils: str | None = None
        """End of the names of objects that are stored with a wrong last byte."""
        self.cut: int | None = None
        """Bytes after which the content of an object ends too early."""
        self._parts: dict[str, dict[int, bytes]] = {}
        self._etags: dict[str, str] = {}
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer()

            def do_HEAD(self) -> None:
                self._answer()

            def do_PUT(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def do_DELETE(self) -> None:
                self._answer()

            def log_message(self, *_: object) -> None:
                """Be quiet."""

            def _answer(self) -> None:
                given = read_body(self)
                store.requests.append(f"{self.command} {self.path}")
                if self.command in ("GET", "HEAD"):
                    status, body, headers = store.answer(self.path, self.headers.get("Authorization") or "")
                else:
                    status, body, headers = store.write(self.command, self.path, self.headers, given)
                status, body = _ranged(status, body, self.headers["Range"] or "")
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET" and store.cut is not None:
                    body = body[: store.cut] if status == 200 else body
                    self.close_connection = True
                if self.command != "HEAD":
                    with suppress(ConnectionError):  # Google's client hangs up once it has read enough
                        self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def be_the_one_of(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Be what clients of S3 and of GCS in this process find, with `SECRET` as its key."""
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "HTTPS_PROXY", "https_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", self.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", self.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", self.url)

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
        if path.partition("/")[0] not in self.buckets:
            return _refusal(404, "NoSuchBucket")
        if "/" not in path:
            return 200, self._listing(path, parse_qs(url.query)), {"Content-Type": "application/xml"}
        if path not in self.objects:
            return _refusal(404, "NoSuchKey")
        content = self.objects[path]
        etag = self._etags.get(path) or _md5(content).hexdigest()
        if self.encrypts:
            etag = _md5(etag.encode()).hexdigest()
        return 200, content, {"ETag": f'"{etag}"', "Last-Modified": format_datetime(_CHANGED, usegmt=True)}

    def write(self, method: str, target: str, headers: Message, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers for a request that changes something."""
        if self.fault is not None:
            return _refusal(*self.fault)
        if self.read_only:
            return _refusal(403, "AccessDenied")
        url = urlsplit(target)
        query = parse_qs(url.query, keep_blank_values=True)
        if url.path.startswith("/upload/storage/v1/b/"):
            return self._write_to_google(method, url.path, query, headers["Content-Range"] or "", body)
        if f"Credential={self.access_key}/" not in (headers["Authorization"] or ""):
            return _refusal(403, "InvalidAccessKeyId")
        path = unquote(url.path).strip("/")
        if path.partition("/")[0] not in self.buckets:
            return _refusal(404, "NoSuchBucket")
        return self._write_to_amazon(method, path, query, body)

    def _write_to_amazon(
        self, method: str, path: str, query: Mapping[str, list[str]], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        """An object in one piece, or in parts: begun, each part put, completed."""
        if method == "POST" and "uploads" in query:
            self._parts[path] = {}
            return (
                200,
                f"<InitiateMultipartUploadResult><UploadId>{path}</UploadId></InitiateMultipartUploadResult>".encode(),
                {},
            )
        if method == "PUT" and "partNumber" in query:
            self._parts[path][int(query["partNumber"][0])] = body
            return 200, b"", {"ETag": f'"{_md5(body).hexdigest()}"'}
        if method == "POST" and "uploadId" in query:
            parts = [part for _, part in sorted(self._parts.pop(path).items())]
            etag = f"{_md5(b''.join(_md5(part).digest() for part in parts)).hexdigest()}-{len(parts)}"
            self._keep(path, b"".join(parts), etag)
            return (
                200,
                f"<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>".encode(),
                {},
            )
        if method != "PUT":
            return _refusal(405, "MethodNotAllowed")
        etag = _md5(body).hexdigest()
        self._keep(path, body, etag)
        return 200, b"", {"ETag": f'"{etag}"'}

    def _write_to_google(
        self, method: str, path: str, query: Mapping[str, list[str]], range_: str, body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        """A resumable upload: begun with a name, which is answered with where to put the content, chunk by chunk."""
        bucket = path.removeprefix("/upload/storage/v1/b/").partition("/")[0]
        if bucket not in self.buckets:
            return _refusal(404, "notFound")
        key = query["name"][0]
        name = f"{bucket}/{key}"
        if method == "POST":
            self._parts[name] = {}
            return 200, b"", {"Location": f"{self.url}{path}?{urlencode({'upload_id': '1', 'name': key})}"}
        chunks = self._parts[name]
        chunks[len(chunks)] = body
        content = b"".join(chunks.values())
        if range_.endswith("/*"):
            return 308, b"", {"Range": f"bytes=0-{len(content) - 1}"}
        self._keep(name, content, _md5(content).hexdigest())
        return 200, json.dumps(_google_object(name, self.objects[name])).encode(), {}

    def _keep(self, path: str, content: bytes, etag: str) -> None:
        if self.spoils is not None and path.endswith(self.spoils):
            content = content[:-1] + bytes([content[-1] ^ 1])
            etag = _md5(content).hexdigest()
        self.objects[path], self._etags[path] = content, etag

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
    digest = base64.b64encode(_md5(content).digest()).decode()
    told = {"bucket": bucket, "name": key, "generation": "1", "size": str(len(content)), "updated": changed}
    return {**told, "md5Hash": digest}


def _ranged(status: int, body: bytes, header: str) -> tuple[int, bytes]:
    """An answer, cut to the range that was asked for."""
    wanted = _RANGE.fullmatch(header)
    return (206, body[int(wanted[1]) : int(wanted[2]) + 1]) if wanted and status == 200 else (status, body)


def _md5(content: bytes) -> Any:
    return hashlib.md5(content, usedforsecurity=False)


def _refusal(status: int, code: str) -> tuple[int, bytes, dict[str, str]]:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>what the server says</Message></Error>"
    return status, body.encode(), {"Content-Type": "application/xml"}
