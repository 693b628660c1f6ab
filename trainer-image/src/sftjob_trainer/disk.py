"""A volume without room: how libraries say so, and what to tell the user."""

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
from sftjob_trainer.failure import Failure

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_FULL_BELOW_BYTES: Final = 16 << 20
_LARGEST_BYTES: Final = 1 << 53
"""What a double holds exactly, and more than any volume has."""
_UNITS: Final = (("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10))


def volume_is_full(error: Exception, volume: Path, *, saving: bool = False) -> bool:
    """Whether `error` comes from writing to a volume that has no room left.

    Neither safetensors nor torch raises an OSError: the first gives its number as text, the second does not say what
    went wrong, so that only the volume itself can tell; it counts when `saving`.
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    if any(f"(os error {number})" in str(error) for number in _FULL):
        return True
    return saving and isinstance(error, RuntimeError) and shutil.disk_usage(volume).free < _FULL_BELOW_BYTES


def free_bytes(volume: Path) -> int | None:
    """Room on `volume`; None where its filesystem does not say. Some network filesystems claim to have exabytes."""
    usage = shutil.disk_usage(volume)
    return min(usage.free, _LARGEST_BYTES) if usage.total else None


def room(volume: Path, *, uri: str | None = None, wanted_bytes: int | None = None) -> str:
    """How much room `volume` has, and what to change to have `wanted_bytes` more than what is on it now.

    `uri` is what people call the volume. A directory of a claim is on one that the job did not make and cannot size.
    """
    usage = shutil.disk_usage(volume)
    claim, slash, _ = (uri or "").removeprefix(PVC_SCHEME).partition("/")
    if slash:
        more = "" if wanted_bytes is None else f" at least {quantity(wanted_bytes)}"
        free = f"has {quantity(usage.free)} free of {quantity(usage.total)}"
        return f"the claim {claim} of storage.existingClaim {free}; free{more or ' some'} there, or enlarge it"
    has = f"the volume has {quantity(usage.free)} free of {quantity(usage.total)}"
    if wanted_bytes is None:
        return f"{has}; write a larger storage.size"
    return f"{has}; write storage.size: {quantity(usage.total - usage.free + wanted_bytes)} or more"


def quantity(size_bytes: int) -> str:
    """`size_bytes` as Kubernetes writes sizes, rounded up to two digits or more."""
    unit, factor = next((found for found in _UNITS if size_bytes >= 10 * found[1]), ("Ki", 1 << 10))
    return f"{math.ceil(size_bytes / factor)}{unit}"


@contextmanager
def full_volume_is_told(stage: Stage, volume: Path, uri: str | None = None) -> Iterator[None]:
    """Turn the error of a write that found no room into its verdict.

    Raises:
        Failure: the volume is full.
    """
    try:
        yield
    except Failure:
        raise
    except Exception as error:
        if not volume_is_full(error, volume):
            raise
        raise Failure(
            Reason.DISK_FULL, f"the volume is full: {stage} could not write; {room(volume, uri=uri)}"
        ) from error
