"""Checked CEL expressions as trees, read from the CEL runtime's serialized form (cel.expr.CheckedExpr)."""

from dataclasses import dataclass, field
from typing import Final

from cel_expr_python import cel

from sftjob_sandbox.wire import Raw, as_bytes, fields, signed, text

_WELL_KNOWN: Final = {1: "any", 2: "timestamp", 3: "duration"}
_PRIMITIVES: Final = {1: "bool", 2: "int", 3: "uint", 4: "double", 5: "string", 6: "bytes"}


@dataclass(frozen=True)
class CelType:
    """A type: its kind and, for lists, that of the items."""

    kind: str
    element: "CelType | None" = None


DYN: Final = CelType("dyn")


@dataclass
class Expr:
    """One node.

    `kind` is literal, ident, select, call, list, map, struct or comprehension. `parts` are, in this order: the
    operand (select), target and arguments (call), elements (list, map, struct), or range, initial accumulator,
    condition, step and result (comprehension).
    """

    id: int
    kind: str = "literal"
    name: str = ""
    """Identifier, selected field, function or iteration variable."""
    accumulator: str = ""
    test_only: bool = False
    has_target: bool = False
    literal: str | bytes | int | float | bool | None = None
    parts: list["Expr"] = field(default_factory=list)


@dataclass(frozen=True)
class Checked:
    """An expression with the type of each node."""

    root: Expr
    types: dict[int, CelType]

    def type_of(self, expr: Expr) -> CelType:
        """The deduced type of a node."""
        return self.types.get(expr.id, DYN)

    def walk(self) -> list[Expr]:
        """Every node."""
        found, waiting = [], [self.root]
        while waiting:
            expr = waiting.pop()
            found.append(expr)
            waiting += expr.parts
        return found


def read_checked(expression: cel.Expression) -> Checked:
    """The tree of a compiled expression."""
    envelope = dict(fields(expression.serialize()))
    root = Expr(0)
    types: dict[int, CelType] = {}
    for number, raw in fields(as_bytes(envelope[2])):
        if number == 4:
            root = _expr(as_bytes(raw))
        elif number == 3:
            entry = dict(fields(as_bytes(raw)))
            types[_integer(entry[1])] = _type(as_bytes(entry.get(2, b"")))
    return Checked(root, types)


def _integer(raw: Raw) -> int:
    return signed(raw) if isinstance(raw, int) else 0


def _type(data: bytes) -> CelType:
    for number, raw in fields(data):
        if number == 3 and isinstance(raw, int):
            return CelType(_PRIMITIVES.get(raw, "dyn"))
        if number == 5 and isinstance(raw, int):
            return CelType(_WELL_KNOWN.get(raw, "dyn"))
        if number == 6:
            element = dict(fields(as_bytes(raw))).get(1)
            return CelType("list", _type(as_bytes(element)) if element is not None else DYN)
        if number in (2, 7, 9, 10, 11, 14):
            return CelType({2: "null", 7: "map", 9: "object", 10: "param", 11: "type", 14: "opaque"}[number])
    return DYN


def _expr(data: bytes) -> Expr:
    result = Expr(0)
    for number, raw in fields(data):
        if number == 2:
            result.id = _integer(raw)
            continue
        body = as_bytes(raw)
        if number == 3:
            result.literal = _constant(body)
        elif number == 4:
            result.kind, result.name = "ident", text(dict(fields(body)).get(1, b""))
        elif number == 5:
            _read_select(result, body)
        elif number == 6:
            _read_call(result, body)
        elif number in (7, 8):
            _read_aggregate(result, body, is_list=number == 7)
        elif number == 9:
            _read_comprehension(result, body)
    return result


def _constant(data: bytes) -> str | bytes | int | float | bool | None:
    for number, raw in fields(data):
        if number == 2:
            return bool(raw)
        if number == 3:
            return _integer(raw)
        if number in (4, 5) and isinstance(raw, int | float):
            return raw
        if number == 6:
            return text(raw)
        if number == 7:
            return as_bytes(raw)
    return None


def _read_select(result: Expr, data: bytes) -> None:
    content = dict(fields(data))
    result.kind, result.name = "select", text(content.get(2, b""))
    result.test_only = bool(content.get(3, 0))
    result.parts = [_expr(as_bytes(content[1]))]


def _read_call(result: Expr, data: bytes) -> None:
    result.kind = "call"
    for number, raw in fields(data):
        if number == 2:
            result.name = text(raw)
        elif number == 1:
            result.has_target = True
            result.parts.insert(0, _expr(as_bytes(raw)))
        elif number == 3:
            result.parts.append(_expr(as_bytes(raw)))


def _read_aggregate(result: Expr, data: bytes, *, is_list: bool) -> None:
    result.kind = "list" if is_list else "map"
    for number, raw in fields(data):
        if is_list and number == 1:
            result.parts.append(_expr(as_bytes(raw)))
        elif not is_list and number == 1:
            result.kind, result.name = "struct", text(raw)
        elif not is_list:
            entry = dict(fields(as_bytes(raw)))
            result.parts += [_expr(as_bytes(entry[key])) for key in (3, 4) if key in entry]


def _read_comprehension(result: Expr, data: bytes) -> None:
    content = dict(fields(data))
    result.kind, result.name = "comprehension", text(content.get(1, b""))
    result.accumulator = text(content.get(3, b""))
    result.parts = [_expr(as_bytes(content.get(key, b""))) for key in (2, 4, 5, 6, 7)]
