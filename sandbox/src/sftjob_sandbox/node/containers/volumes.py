"""A Pod's volumes on disk: which directory each one is, and the files of those that are made from API objects.

Files appear as the kubelet's AtomicWriter makes them: `key -> ..data/key`, `..data -> ..<time>`, so that an update
replaces all files at once. Limits: emptyDir's `medium` and `sizeLimit` and a mount's `readOnly` have no effect, since
there is no mount namespace in which they could have one.
"""

import base64
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.objects import Clock, Object, namespace_of
from sftjob_sandbox.builtin.defaults import FILE_MODE
from sftjob_sandbox.node.containers.environment import PodContext
from sftjob_sandbox.node.containers.paths import PodPaths, claim_directory

_DEFAULT_TOKEN_SECONDS: Final = 3600
_REFRESH_AT: Final = 0.8  # of a token's life, as the kubelet's token manager does

IssueToken = Callable[[Mapping[str, Any]], str]


class MountError(Exception):
    """A volume cannot be set up (yet); the text is the kubelet's sentence."""


@dataclass(frozen=True)
class File:
    """One file of a volume."""

    content: bytes
    mode: int


class PodVolumes:
    """Sets up the volumes of one Pod and keeps them up to date."""

    def __init__(self, pod: Object, paths: PodPaths, data: Path, issue_token: IssueToken, clock: Clock) -> None:
        self._volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or ()}
        self._namespace = namespace_of(pod)
        self._paths = paths
        self._data = data
        self._issue_token = issue_token
        self._clock = clock
        self._tokens: dict[str, tuple[str, datetime]] = {}
        self._written: dict[str, dict[str, File]] = {}

    def directory(self, name: str) -> Path:
        """Directory of the volume `name`."""
        claim = self._volumes[name].get("persistentVolumeClaim")
        if claim:
            return claim_directory(self._data, self._namespace, claim["claimName"])
        return self._paths.volumes / name

    def set_up(self, name: str, context: PodContext) -> None:
        """Make the volume as it should be now; nothing happens when it already is.

        Raises MountError: something that it is made from is missing.
        """
        directory = self.directory(name)
        directory.mkdir(parents=True, exist_ok=True)
        volume = self._volumes[name]
        if not is_payload(volume):
            return
        files = volume_files(volume, context, lambda source: self._token(name, source))
        if self._written.get(name) != files:
            write_atomically(directory, files)
            self._written[name] = files

    @property
    def names(self) -> list[str]:
        """Names of all volumes of the Pod."""
        return list(self._volumes)

    def _token(self, volume: str, source: Mapping[str, Any]) -> str:
        key, now = f"{volume}/{source['path']}", self._clock()
        token, refresh = self._tokens.get(key, ("", now))
        if now < refresh:
            return token
        try:
            token = self._issue_token(source)
        except ApiError as error:
            raise MountError(f"failed to fetch token: {error.message}") from error
        self._tokens[key] = (token, now + timedelta(seconds=token_seconds(source) * _REFRESH_AT))
        return token


def token_seconds(source: Mapping[str, Any]) -> int:
    """How long the token of a `serviceAccountToken` projection is to be valid."""
    return int(source.get("expirationSeconds") or _DEFAULT_TOKEN_SECONDS)


def write_atomically(directory: Path, files: Mapping[str, File]) -> None:
    """Replace all that an earlier call wrote below `directory` by `files`, visible to readers all at once."""
    current = directory / "..data"
    old = current.readlink() if current.is_symlink() else None
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=directory))
    fresh.chmod(0o755)
    for path, file in files.items():
        target = fresh / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.content)
        target.chmod(file.mode)
    temporary = directory / "..data_tmp"
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(fresh.name)
    temporary.replace(current)
    _link_entries(directory, {path.split("/", 1)[0] for path in files})
    if old:
        shutil.rmtree(directory / old, ignore_errors=True)


def _link_entries(directory: Path, wanted: set[str]) -> None:
    present = {entry.name for entry in directory.iterdir() if not entry.name.startswith("..")}
    for name in present - wanted:
        (directory / name).unlink()
    for name in wanted - present:
        (directory / name).symlink_to(Path("..data") / name)


def is_payload(volume: Mapping[str, Any]) -> bool:
    """Whether the volume's files are made from objects of the API."""
    return "configMap" in volume or "projected" in volume


def volume_files(volume: Mapping[str, Any], context: PodContext, issue_token: IssueToken) -> dict[str, File]:
    """Files by their path in the volume. Raises MountError: an object or key is missing that is not optional."""
    if source := volume.get("configMap"):
        return _from_config_map(context, source, int(source.get("defaultMode", FILE_MODE)))
    mode = int(volume["projected"].get("defaultMode", FILE_MODE))
    files: dict[str, File] = {}
    for projection in volume["projected"].get("sources") or ():
        if source := projection.get("configMap"):
            files.update(_from_config_map(context, source, mode))
        else:
            token = projection["serviceAccountToken"]
            files[token["path"]] = File(issue_token(token).encode(), mode)
    return files


def _from_config_map(context: PodContext, source: Mapping[str, Any], mode: int) -> dict[str, File]:
    obj = context.lookup("configmaps", source["name"])
    if obj is None:
        if source.get("optional"):
            return {}
        raise MountError(f'configmap "{source["name"]}" not found')
    data = {key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()}
    data |= {key: value.encode() for key, value in (obj.get("data") or {}).items()}
    if not source.get("items"):
        return {key: File(content, mode) for key, content in data.items()}
    files = {}
    for item in source["items"]:
        if item["key"] in data:
            files[item["path"]] = File(data[item["key"]], int(item.get("mode", mode)))
        elif not source.get("optional"):
            raise MountError(f"references non-existent config key: {item['key']}")
    return files
