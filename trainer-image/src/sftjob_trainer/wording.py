"""Pieces of the sentences that users read."""

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


def either(options: Sequence[str]) -> str:
    """`a, b or c`."""
    *others, last = options
    return f"{', '.join(others)} or {last}" if others else last


def type_name(value: Any) -> str:
    """What kind of JSON value `value` is; NaN and the infinities, which JSON has not, by their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN (write null for a missing value)" if math.isnan(value) else "infinity"
    return next((name for kind, name in _TYPES.items() if isinstance(value, kind)), type(value).__name__)


def columns_there(values: Mapping[str, Any]) -> str:
    """Which columns a row has, for a sentence about one that it has not."""
    if not values:
        return "the row is empty"
    shown = [f'"{str(name)[:40]}"' for name in list(values)[:8]]
    return f"there is {', '.join(shown + ['...'] * (len(values) > len(shown)))}"
