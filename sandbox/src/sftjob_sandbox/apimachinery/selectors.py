"""Label and field selectors of query strings. A malformed one is refused with 400."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from sftjob_sandbox.apimachinery import names
from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.objects import Object

LabelMatch = Callable[[Mapping[str, str]], bool]
FieldMatch = Callable[[Object], bool]

_REQUIREMENT: Final = re.compile(
    r"\s*(?P<absent>!)?\s*(?P<key>[^\s=!(),<>]+)\s*"
    r"(?:(?P<operator>==|!=|=|\bin\b|\bnotin\b)\s*(?:\((?P<values>[^()]*)\)|(?P<value>[^\s=!(),<>]*)))?\s*"
)
_META: Final = ("metadata.name", "metadata.namespace")
_INVOLVED: Final = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "Pod": (*_META, "spec.nodeName", "status.phase"),
    "Event": (*_META, *(f"involvedObject.{name}" for name in _INVOLVED), "reason", "reportingComponent", "type"),
    "Secret": (*_META, "type"),
}
"""By kind, the fields to select by; other kinds have those of `_META`."""


def label_selector(text: str) -> LabelMatch:
    """Compile `a=b,c in (d, e),!f`. Raises ApiError: 400 for a malformed selector."""
    parts = re.split(r",(?![^(]*\))", text) if text.strip() else []
    requirements = [_requirement(part, text) for part in parts]
    return lambda labels: all(matches(labels) for matches in requirements)


def _requirement(part: str, text: str) -> LabelMatch:
    found = _REQUIREMENT.fullmatch(part)
    is_set = found is not None and found["operator"] in ("in", "notin")
    if not found or (found["absent"] and found["operator"]) or is_set is (found["values"] is None):
        raise _bad_request(f"unable to parse requirement: {part.strip()!r} of {text!r}")
    key = found["key"]
    values = [value.strip() for value in found["values"].split(",")] if is_set else [found["value"] or ""]
    texts = [*names.qualified_name(key), *(text for value in values for text in names.label_value(value))]
    if texts:
        raise _bad_request(f"unable to parse requirement: {part.strip()!r}: {'; '.join(texts)}")
    match found["operator"]:
        case None:
            return lambda labels: (key in labels) is not bool(found["absent"])
        case "in" | "=" | "==":
            return lambda labels: labels.get(key) in values
    return lambda labels: labels.get(key) not in values


def field_selector(text: str, kind: str) -> FieldMatch:
    """Compile `metadata.name=a,status.phase!=Failed` for objects of `kind`.

    Raises ApiError: 400 for a malformed selector or a field that objects of this kind cannot be selected by.
    """
    if "\\" in text:
        raise _bad_request(f"invalid field selector: this local server does not support escaped characters: {text}")
    tests = []
    for part in filter(None, text.split(",")):
        found = re.fullmatch(r"(.*?)(!=|==|=)(.*)", part, re.DOTALL)
        if not found:
            raise _bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        if found[1] not in _FIELDS.get(kind, _META):
            raise _bad_request(f"field label not supported: {found[1]}")
        tests.append((found[1].split("."), found[2] == "!=", found[3]))
    return lambda obj: all((_read(obj, path) == value) != negated for path, negated, value in tests)


def _read(obj: Object, path: list[str]) -> str:
    value: Any = obj
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return "" if value is None else str(value)


def _bad_request(text: str) -> ApiError:
    return ApiError(400, "BadRequest", text)
