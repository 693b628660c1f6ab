"""Why the API server rejects a child: a permanent error of the operator, or a condition of the cluster."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

_REJECTED: Final = re.compile(r'^(?:Invalid|Unsupported) value: (?:"((?:[^"\\]|\\.)*)"|(-?[0-9.]+|true|false))(?::|$)')
"""Format in which the API server's own validation quotes the rejected value."""
_PART: Final = re.compile(r"([^.\[\]]+)|\[(\d+)\]|\[([^\]]+)\]")
_SET_BY_OTHERS: Final = "resources"
"""A LimitRange or a webhook may add to a container values that make its requests and limits invalid."""

Body = Mapping[str, Any]


def rendered_invalid(body: Body, message: str, causes: Iterable[tuple[str, str]]) -> bool:
    """Whether the API server's own validation rejects values in `body` as the operator rendered them.

    `causes` are the fields and messages of the response's details. A field that is not in `body`, or has another value
    there, was set by a policy, a webhook or a LimitRange, whose owner can change it.
    """
    name = body["metadata"]["name"]
    if not message.startswith(f'{body["kind"]} "{name}" is invalid: '):
        return False
    rejected = [_is_rendered(body, field, why) for field, why in causes]
    return bool(rejected) and all(rejected)


def _is_rendered(body: Body, field: str, why: str) -> bool:
    path = list(_path(field))
    quoted = _REJECTED.match(why)
    if not path or _SET_BY_OTHERS in path or quoted is None:
        return False
    value = quoted.group(1) if quoted.group(1) is not None else quoted.group(2)
    return value in _texts(_at(body, path))


def _path(field: str) -> Iterator[str | int]:
    for name, index, key in _PART.findall(field):
        yield int(index) if index else name or key


def _at(value: Any, path: list[str | int]) -> Any:
    for part in path:
        inside = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if not inside and not (isinstance(value, Mapping) and part in value):
            return None
        value = value[part]
    return value


def _texts(value: Any) -> set[str]:
    """Return a scalar as the server quotes it; for a map, its keys and values."""
    if isinstance(value, Mapping):
        return {
            text for item in (*value, *value.values()) if not isinstance(item, Mapping | list) for text in _texts(item)
        }
    if isinstance(value, bool):
        return {str(value).lower()}
    return set() if value is None or isinstance(value, list) else {str(value)}
