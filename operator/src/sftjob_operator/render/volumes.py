"""Volumes of a Pod and where its container sees them."""

from typing import Any, Final

from sftjob_contract.layout import PVC_SCHEME, ClaimPath
from sftjob_contract.names import (
    MOUNT_CLAIMS,
    MOUNT_CONFIG,
    MOUNT_SHM,
    MOUNT_TMP,
    MOUNT_TOKEN,
    MOUNT_VOLUME,
    TOKEN_AUDIENCE,
    TOKEN_EXPIRATION_SECONDS,
    TOKEN_KEY,
    Stage,
)
from sftjob_operator.api import SFTJob
from sftjob_operator.render.common import RenderSettings, config_map_name, volume_claim_name

_VOLUME: Final = "volume"
_CONFIG: Final = "config"
_TOKEN: Final = "token"  # noqa: S105 -- name of a volume
_TMP: Final = "tmp"
_SHM: Final = "shm"


def volumes(job: SFTJob, stage: Stage, settings: RenderSettings) -> list[dict[str, Any]]:
    """Volumes of a Pod: the job's own, its config, scratch space, foreign claims, and the token to report with."""
    entries: list[dict[str, Any]] = [
        {"name": _VOLUME, "persistentVolumeClaim": {"claimName": volume_claim_name(job)}},
        {"name": _CONFIG, "configMap": {"name": config_map_name(job)}},
        {"name": _TMP, "emptyDir": {}},
        {"name": _SHM, "emptyDir": {"medium": "Memory"}},
        *(
            {"name": _foreign_name(number), "persistentVolumeClaim": {"claimName": claim}}
            for number, claim in enumerate(_foreign_claims(job, stage))
        ),
    ]
    if _reports(stage, settings):
        token = {"audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_EXPIRATION_SECONDS, "path": TOKEN_KEY}
        entries.append({"name": _TOKEN, "projected": {"sources": [{"serviceAccountToken": token}]}})
    return entries


def mounts(job: SFTJob, stage: Stage, settings: RenderSettings) -> list[dict[str, Any]]:
    """Mounts of the container, one for each volume."""
    entries: list[dict[str, Any]] = [
        {"name": _VOLUME, "mountPath": MOUNT_VOLUME},
        {"name": _CONFIG, "mountPath": MOUNT_CONFIG, "readOnly": True},
        {"name": _TMP, "mountPath": MOUNT_TMP},
        {"name": _SHM, "mountPath": MOUNT_SHM},
        *(
            {"name": _foreign_name(number), "mountPath": f"{MOUNT_CLAIMS}/{claim}", "readOnly": True}
            for number, claim in enumerate(_foreign_claims(job, stage))
        ),
    ]
    if _reports(stage, settings):
        entries.append({"name": _TOKEN, "mountPath": MOUNT_TOKEN, "readOnly": True})
    return entries


def _reports(stage: Stage, settings: RenderSettings) -> bool:
    return stage is Stage.TRAIN and settings.progress_url is not None


def _foreign_name(number: int) -> str:
    """Volume names are DNS labels; claim names may be longer and have dots."""
    return f"claim-{number}"


def _foreign_claims(job: SFTJob, stage: Stage) -> list[str]:
    """Claims that a stage reads from, besides the job's own: Train needs the model only, since the data is prepared."""
    spec = job.spec
    sources = [spec.model.source]
    if stage is Stage.PREPARE:
        sources += [spec.dataset.source, spec.dataset.evaluation.source or ""]
    named = (ClaimPath.parse(source).claim for source in sources if source.startswith(PVC_SCHEME))
    return [claim for claim in dict.fromkeys(named) if claim != volume_claim_name(job)]
