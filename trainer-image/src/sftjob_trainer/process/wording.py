"""Building blocks of user-facing messages."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

_TYPES: Final = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def one_of(options: Sequence[str]) -> str:
    """`a, b or c`."""
    *others, last = options
    return f"{', '.join(others)} or {last}" if others else last


def type_name(value: Any) -> str:
    """The JSON type of `value`; NaN and the infinities, which JSON lacks, by their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN (write null for a missing value)" if math.isnan(value) else "infinity"
    return next((name for kind, name in _TYPES.items() if isinstance(value, kind)), type(value).__name__)


def describe_columns(values: Mapping[str, Any]) -> str:
    """The columns of a row, for a message about a missing column."""
    if not values:
        return "the row is empty"
    shown = [f'"{str(name)[:40]}"' for name in list(values)[:8]]
    return f"there is {', '.join(shown + ['...'] * (len(values) > len(shown)))}"
