"""Upload the run's output, results and metrics to an object store (s3://, gs://): objects verified, manifest last."""

import base64
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from sftjob_contract import layout
from sftjob_contract.reasons import Reason
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.retry import RetryPolicy
from sftjob_trainer.sources.remote import convert_store_errors, display_uri, open_bucket

logger = logging.getLogger(__name__)

UPLOAD_VERSION: Final = 1
_PART_BYTES: Final = 10 << 20
"""pyarrow's part size, and therefore the parts from which S3 builds the ETag of a larger object. With another size the
ETag could not be compared, and the object would be read back instead."""

_UPLOADED: Final = (layout.OUTPUT, layout.RESULTS, layout.METRICS)


@dataclass(frozen=True, kw_only=True)
class Digests:
    """Digests of a file: `size` in bytes, SHA-256 in hex, and the digests that stores report without a download.

    `etags` are the possible S3 ETags: the MD5 of the content or, for a multipart upload, that of the parts' MD5s with
    their number (https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html). `md5` is
    Google's, in base64.
    """

    size: int
    sha256: str
    etags: tuple[str, str]
    md5: str


def upload(uri: str, volume: Path, retry_policy: RetryPolicy, heartbeat: Callable[[], None] = lambda: None) -> str:
    """Copy the run's results below `uri`, and return `uri`. Existing objects are not sent again.

    Objects have the names of the volume's files. The last one is the manifest, with size and SHA-256 of every other.
    `heartbeat` is called after each object.

    Raises:
        StageError: access is denied, the bucket does not exist, or the store stays unreachable for too long.
    """
    sent = {}
    for name in files(volume):
        sent[name] = retry_policy.call(partial(_send, uri, name, volume / name))
        heartbeat()
    retry_policy.call(partial(_write_manifest, uri, manifest(sent).encode()))
    total = sum(digests.size for digests in sent.values())
    logger.info("uploaded %d files, %.1f MB, to %s", len(sent), total / 1e6, display_uri(uri))
    return uri


def files(volume: Path) -> Iterator[str]:
    """Names of the files to copy, relative to the volume; incomplete files are excluded."""
    for root in _UPLOADED:
        location = volume / root
        for path in (location, *sorted(location.rglob("*"))):
            name = path.relative_to(volume)
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                yield name.as_posix()


def manifest(sent: Mapping[str, Digests]) -> str:
    """The manifest of the sent files, as JSON."""
    listed = [
        {"path": name, "size": file_digests.size, "sha256": file_digests.sha256} for name, file_digests in sent.items()
    ]
    return json.dumps({"version": UPLOAD_VERSION, "files": listed}, indent=2) + "\n"


def digests_of(path: Path) -> Digests:
    """Read `path` once and compute its digests."""
    content_md5, sha256, parts = _md5(b""), hashlib.sha256(), []
    size = 0
    for piece in _pieces(path):
        size += len(piece)
        content_md5.update(piece)
        sha256.update(piece)
        parts.append(_md5(piece).digest())
    parts = parts or [_md5(b"").digest()]
    return Digests(
        size=size,
        sha256=sha256.hexdigest(),
        etags=(content_md5.hexdigest(), f"{_md5(b''.join(parts)).hexdigest()}-{len(parts)}"),
        md5=base64.b64encode(content_md5.digest()).decode("ascii"),
    )


def _send(uri: str, name: str, path: Path) -> Digests:
    """Send a file unless it exists in the store, and verify the stored object."""
    wanted = digests_of(path)
    with convert_store_errors(uri, "output"):
        filesystem, root = open_bucket(uri)
        location = f"{root}/{name}"
        if not _is_stored(filesystem, location, wanted):
            with filesystem.open_output_stream(location) as stream:
                for piece in _pieces(path):
                    stream.write(piece)
            same = _is_stored(filesystem, location, wanted) or _read_back(filesystem, location) == (
                wanted.size,
                wanted.sha256,
            )
            if not same:
                raise StageError(Reason.INTERNAL_ERROR, f"{display_uri(uri)}: {name} is not stored as it was sent")
    return wanted


def _write_manifest(uri: str, content: bytes) -> None:
    with convert_store_errors(uri, "output"):
        filesystem, root = open_bucket(uri)
        location = f"{root}/{layout.MANIFEST}"
        with filesystem.open_output_stream(location) as stream:
            stream.write(content)
        if _read_back(filesystem, location) != (len(content), hashlib.sha256(content).hexdigest()):
            raise StageError(
                Reason.INTERNAL_ERROR, f"{display_uri(uri)}: {layout.MANIFEST} is not stored as it was sent"
            )


def _is_stored(filesystem: Any, location: str, wanted: Digests) -> bool:
    """Whether the store itself reports an object of the wanted size and digest."""
    if filesystem.get_file_info(location).size != wanted.size:
        return False
    with filesystem.open_input_stream(location) as stream:
        metadata = {name: value.decode().strip('"') for name, value in stream.metadata().items()}
    return metadata.get("ETag") in wanted.etags or metadata.get("md5Hash") == wanted.md5


def _read_back(filesystem: Any, location: str) -> tuple[int, str]:
    """Size and SHA-256 of an object's content, for stores without a digest, such as those that encrypt with keys."""
    digest, size = hashlib.sha256(), 0
    with filesystem.open_input_stream(location) as stream:
        while piece := stream.read(_PART_BYTES):
            size += len(piece)
            digest.update(piece)
    return size, digest.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(_PART_BYTES):
            yield piece


def _md5(content: bytes) -> Any:
    return hashlib.md5(content, usedforsecurity=False)
