"""The run's output, results and metrics in an object store (s3://, gs://): every object compared, a manifest last."""

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
from sftjob_trainer.failure import Failure
from sftjob_trainer.remote import clear_errors, open_bucket, shown
from sftjob_trainer.retrying import Patience

logger = logging.getLogger(__name__)

UPLOAD_VERSION: Final = 1
_PART_BYTES: Final = 10 << 20
"""What pyarrow sends at a time, and so the parts that S3 makes the ETag of a larger object from. Were it another
size, that ETag would say nothing to us, and the object would be read back instead."""

_UPLOADED: Final = (layout.OUTPUT, layout.RESULTS, layout.METRICS)


@dataclass(frozen=True, kw_only=True)
class Digests:
    """What is known of a file: `size` in bytes, SHA-256 in hex, and the digests that stores tell without being read.

    `etags` are those S3 may have: the MD5 of the content or, sent in parts, that of the parts' MD5s with their number
    (https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html); `md5` is Google's,
    in base64.
    """

    size: int
    sha256: str
    etags: tuple[str, str]
    md5: str


def upload(uri: str, volume: Path, patience: Patience, alive: Callable[[], None] = lambda: None) -> str:
    """Copy what the run leaves behind below `uri`, which is returned. What lies there already is not sent again.

    Objects have the names of the volume's files. The last one is the manifest, with size and SHA-256 of every other.
    `alive` is called after each.

    Raises:
        Failure: access is denied, there is no such bucket, or the store can not be reached for too long.
    """
    sent = {}
    for name in files(volume):
        sent[name] = patience.through(partial(_sent, uri, name, volume / name))
        alive()
    patience.through(partial(_write_manifest, uri, manifest(sent).encode()))
    total = sum(digests.size for digests in sent.values())
    logger.info("uploaded %d files, %.1f MB, to %s", len(sent), total / 1e6, shown(uri))
    return uri


def files(volume: Path) -> Iterator[str]:
    """Names of the files to copy, relative to the volume; nothing half done."""
    for root in _UPLOADED:
        place = volume / root
        for path in (place, *sorted(place.rglob("*"))):
            name = path.relative_to(volume)
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                yield name.as_posix()


def manifest(sent: Mapping[str, Digests]) -> str:
    """The manifest of what was sent, as JSON."""
    listed = [{"path": name, "size": each.size, "sha256": each.sha256} for name, each in sent.items()]
    return json.dumps({"version": UPLOAD_VERSION, "files": listed}, indent=2) + "\n"


def digests_of(path: Path) -> Digests:
    """Read `path` once and digest it."""
    whole, strong, parts = _md5(b""), hashlib.sha256(), []
    size = 0
    for piece in _pieces(path):
        size += len(piece)
        whole.update(piece)
        strong.update(piece)
        parts.append(_md5(piece).digest())
    parts = parts or [_md5(b"").digest()]
    return Digests(
        size=size,
        sha256=strong.hexdigest(),
        etags=(whole.hexdigest(), f"{_md5(b''.join(parts)).hexdigest()}-{len(parts)}"),
        md5=base64.b64encode(whole.digest()).decode("ascii"),
    )


def _sent(uri: str, name: str, path: Path) -> Digests:
    """Send a file unless it is there, and find there what was sent."""
    wanted = digests_of(path)
    with clear_errors(uri, "output"):
        filesystem, root = open_bucket(uri)
        place = f"{root}/{name}"
        if not _is_there(filesystem, place, wanted):
            with filesystem.open_output_stream(place) as stream:
                for piece in _pieces(path):
                    stream.write(piece)
            same = _is_there(filesystem, place, wanted) or _read_back(filesystem, place) == (wanted.size, wanted.sha256)
            if not same:
                raise Failure(Reason.INTERNAL_ERROR, f"{shown(uri)}: {name} is not there as it was sent")
    return wanted


def _write_manifest(uri: str, content: bytes) -> None:
    with clear_errors(uri, "output"):
        filesystem, root = open_bucket(uri)
        place = f"{root}/{layout.MANIFEST}"
        with filesystem.open_output_stream(place) as stream:
            stream.write(content)
        if _read_back(filesystem, place) != (len(content), hashlib.sha256(content).hexdigest()):
            raise Failure(Reason.INTERNAL_ERROR, f"{shown(uri)}: {layout.MANIFEST} is not there as it was sent")


def _is_there(filesystem: Any, place: str, wanted: Digests) -> bool:
    """Whether the store says by itself, size and digest, that it has the object."""
    if filesystem.get_file_info(place).size != wanted.size:
        return False
    with filesystem.open_input_stream(place) as stream:
        told = {name: value.decode().strip('"') for name, value in stream.metadata().items()}
    return told.get("ETag") in wanted.etags or told.get("md5Hash") == wanted.md5


def _read_back(filesystem: Any, place: str) -> tuple[int, str]:
    """Size and SHA-256 of an object's content, for stores that tell no digest, as those do that encrypt with keys."""
    digest, size = hashlib.sha256(), 0
    with filesystem.open_input_stream(place) as stream:
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
