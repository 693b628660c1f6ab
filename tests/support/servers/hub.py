"""A stand-in for a Hugging Face hub: enough of its HTTP API for huggingface_hub to read, and to write models.

It answers as the real one does, error codes and headers included, and remembers every request with its token.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import unquote, urlsplit

from support.servers.request_body import read_body

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
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Answer:
    """What to send back."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Hub:
    """Context manager; listens on a free port of the loopback interface at `url`."""

    def __init__(self, tokens: frozenset[str] = frozenset(), writers: frozenset[str] = frozenset()) -> None:
        """`tokens` may read, `writers` among them may write too."""
        self.tokens = tokens
        self.writers = writers
        self.requests: list[Request] = []
        self.broken = False
        self.open = threading.Event()
        """Cleared: requests arrive but are not answered."""
        self.open.set()
        self.asked = threading.Event()
        """Set by every request that arrives."""
        self.refused_names: frozenset[str] = frozenset()
        """Repositories that the hub does not let anybody make."""
        self.large: dict[str, bytes] = {}
        """Contents of large files by their SHA-256."""
        self.spoils: str | None = None
        """End of the names of files that are kept with a wrong last byte."""
        self._repositories: dict[tuple[str, str], Repository] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_POST(self) -> None:
                self._answer(with_body=True)

            def do_PUT(self) -> None:
                self._answer(with_body=True)

            def log_message(self, *_: object) -> None:
                """Be quiet."""

            def _answer(self, *, with_body: bool) -> None:
                authorization = self.headers.get("Authorization")
                token = authorization.removeprefix("Bearer ") if authorization else None
                body = read_body(self)
                request = Request(self.command, unquote(urlsplit(self.path).path), token, body)
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

    def files(self, name: str) -> dict[str, bytes]:
        """What is on the main branch of a model's repository."""
        repository = self._repositories["model", name]
        return dict(repository.commits[repository.branches["main"]])

    def is_private(self, name: str) -> bool:
        """Whether a model's repository is."""
        return self._repositories["model", name].private

    def answer(self, request: Request) -> Answer:
        """The hub's answer to `request`."""
        if self.broken:
            return _refusal(500, "", "Internal Error - We're working hard to fix this as soon as possible!")
        if request.token is not None and request.token not in self.tokens:
            return _refusal(401, "", "Invalid credentials in Authorization header")
        if request.method in ("POST", "PUT"):
            return self._write(request)
        kind, name, verb, rest = _parse(request.path)
        repository = self._repositories.get((kind, name))
        if repository is None or (repository.private and request.token is None):
            return _refusal(404 if request.token else 401, "RepoNotFound", "Repository not found")
        revision, _, path = rest.partition("/")
        commit = repository.resolve(revision or "main")
        if commit is None:
            return _refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return _resolve(repository, commit, path) if verb == "resolve" else _listing(name, repository, commit, verb)

    def _write(self, request: Request) -> Answer:
        """The answer to a request that changes something. The place for a large file has rights of its own."""
        if request.path.startswith("/large/"):
            self.large[request.path.removeprefix("/large/")] = request.body
            return _json({})
        if request.token not in self.writers:
            return _refusal(403, "", "You don't have the rights to do this")
        if request.path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if request.path == "/api/repos/create":
            return self._create(json.loads(request.body))
        return self._write_into(*_parse(request.path)[1:3], request.body)

    def _write_into(self, name: str, verb: str, body: bytes) -> Answer:
        """The answer to a request about a repository that is there."""
        if verb == "info":
            objects = [self._place(each) for each in json.loads(body)["objects"]]
            return _json({"transfer": "basic", "objects": objects})
        if verb == "preupload":
            return _json({"files": [_upload_mode(file, self.files(name)) for file in json.loads(body)["files"]]})
        return self._commit(name, [json.loads(line) for line in body.splitlines()])

    def _create(self, asked: dict[str, Any]) -> Answer:
        name = f"{asked['organization']}/{asked['name']}"
        url = f"{self.url}/{name}"
        if name in self.refused_names:
            return _refusal(400, "", "Bad request")
        if ("model", name) in self._repositories:
            return replace(_json({"error": "You already created this model repo", "url": url}), status=409)
        self.commit("model", name, {".gitattributes": b""}, private=asked.get("visibility") == "private")
        return _json({"url": url})

    def _place(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Where to send a large file, unless it is there."""
        if asked["oid"] in self.large:
            return asked
        return {**asked, "actions": {"upload": {"href": f"{self.url}/large/{asked['oid']}"}}}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> Answer:
        files = self.files(name)
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "deletedFile":
                del files[value["path"]]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            if key in ("file", "lfsFile") and self.spoils and value["path"].endswith(self.spoils):
                files[value["path"]] = files[value["path"]][:-1] + b"!"
        commit = self.commit("model", name, files)
        return _json({"commitUrl": f"{self.url}/{name}/commit/{commit}", "commitOid": commit})


def _is_large(path: str) -> bool:
    return path.endswith((".safetensors", "tokenizer.json"))


def _upload_mode(file: dict[str, Any], there: Files) -> dict[str, Any]:
    """How to send a file, and the digest of what is there by that name."""
    path = file["path"]
    oid = None
    if path in there:
        oid = hashlib.sha256(there[path]).hexdigest() if _is_large(path) else _oid(there[path])
    return {"path": path, "uploadMode": "lfs" if _is_large(path) else "regular", "shouldIgnore": False, "oid": oid}


def _entry(path: str, content: bytes) -> dict[str, Any]:
    """A file as the tree has it; of a large one git has a pointer only."""
    entry = {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
    if _is_large(path):
        large = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return {**entry, "oid": _oid(b"pointer"), "lfs": large}
    return entry


def _listing(name: str, repository: Repository, commit: str, verb: str) -> Answer:
    files = repository.commits[commit]
    if verb == "tree":
        return _json([_entry(path, content) for path, content in files.items()])
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
    return kind, "/".join(parts[:2]).removesuffix(".git"), parts[2], "/".join(parts[3:])


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
    """Name of a file in git."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
