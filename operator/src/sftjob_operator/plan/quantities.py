"""Kubernetes quantities, and sizes for people."""

import re
from decimal import Decimal
from typing import Final

GIB: Final = 1 << 30
_MIB: Final = 1 << 20
_UNITS: Final = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}


def quantity(text: str) -> int:
    """Parse a Kubernetes quantity to an integer, rounded down.

    Raises:
        ValueError: it is not a quantity.
    """
    found = re.fullmatch(r"([0-9]+(?:[.][0-9]+)?)([mkMGTPE]|[KMGTPE]i)?", text)
    if found is None:
        raise ValueError(f"{text!r} is not a Kubernetes quantity")
    return int(Decimal(found[1]) * _UNITS[found[2] or ""])


def readable_size(size: int) -> str:
    """Format bytes for people: in GiB, or in MiB below one."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / _MIB:.1f} MiB"
