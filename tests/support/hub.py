"""A stand-in for a Hugging Face hub: enough of its HTTP API for huggingface_hub to download models and data sets.

It answers as the real one does, error codes and headers included, and remembers every request with its token.
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import unquote, urlsplit

Kind = Literal["model", "dataset"]
Files = Mapping[str, bytes]


@dataclass(kw_only=True)
class Repository:
    """`commits` by their hash, the newest last; `branches` name commits. Private: only for tokens. Gated: for none."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def resolve(self, revision: str) -> str | None:
        """The commit that `revision` (a branch or a commit) names."""
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass(frozen=True)
class Request:
    """What was asked for, and with which token."""

    method: str
    path: str
    token: str | None


@dataclass(frozen=True)
class Answer:
    """What to send back."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Hub:
    """Context manager; listens on a free port of the loopback interface at `url`."""

    def __init__(self, tokens: frozenset[str] = frozenset()) -> None:
        self.tokens = tokens
        self.requests: list[Request] = []
        self.broken = False
        self.open = threading.Event()
        """Cleared: requests arrive but are not answered."""
        self.open.set()
        self.asked = threading.Event()
        """Set by every request that arrives."""
        self._repositories: dict[tuple[str, str], Repository] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def log_message(self, *_: object) -> None:
                """Be quiet."""

            def _answer(self, *, with_body: bool) -> None:
                authorization = self.headers.get("Authorization")
                token = authorization.removeprefix("Bearer ") if authorization else None
                request = Request(self.command, unquote(urlsplit(self.path).path), token)
                hub.requests.append(request)
                hub.asked.set()
                hub.open.wait()
                answer = hub.answer(request)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if with_body:
                    self.wfile.write(answer.body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.open.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def commit(
        self, kind: Kind, name: str, files: Files, *, branch: str = "main", private: bool = False, gated: bool = False
    ) -> str:
        """Put `files` on a branch of a repository, as a new commit whose hash is returned."""
        repository = self._repositories.setdefault((kind, name), Repository(private=private, gated=gated))
        digest = hashlib.sha1(usedforsecurity=False)
        for path, content in sorted(files.items()):
            digest.update(path.encode() + b"\0" + content)
        commit = digest.hexdigest()
        repository.commits[commit] = files
        repository.branches[branch] = commit
        return commit

    def answer(self, request: Request) -> Answer:
        """The hub's answer to `request`."""
        if self.broken:
            return _refusal(500, "", "Internal Error - We're working hard to fix this as soon as possible!")
        if request.token is not None and request.token not in self.tokens:
            return _refusal(401, "", "Invalid credentials in Authorization header")
        kind, name, verb, rest = _parse(request.path)
        repository = self._repositories.get((kind, name))
        if repository is None or (repository.private and request.token is None):
            return _refusal(404 if request.token else 401, "RepoNotFound", "Repository not found")
        revision, _, path = rest.partition("/")
        commit = repository.resolve(revision or "main")
        if commit is None:
            return _refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return _resolve(repository, commit, path) if verb == "resolve" else _listing(name, repository, commit, verb)


def _listing(name: str, repository: Repository, commit: str, verb: str) -> Answer:
    files = repository.commits[commit]
    if verb == "tree":
        return _json(
            [{"type": "file", "path": path, "size": len(files[path]), "oid": _oid(files[path])} for path in files]
        )
    return _json(
        {
            "id": name,
            "sha": commit,
            "private": repository.private,
            "gated": "auto" if repository.gated else False,
            "siblings": [{"rfilename": path} for path in files],
        }
    )


def _parse(path: str) -> tuple[str, str, str, str]:
    """Kind, name, verb and the rest of a request path."""
    parts = path.strip("/").split("/")
    if parts[0] == "api":
        kind, name, tail = parts[1].removesuffix("s"), "/".join(parts[2:4]), parts[4:]
        return kind, name, tail[0] if tail else "revision", "/".join(tail[1:])
    kind = "dataset" if parts[0] == "datasets" else "model"
    parts = parts[1:] if kind == "dataset" else parts
    return kind, "/".join(parts[:2]), parts[2], "/".join(parts[3:])


def _resolve(repository: Repository, commit: str, path: str) -> Answer:
    if repository.gated:
        return _refusal(403, "GatedRepo", "Access to this repository is restricted")
    content = repository.commits[commit].get(path)
    if content is None:
        return _refusal(404, "EntryNotFound", f"Entry not found: {path}")
    return Answer(200, content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": commit})


def _json(value: Any) -> Answer:
    return Answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _refusal(status: int, code: str, message: str) -> Answer:
    return Answer(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message})


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
