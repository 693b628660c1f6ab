"""Volumes of a Pod and their mounts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from sftjob_contract.layout import PVC_SCHEME, ClaimPath
from sftjob_contract.names import (
    MOUNT_CACHE,
    MOUNT_CLAIMS,
    MOUNT_CONFIG,
    MOUNT_FILES,
    MOUNT_SHM,
    MOUNT_TMP,
    MOUNT_TOKEN,
    MOUNT_VOLUME,
    TOKEN_AUDIENCE,
    TOKEN_EXPIRATION_SECONDS,
    TOKEN_KEY,
    Stage,
)
from sftjob_operator.api import ConfigMapKeyRef
from sftjob_operator.render.common import PodContext, config_map_name, volume_claim_name
from sftjob_operator.render.config import data_sources, file_path
from sftjob_operator.render.resources import stage_resources

_CONFIG: Final = "config"
_TOKEN: Final = "token"  # noqa: S105 -- name of a volume
_TMP: Final = "tmp"
_SHM: Final = "shm"
_FILES: Final = "files"


@dataclass(frozen=True, kw_only=True)
class _ClaimMount:
    """A mount of a claim. `volume` is a DNS label; claim names may be longer and contain dots."""

    claim: str
    volume: str
    path: str
    read_only: bool


def volumes(pod: PodContext) -> list[dict[str, Any]]:
    """Return the volumes of a Pod: claims, its config, scratch space, and the token for reports."""
    scratch = stage_resources(pod.job, pod.stage).ephemeral_storage
    entries: list[dict[str, Any]] = [
        *(
            {"name": volume, "persistentVolumeClaim": {"claimName": claim}}
            for claim, volume in _volume_of_claims(pod).items()
        ),
        {"name": _CONFIG, "configMap": {"name": config_map_name(pod.job)}},
        {"name": _TMP, "emptyDir": {} if scratch is None else {"sizeLimit": scratch}},
        {"name": _SHM, "emptyDir": {"medium": "Memory", "sizeLimit": pod.job.spec.resources.shared_memory}},
    ]
    if files := user_files(pod):
        entries.append({"name": _FILES, "projected": {"sources": [_projected(key) for key in files]}})
    if pod.reports:
        token = {"audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_EXPIRATION_SECONDS, "path": TOKEN_KEY}
        entries.append({"name": _TOKEN, "projected": {"sources": [{"serviceAccountToken": token}]}})
    return entries


def mounts(pod: PodContext) -> list[dict[str, Any]]:
    """Return the mounts of the container, at least one for each volume."""
    names = _volume_of_claims(pod)
    entries = [_mount(names[at.claim], at.path, read_only=at.read_only) for at in _claim_mounts(pod)]
    entries += [
        _mount(_CONFIG, MOUNT_CONFIG, read_only=True),
        _mount(_TMP, MOUNT_TMP),
        _mount(_SHM, MOUNT_SHM),
    ]
    if user_files(pod):
        entries.append(_mount(_FILES, MOUNT_FILES, read_only=True))
    if pod.reports:
        entries.append(_mount(_TOKEN, MOUNT_TOKEN, read_only=True))
    return entries


def _mount(volume: str, path: str, *, read_only: bool = False) -> dict[str, Any]:
    return {"name": volume, "mountPath": path, **({"readOnly": True} if read_only else {})}


def _volume_of_claims(pod: PodContext) -> dict[str, str]:
    """Return one volume for each claim, however often it is mounted."""
    names: dict[str, str] = {}
    for mount in _claim_mounts(pod):
        names.setdefault(mount.claim, mount.volume)
    return names


def _claim_mounts(pod: PodContext) -> Iterator[_ClaimMount]:
    storage = pod.job.spec.storage
    yield _ClaimMount(claim=volume_claim_name(pod.job), volume="volume", path=MOUNT_VOLUME, read_only=False)
    if storage.shared_cache_claim is not None:
        offline = pod.stage is not Stage.PREPARE and pod.job.spec.command is None
        yield _ClaimMount(claim=storage.shared_cache_claim, volume="cache", path=MOUNT_CACHE, read_only=offline)
    for number, claim in enumerate(_source_claims(pod)):
        yield _ClaimMount(claim=claim, volume=f"claim-{number}", path=f"{MOUNT_CLAIMS}/{claim}", read_only=True)


def _source_claims(pod: PodContext) -> list[str]:
    """Claims that a stage reads: Train needs no dataset, since the data is prepared; Publish needs at most a base.

    The job's own volume is mounted separately. On an existing claim that mount is only a directory, so other sources on
    the same claim need the whole claim.
    """
    if (config := pod.config) is None:
        return []
    if pod.stage is Stage.PUBLISH:  # a merge loads the base, and a whole model gets its form
        return _named_claims(pod, [config.model.source])
    distillation = config.method.distillation
    sources = [config.model.source, "" if distillation is None else distillation.teacher.source]
    if pod.stage is Stage.PREPARE:
        sources += [*(part.source for part in config.dataset.sources), config.dataset.evaluation.source or ""]
    else:
        sources.append(config.checkpoints.resume_from or "")
    return _named_claims(pod, sources)


def _named_claims(pod: PodContext, sources: Iterable[str]) -> list[str]:
    """Return the claims of `sources`, except the job's own."""
    named = dict.fromkeys(ClaimPath.parse(source).claim for source in sources if source.startswith(PVC_SCHEME))
    own = pod.job.metadata.name if pod.job.spec.storage.existing_claim is None else None
    return [claim for claim in named if claim != own]


def user_files(pod: PodContext) -> list[ConfigMapKeyRef]:
    """Return the user's own files, each once: chat template and preprocessing functions, which only Prepare reads."""
    model, data = pod.job.spec.model, pod.job.spec.dataset
    if model is None or data is None or pod.stage is not Stage.PREPARE:
        return []
    given = [part.preprocessing or data.preprocessing for part in data_sources(data)]
    functions = [each.function for each in given if each is not None and each.function is not None]
    template = None if model.chat_template is None else model.chat_template.config_map_key_ref
    named = [template, *(function.config_map_key_ref for function in functions)]
    return [reference for reference in dict.fromkeys(named) if reference is not None]


def _projected(reference: ConfigMapKeyRef) -> dict[str, Any]:
    items = [{"key": reference.key, "path": file_path(reference)}]
    return {"configMap": {"name": reference.name, "items": items}}
