"""Object stores and web servers (s3://, gs://, https://): download files once into the cache.

Object stores are configured by the container's environment, in the variables of their own tools: AWS_* (including
AWS_ENDPOINT_URL for a store other than Amazon's), GOOGLE_APPLICATION_CREDENTIALS, STORAGE_EMULATOR_HOST.
"""

import hashlib
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, Protocol

from sftjob_contract.reasons import Reason
from sftjob_trainer.process.atomic_files import write_atomically
from sftjob_trainer.process.environment import Environment
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.wording import one_of
from sftjob_trainer.sources.archives import is_archive, unpack
from sftjob_trainer.sources.files import SUFFIXES
from sftjob_trainer.sources.reachability import unavailable, unreachable
from sftjob_trainer.sources.weights import MAX_INDEX_BYTES, ReadFile

BUCKET_SCHEMES: Final = ("s3://", "gs://")
SCHEMES: Final = (*BUCKET_SCHEMES, "https://")
_TIMEOUT_SECONDS: Final = 60
_CONNECT_SECONDS: Final = 10
_PIECE_BYTES: Final = 1 << 20
_VERSIONS: Final = ".versions.json"
"""File next to downloaded files that records the version of each."""
_DENIED: Final = re.compile(
    "ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|AUTHENTICATION|EXPIRED_TOKEN|INVALID_CLIENT|UNRECOGNIZED_CLIENT"
    "|HTTP status 40[13]|PERMISSION_DENIED|UNAUTHENTICATED"
)
_ABSENT: Final = re.compile("NO_SUCH_BUCKET|NO_SUCH_KEY|RESOURCE_NOT_FOUND|HTTP status 404|NOT_FOUND")
_ERROR_CODE: Final = re.compile(r"AWS Error ([A-Z_]+(?: \(HTTP status \d+\))?)|google::cloud::Status\(([A-Z_]+)")
"""Error words of an object store's client; the text around them may echo secrets from the request."""

_STATUS: Final = re.compile(r"HTTP status (\d+)")
_NO_KEYS: Final = "Could not create a OAuth2 access token"
"""Error of Google's client if the environment provides no credentials."""

Kind = Literal["model", "dataset", "checkpoint", "output"]
"""What a URI refers to: content to read, or the output to write."""

_SECRET_FIELDS: Final[Mapping[Kind, str]] = {
    "model": "model.secretRef",
    "dataset": "dataset.secretRef",
    "checkpoint": "model.secretRef",
    "output": "output.upload.secretRef",
}
"""The field that names the Secret with the keys."""

_MISSING_REASONS: Final[Mapping[Kind, Reason]] = {
    "model": Reason.MODEL_NOT_FOUND,
    "dataset": Reason.DATASET_NOT_FOUND,
    "checkpoint": Reason.MODEL_NOT_FOUND,
    "output": Reason.CONFIG_INVALID,
}
Select = Callable[[Sequence[str], ReadFile], Sequence[str]]
"""Selects the names of a directory to download; small files there can be read first."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A remote file. `size` (bytes) and `version`, which changes with the content, are None if unknown."""

    name: str
    size: int | None
    version: str | None


class _RemoteLocation(Protocol):
    """What a URI refers to: `files` are one file or those of a directory, and `open` reads one of them."""

    @property
    def files(self) -> Sequence[RemoteFile]: ...

    @property
    def is_directory(self) -> bool: ...

    def open(self, name: str) -> Iterator[bytes]: ...

    def close(self) -> None: ...


def is_remote(source: str) -> bool:
    """Whether this module reads `source`."""
    return source.startswith(SCHEMES)


def fetch(uri: str, kind: Kind, select: Select, environment: Environment) -> Path:
    """Fetch the file, directory or archive at `uri` into the cache; `select` selects among a directory's files.

    Files with an unchanged version are not downloaded again.

    Raises:
        StageError: nothing exists at `uri`, access is denied, or the server cannot be reached.
    """
    directory = cache_directory(uri, environment)
    with convert_store_errors(uri, kind):
        location = _web_file(uri) if uri.startswith("https://") else _Bucket(*open_bucket(uri))
    with closing(location):
        chosen = _select(location, select, uri, kind)
        _download(location, chosen, directory, (uri, kind))
    if location.is_directory:
        return directory
    (file,) = chosen
    path = directory / file.name
    return unpack(path, display_uri(uri)) if is_archive(file.name) else path


def cache_directory(uri: str, environment: Environment) -> Path:
    """Directory that the files of `uri` are downloaded into."""
    return environment.cache / "remote" / hashlib.sha256(uri.encode()).hexdigest()[:16]


def display_uri(uri: str) -> str:
    """`uri` for display: without a query, which may contain a signature."""
    return uri.partition("?")[0]


def open_bucket(uri: str) -> tuple[Any, str]:
    """The `pyarrow.fs.FileSystem` of an s3:// or gs:// URI and the path in it. Sends no request yet.

    Raises:
        OSError: the region of a bucket cannot be determined.
    """
    from pyarrow import fs

    scheme, _, path = uri.partition("://")
    if scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=_TIMEOUT_SECONDS), **_emulator()), path.rstrip("/")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    bucket = path.partition("/")[0]
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region is None and endpoint is None:
        region = fs.resolve_s3_region(bucket)
    options = {
        "region": region,
        "endpoint_override": endpoint,
        "proxy_options": _proxy(endpoint or "https://s3.amazonaws.com"),
        "tls_ca_file_path": os.environ.get("AWS_CA_BUNDLE") or None,
        "connect_timeout": _CONNECT_SECONDS,
    }
    return fs.S3FileSystem(**{key: value for key, value in options.items() if value is not None}), path.rstrip("/")


@contextmanager
def convert_store_errors(uri: str, kind: Kind) -> Iterator[None]:
    """Turn client errors into messages. They never repeat server text, which may echo secrets from the request."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            raise _denied(uri, kind) from None
        if error.code in (404, 410):
            raise _missing(uri, kind, "does not exist") from None
        raise unavailable(display_uri(uri), _server(uri), error.code) from None
    except http.client.InvalidURL:
        raise _invalid_address(uri, kind) from None
    except (OSError, http.client.HTTPException) as error:
        found = _ERROR_CODE.search(str(error))
        code = (found[1] or found[2]) if found else ""
        if isinstance(error, PermissionError) or _DENIED.search(code) or _NO_KEYS in str(error):
            raise _denied(uri, kind) from None
        if isinstance(error, FileNotFoundError) or _ABSENT.search(code):
            raise _missing(uri, kind, "does not exist") from None
        if status := _STATUS.search(code):
            raise unavailable(display_uri(uri), _server(uri), int(status[1])) from None
        raise unreachable(display_uri(uri), _server(uri), error) from None
    except ValueError:  # pyarrow's among them
        raise _invalid_address(uri, kind) from None


class _Bucket:
    """A file or directory of an object store."""

    def __init__(self, filesystem: Any, path: str) -> None:
        from pyarrow import fs

        info = filesystem.get_file_info(path)
        self._filesystem = filesystem
        self._paths = {PurePosixPath(path).name: info}
        self.is_directory = info.type == fs.FileType.Directory
        if self.is_directory:
            inside = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
            self._paths = {found.path.removeprefix(f"{path}/"): found for found in inside}
        self.files = [
            RemoteFile(name=name, size=found.size, version=f"{found.size} {found.mtime_ns}")
            for name, found in self._paths.items()
            if found.type == fs.FileType.File
        ]

    def open(self, name: str) -> Iterator[bytes]:
        with self._filesystem.open_input_stream(self._paths[name].path) as stream:
            while piece := stream.read(_PIECE_BYTES):
                yield piece

    def close(self) -> None:
        """Nothing to close."""


class _WebFile:
    """A file of a web server whose response is already open."""

    is_directory = False

    def __init__(self, uri: str, response: http.client.HTTPResponse) -> None:
        headers = response.headers
        size = int(headers["Content-Length"]) if (headers["Content-Length"] or "").isdigit() else None
        version = headers["ETag"] or headers["Last-Modified"]
        name = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(uri).path)).name
        self.files = [RemoteFile(name=name, size=size, version=f"{size} {version}" if version else None)]
        self._response = response

    def open(self, name: str) -> Iterator[bytes]:
        del name  # there is only one
        while piece := self._response.read(_PIECE_BYTES):
            yield piece

    def close(self) -> None:
        self._response.close()


def _web_file(uri: str) -> _RemoteLocation:
    headers = {"User-Agent": "sftjob-trainer", "Accept-Encoding": "identity"}
    request = urllib.request.Request(uri, headers=headers)  # noqa: S310 -- the scheme is https
    return _WebFile(uri, urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS))  # noqa: S310 -- same


def _emulator() -> dict[str, Any]:
    """Options for an emulator of Google's store, which needs no keys with any client; empty without an emulator."""
    host = os.environ.get("STORAGE_EMULATOR_HOST")
    if not host:
        return {}
    url = urllib.parse.urlsplit(host if "://" in host else f"http://{host}")
    return {"anonymous": True, "scheme": url.scheme, "endpoint_override": url.netloc}


def _proxy(endpoint: str) -> str | None:
    host = urllib.parse.urlsplit(endpoint).netloc
    return None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get("https")


def _select(location: _RemoteLocation, select: Select, uri: str, kind: Kind) -> list[RemoteFile]:
    """The files to download: an archive, or what `select` selects."""
    files = {file.name: file for file in location.files if _stays_inside(file.name)}
    if not files:
        raise _missing(uri, kind, "does not exist")
    if not location.is_directory and is_archive(*files):
        return list(files.values())

    def read(name: str) -> bytes:
        with convert_store_errors(uri, kind):
            return b"".join(islice(location.open(name), MAX_INDEX_BYTES // _PIECE_BYTES))

    chosen = [files[name] for name in select(list(files), read) if name in files]
    if not chosen:
        wanted = {"model": "model files", "checkpoint": "complete checkpoint"}.get(kind, f"{one_of(SUFFIXES)} file")
        raise _missing(uri, kind, f"has no {wanted}; it has {', '.join(list(files)[:8])}")
    return chosen


def _stays_inside(name: str) -> bool:
    """Whether a file of this name stays inside its download directory: an object may have any name."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _download(
    location: _RemoteLocation, wanted: Sequence[RemoteFile], directory: Path, origin: tuple[str, Kind]
) -> None:
    """Download missing files, each completely or not at all, and record their versions."""
    record = directory / _VERSIONS
    versions = _versions(record)
    for file in wanted:
        path = directory / file.name
        if not path.is_file() or file.version is None or versions.get(file.name) != file.version:
            _download_file(location, file, path, origin)
            versions[file.name] = file.version
            write_atomically(record, json.dumps(versions))
    gone = set(versions) - {file.name for file in wanted}
    for name in gone:
        (directory / name).unlink(missing_ok=True)


def _download_file(location: _RemoteLocation, file: RemoteFile, path: Path, origin: tuple[str, Kind]) -> None:
    uri, kind = origin
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    pieces = location.open(file.name)
    size = 0
    with part.open("wb") as stream:
        while True:
            with convert_store_errors(uri, kind):
                piece = next(pieces, None)
            if piece is None:
                break
            size += stream.write(piece)
    if file.size is not None and size != file.size:
        raise StageError(Reason.UNREACHABLE, f"{display_uri(uri)}: {file.name} ended after {size} of {file.size} bytes")
    part.replace(path)


def _versions(record: Path) -> dict[str, Any]:
    try:
        versions = json.loads(record.read_bytes())
    except (OSError, ValueError):
        return {}
    return versions if isinstance(versions, dict) else {}


def _invalid_address(uri: str, kind: Kind) -> StageError:
    return StageError(
        Reason.CONFIG_INVALID,
        f"{_access_failure(uri, kind)}: it, or an AWS_ENDPOINT_URL or HTTPS_PROXY of {_SECRET_FIELDS[kind]}, is no "
        "address",
    )


def _denied(uri: str, kind: Kind) -> StageError:
    return StageError(
        Reason.ACCESS_DENIED,
        f"{_access_failure(uri, kind)}: access is denied; check the keys in {_SECRET_FIELDS[kind]}",
    )


def _missing(uri: str, kind: Kind, problem: str) -> StageError:
    return StageError(_MISSING_REASONS[kind], f"{display_uri(uri)} {problem}")


def _server(uri: str) -> str | None:
    """URL of the server that `uri` is read from or written to, as far as the environment specifies it."""
    scheme, _, rest = uri.partition("://")
    if scheme == "https":
        return uri
    if scheme == "gs":
        host = os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com"
        return host if "://" in host else f"http://{host}"
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return endpoint or f"https://{rest.partition('/')[0]}.s3.amazonaws.com"


def _access_failure(uri: str, kind: Kind) -> str:
    return f"{display_uri(uri)} cannot be {'written' if kind == 'output' else 'read'}"
