"""A full volume: how libraries report it, and what to advise the user."""

import errno
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sftjob_contract.layout import PVC_SCHEME
from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_trainer.process.errors import StageError

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_FULL_BELOW_BYTES: Final = 16 << 20
_LARGEST_BYTES: Final = 1 << 53
"""Exactly representable as a double, and more than any volume has."""
_UNITS: Final = (("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10))


def volume_is_full(error: Exception, volume: Path, *, saving: bool = False) -> bool:
    """Whether `error` comes from writing to a full volume.

    Neither safetensors nor torch raises an OSError: safetensors puts the error number in a text, and torch does not
    name the cause. Then the free space of the volume decides, if `saving`.
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    if any(f"(os error {number})" in str(error) for number in _FULL):
        return True
    return saving and isinstance(error, RuntimeError) and shutil.disk_usage(volume).free < _FULL_BELOW_BYTES


def free_bytes(volume: Path) -> int | None:
    """Free space on `volume`; None if its filesystem does not report it. Some network filesystems claim exabytes."""
    usage = shutil.disk_usage(volume)
    return min(usage.free, _LARGEST_BYTES) if usage.total else None


def describe_free_space(volume: Path, *, uri: str | None = None, needed_bytes: int | None = None) -> str:
    """How much free space `volume` has, and what to change to get `needed_bytes` more than what is stored on it now.

    `uri` is the volume's display name. A directory of a claim is on a volume that the job did not create and cannot
    resize.
    """
    usage = shutil.disk_usage(volume)
    claim, slash, _ = (uri or "").removeprefix(PVC_SCHEME).partition("/")
    if slash:
        more = "" if needed_bytes is None else f" at least {quantity(needed_bytes)}"
        free = f"has {quantity(usage.free)} free of {quantity(usage.total)}"
        return f"the claim {claim} of storage.existingClaim {free}; free{more or ' some'} there, or enlarge it"
    has = f"the volume has {quantity(usage.free)} free of {quantity(usage.total)}"
    if needed_bytes is None:
        return f"{has}; write a larger storage.size"
    return f"{has}; write storage.size: {quantity(usage.total - usage.free + needed_bytes)} or more"


def quantity(size_bytes: int) -> str:
    """`size_bytes` in Kubernetes notation, rounded up to two digits or more."""
    unit, factor = next((found for found in _UNITS if size_bytes >= 10 * found[1]), ("Ki", 1 << 10))
    return f"{math.ceil(size_bytes / factor)}{unit}"


@contextmanager
def convert_disk_full_errors(stage: Stage, volume: Path, uri: str | None = None) -> Iterator[None]:
    """Turn an error of writing to a full volume into its StageError.

    Raises:
        StageError: the volume is full.
    """
    try:
        yield
    except StageError:
        raise
    except Exception as error:
        if not volume_is_full(error, volume):
            raise
        raise StageError(
            Reason.DISK_FULL, f"the volume is full: {stage} could not write; {describe_free_space(volume, uri=uri)}"
        ) from error
