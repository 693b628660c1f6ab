"""Label and field selectors: the grammar of query strings, with the API server's sentences for bad ones."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sftjob_sandbox import names
from sftjob_sandbox.causes import invalid
from sftjob_sandbox.errors import ApiError, Cause
from sftjob_sandbox.objects import Object

LabelMatch = Callable[[Mapping[str, str]], bool]
FieldMatch = Callable[[Object], bool]

_TOKEN: Final = re.compile(r"[ \t\r\n]*(==|!=|[=!(),<>]|[^=!(),<> \t\r\n]+)")
_OPERATORS: Final = ("in", "notin", "=", "==", "!=", "gt", "lt")
_SYMBOLS: Final = ("==", "!=", "=", "!", "(", ")", ",", "<", ">")


def _bad_request(text: str) -> ApiError:
    return ApiError(400, "BadRequest", text)


def _as_integer(text: str) -> int | None:
    if re.fullmatch(r"[+-]?[0-9]+", text, re.ASCII):
        value = int(text)
        return value if -(2**63) <= value < 2**63 else None
    return None


@dataclass
class _Parser:
    """Recursive descent over the tokens of one label selector."""

    tokens: list[str]
    position: int = 0

    def peek(self) -> str:
        """The next token; empty at the end."""
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        """The next token, which is then behind."""
        taken = self.peek()
        self.position += 1
        return taken

    def requirements(self) -> Iterator[LabelMatch]:
        while self.peek():
            if self.peek() in _SYMBOLS and self.peek() != "!":
                raise _bad_request(f"found '{self.peek()}', expected: !, identifier, or 'end of string'")
            try:
                yield self._requirement()
            except _RequirementError as error:
                raise _bad_request(f"unable to parse requirement: {error}") from error
            separator = self.take()
            if separator not in ("", ","):
                raise _bad_request(f"found '{separator}', expected: ',' or 'end of string'")
            if separator == "," and (not self.peek() or (self.peek() in _SYMBOLS and self.peek() != "!")):
                raise _bad_request(f"found '{self.peek()}', expected: identifier after ','")

    def _requirement(self) -> LabelMatch:
        negated = self.peek() == "!"
        if negated:
            self.take()
        key = self.take()
        if not key or key in _SYMBOLS:
            raise _RequirementError(f"found '{key}', expected: identifier")
        if errors := names.qualified_name(key):
            raise _RequirementError(_text([invalid("<nil>", key, "; ".join(errors))]))
        if negated:
            return lambda labels: key not in labels
        if self.peek() in ("", ","):
            return lambda labels: key in labels
        operator = self.take()
        if operator not in ("in", "notin", "=", "==", "!=", "<", ">"):
            raise _RequirementError(f"found '{operator}', expected: {', '.join(_OPERATORS)}")
        values = sorted(self._set() if operator in ("in", "notin") else {self._value()})
        return _matcher(key, operator, values)

    def _value(self) -> str:
        if self.peek() in ("", ","):
            return ""
        value = self.take()
        if value in _SYMBOLS:
            raise _RequirementError(f"found '{value}', expected: identifier")
        return value

    def _set(self) -> set[str]:
        opening = self.take()
        if opening != "(":
            raise _RequirementError(f"found '{opening}' expected: '('")
        values: set[str] = set()
        expect_value = True
        while True:
            symbol = self.take()
            if symbol in (")", ","):
                if expect_value:
                    values.add("")
                if symbol == ")":
                    return values
                expect_value = True
            elif not symbol or symbol in _SYMBOLS or not expect_value:
                expected = "',', or identifier" if expect_value else "',' or ')'"
                raise _RequirementError(f"found '{symbol}', expected: {expected}")
            else:
                values.add(symbol)
                expect_value = False


class _RequirementError(Exception):
    """What is wrong with one requirement."""


def _text(causes: list[Cause]) -> str:
    texts = [f"{cause.field}: {cause.message}" for cause in causes]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _matcher(key: str, operator: str, values: list[str]) -> LabelMatch:
    causes = []
    for index, value in enumerate(values):
        if operator in ("<", ">") and _as_integer(value) is None:
            text = "for 'Gt', 'Lt' operators, the value must be an integer"
            causes.append(invalid(f"values[{index}]", value, text))
    for index, value in enumerate(values):
        if errors := names.label_value(value):
            causes.append(invalid(f"values[{index}][{key}]", value, "; ".join(errors)))
    if causes:
        raise _RequirementError(_text(causes))
    if operator in ("in", "=", "=="):
        return lambda labels: labels.get(key) in values
    if operator in ("notin", "!="):
        return lambda labels: labels.get(key) not in values
    limit = int(values[0])
    sign = 1 if operator == ">" else -1

    def compare(labels: Mapping[str, str]) -> bool:
        actual = _as_integer(labels.get(key, ""))
        return actual is not None and sign * actual > sign * limit

    return compare


def label_selector(text: str) -> LabelMatch:
    """Compile `a=b,c in (d, e),!f,g>1`.

    Raises:
        ApiError: 400 with the parser's sentence.
    """
    requirements = list(_Parser(_TOKEN.findall(text)).requirements())
    return lambda labels: all(matches(labels) for matches in requirements)


_META: Final = {"metadata.name": ("metadata.name",), "metadata.namespace": ("metadata.namespace",)}
_NONE: Final[Mapping[str, tuple[str, ...]]] = {}
_INVOLVED: Final = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")


@dataclass(frozen=True)
class _Labels:
    """Field labels of a kind and the paths they read, the first that holds a value; `own` kinds word refusals."""

    paths: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _META)
    own: bool = False


def _own(*paths: str, namespaced: bool = True, aliases: Mapping[str, tuple[str, ...]] = _NONE) -> _Labels:
    meta = _META if namespaced else {"metadata.name": ("metadata.name",)}
    return _Labels({**meta, **{path: (path,) for path in paths}, **aliases}, own=True)


_KINDS: Final[Mapping[str, _Labels]] = {
    "Pod": _own(
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
        "status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName",
        aliases={"spec.host": ("spec.nodeName",)},
    ),
    "Event": _own(
        *(f"involvedObject.{name}" for name in _INVOLVED), "reason", "reportingComponent", "type",
        aliases={"source": ("source.component", "reportingComponent")},
    ),
    "Secret": _own("type"),
    "Namespace": _own("status.phase", namespaced=False),
    "Node": _own("spec.unschedulable", namespaced=False),
    "Service": _own("spec.clusterIP", "spec.type"),
    "ReplicaSet": _own("status.replicas"),
    "Job": _own("status.successful"),
}  # fmt: skip


def field_selector(text: str, kind: str, *, custom: bool = False, selectable: tuple[str, ...] = ()) -> FieldMatch:
    """Compile `metadata.name=a,status.phase!=Failed` for objects of `kind`.

    `custom` says that the kind is a custom resource; `selectable` are the json paths of its selectableFields.

    Raises:
        ApiError: 400 for a bad selector or a field that this kind cannot be selected by.
    """
    labels = _Labels({**_META, **{path.lstrip("."): (path.lstrip("."),) for path in selectable}}, own=True)
    if not custom:
        labels = _KINDS.get(kind, _Labels())
    terms = [_term(part, text) for part in sorted(_split_terms(text)) if part]
    tests = []
    for name, operator, value in terms:
        if name not in labels.paths:
            raise _unknown_label(name, own=labels.own)
        tests.append(([path.split(".") for path in labels.paths[name]], operator == "!=", value))

    def matches(obj: Object) -> bool:
        return all((_first(obj, paths) == value) != negated for paths, negated, value in tests)

    return matches


def _unknown_label(name: str, *, own: bool) -> ApiError:
    if own:
        return _bad_request(f"field label not supported: {name}")
    known = '"metadata.name", "metadata.namespace"'
    return _bad_request(f'"{name}" is not a known field selector: only {known}')


def _split_terms(text: str) -> list[str]:
    """Split at commas that no backslash precedes."""
    return re.findall(r"(?:^|(?<=,))((?:\\.|[^\\,])*\\?)(?=,|$)", text) if text else []


def _term(part: str, text: str) -> tuple[str, str, str]:
    found = re.match(r"(.*?)(!=|==|=)(.*)", part, re.DOTALL)
    if not found:
        raise _bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
    name, operator, raw = found.groups()
    return name, operator, _unescaped(raw)


def _unescaped(raw: str) -> str:
    out = []
    characters = iter(raw)
    for character in characters:
        if character == "\\":
            escaped = next(characters, "")
            if escaped not in ("\\", ",", "=") or not escaped:
                raise _bad_request(f"invalid field selector: invalid escape sequence: \\{escaped}")
            out.append(escaped)
        elif character in ",=":
            raise _bad_request(f"invalid field selector: unescaped character in value: {ord(character)}")
        else:
            out.append(character)
    return "".join(out)


def _first(obj: Object, paths: list[list[str]]) -> str:
    return next(filter(None, (_read(obj, path) for path in paths)), "")


def _read(obj: Any, path: list[str]) -> str:
    value: Any = obj
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    if value is None:
        return "false" if path[-1] in ("hostNetwork", "unschedulable") else "0" if path[-1] == "replicas" else ""
    return str(value).lower() if isinstance(value, bool) else str(value)
