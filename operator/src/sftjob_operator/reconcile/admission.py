"""Whose fault it is that the API server refuses a child: the operator's, which no wait mends, or the cluster's."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

_REJECTED: Final = re.compile(r'^(?:Invalid|Unsupported) value: (?:"((?:[^"\\]|\\.)*)"|(-?[0-9.]+|true|false))(?::|$)')
"""How the API server's own validation quotes the value that it rejects."""
_PART: Final = re.compile(r"([^.\[\]]+)|\[(\d+)\]|\[([^\]]+)\]")
_SET_BY_OTHERS: Final = "resources"
"""What a LimitRange or a webhook adds to a container decides whether its requests and limits are valid."""

Body = Mapping[str, Any]


def rendered_invalid(body: Body, message: str, causes: Iterable[tuple[str, str]]) -> bool:
    """Whether the API server's own validation rejects values that are in `body` as the operator rendered it.

    `causes` are the fields and messages of the answer's details. A field that is not in `body`, or that has another
    value there, was set by a policy, a webhook or a LimitRange, whose owner can change it.
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
    """A scalar as the server quotes it; of a map, its keys and values."""
    if isinstance(value, Mapping):
        return {
            text for item in (*value, *value.values()) if not isinstance(item, Mapping | list) for text in _texts(item)
        }
    if isinstance(value, bool):
        return {str(value).lower()}
    return set() if value is None or isinstance(value, list) else {str(value)}
