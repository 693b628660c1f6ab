"""The largest cost that evaluating a rule can have, estimated as the API server does before it accepts the rule.

Source: cel-go's checker/cost.go and apiserver's pkg/cel/library/cost.go. Costs are in CEL's units; sizes come from the
limits that the schema declares.
"""

import math
from typing import Final, NamedTuple

from sftjob_sandbox.crd.decl import MAX_REQUEST_BYTES, Decl
from sftjob_sandbox.crd.expressions import Checked, Expr

RULE_LIMIT: Final = 10_000_000
SCHEMA_LIMIT: Final = 100_000_000
UNBOUNDED: Final = 2**64 - 1
_STRING: Final = 0.1
_REGEX: Final = 0.25
_SCALARS: Final = ("bool", "double", "duration", "int", "timestamp", "uint")
_ACCUMULATORS: Final = ("@result", "__result__")
_ORDERINGS: Final = ("_<_", "_<=_", "_>_", "_>=_")
FUNCTIONS: Final = frozenset({
    "_&&_", "_||_", "!_", "_?_:_", "_==_", "_!=_", *_ORDERINGS, "_+_", "_-_", "-_", "_*_", "_/_", "_%_", "_[_]", "@in",
    "_in_", "@not_strictly_false", "size", "matches", "startsWith", "endsWith", "contains", "type", "string", "int",
    "double", "optional.of", "hasValue", "value",
})  # fmt: skip
"""The operators and functions with a known cost; the API server has more."""


class Range(NamedTuple):
    """The smallest and the largest size or cost."""

    low: int
    high: int

    def plus(self, other: "Range") -> "Range":
        """Sum, without overflow."""
        return Range(_cap(self.low + other.low), _cap(self.high + other.high))

    def times(self, other: "Range") -> "Range":
        """Product, without overflow."""
        return Range(_cap(self.low * other.low), _cap(self.high * other.high))

    def scaled(self, factor: float) -> "Range":
        """Times a factor, rounded up."""
        return Range(_cap(math.ceil(self.low * factor)), _cap(math.ceil(self.high * factor)))

    def union(self, other: "Range") -> "Range":
        """The range of both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


def _cap(number: int) -> int:
    return min(number, UNBOUNDED)


_ZERO: Final = Range(0, 0)
_ONE: Final = Range(1, 1)
_ANY: Final = Range(0, UNBOUNDED)


class _Call(NamedTuple):
    cost: Range
    size: Range | None = None


class _Estimator:
    """Walks one expression; `decl` is the type of self."""

    def __init__(self, checked: Checked, decl: Decl) -> None:
        self._checked = checked
        self._decl = decl
        self._paths: dict[int, list[str]] = {}
        self._ranges: dict[str, list[Expr]] = {}
        self._sizes: dict[int, Range] = {}

    def cost(self, expr: Expr) -> Range:
        if expr.kind == "ident":
            return self._ident(expr)
        if expr.kind == "select":
            return self._select(expr)
        if expr.kind == "call":
            return self._call(expr)
        if expr.kind == "comprehension":
            return self._comprehension(expr)
        base = {"list": 10, "map": 30, "struct": 40}.get(expr.kind, 0)
        return self._sum(expr.parts).plus(Range(base, base))

    def _sum(self, parts: list[Expr]) -> Range:
        total = _ZERO
        for part in parts:
            total = total.plus(self.cost(part))
        return total

    def _ident(self, expr: Expr) -> Range:
        ranges = self._ranges.get(expr.name)
        if ranges:
            kind = self._checked.kind_of(ranges[-1])
            if kind in ("list", "map"):
                step = "@items" if kind == "list" else "@keys"
                self._paths[expr.id] = [*self._paths.get(ranges[-1].id, []), step]
        else:
            self._paths[expr.id] = [expr.name]
        return _ONE

    def _select(self, expr: Expr) -> Range:
        operand = self.cost(expr.parts[0])
        if expr.test_only:
            return operand.plus(_ONE)
        self._paths[expr.id] = [*self._paths.get(expr.parts[0].id, []), expr.name]
        kind = self._checked.kind_of(expr.parts[0])
        return operand.plus(_ONE) if kind in ("map", "object", "param") else operand

    def _comprehension(self, expr: Expr) -> Range:
        iterated, initial, condition, step, result = expr.parts
        total = self.cost(iterated).plus(self.cost(initial))
        self._ranges.setdefault(expr.name, []).append(iterated)
        loop = self.cost(condition).plus(self.cost(step))
        self._ranges[expr.name].pop()
        total = total.plus(self.cost(result))
        count = self._size(iterated)
        self._sizes[expr.id] = count
        return total.plus(count.times(loop))

    def _size(self, expr: Expr) -> Range:
        if expr.id in self._sizes:
            return self._sizes[expr.id]
        if expr.kind == "literal":
            return Range(expr.literal_size, expr.literal_size)
        if expr.kind in ("list", "map"):
            length = len(expr.parts) if expr.kind == "list" else len(expr.parts) // 2
            return Range(length, length)
        path = self._paths.get(expr.id, [])
        if path and path[0] not in _ACCUMULATORS:
            declared = self._declared_size(path)
            if declared is not None:
                return declared
        return _ONE if self._checked.kind_of(expr) in _SCALARS else _ANY

    def _declared_size(self, path: list[str]) -> Range | None:
        node: Decl | None = self._decl
        for name in path[1:]:
            if node is None:
                return None
            if name in ("@items", "@values"):
                node = node.element
            elif name == "@keys":
                return _ZERO if node.kind == "map" else None
            else:
                node = node.fields.get(name)
        return None if node is None else Range(0, node.max_elements)

    def _call(self, expr: Expr) -> Range:
        target = expr.parts[0] if expr.has_target else None
        arguments = expr.parts[1:] if expr.has_target else expr.parts
        costs = [self.cost(argument) for argument in arguments]
        total = self.cost(target) if target is not None else _ZERO
        if expr.name == "_[_]" and arguments:
            step = "@items" if self._checked.kind_of(arguments[0]) == "list" else "@values"
            self._paths[expr.id] = [*self._paths.get(arguments[0].id, []), step]
        call = self._function(expr.name, target, arguments, costs)
        if call.size is not None:
            self._sizes[expr.id] = call.size
        return total.plus(call.cost)

    def _function(self, name: str, target: Expr | None, arguments: list[Expr], costs: list[Range]) -> _Call:
        spent = _ZERO
        for cost in costs:
            spent = spent.plus(cost)
        if name in ("_&&_", "_||_"):
            return _Call(Range(costs[0].low, spent.high))
        if name == "_?_:_":
            size = self._size(arguments[1]).union(self._size(arguments[2]))
            return _Call(costs[0].plus(costs[1].union(costs[2])), size)
        call = self._text_function(name, target, arguments) if target is not None else self._operator(name, arguments)
        return _Call(call.cost.plus(spent), call.size)

    def _operator(self, name: str, arguments: list[Expr]) -> _Call:
        sizes = [self._size(argument) for argument in arguments]
        kinds = [self._checked.kind_of(argument) for argument in arguments]
        if name in ("@in", "_in_") and len(arguments) == 2 and kinds[1] in ("list", "dyn"):
            return _Call(sizes[1])
        if name in ("_==_", "_!=_") or (name in _ORDERINGS and {"string", "bytes", "dyn"} & set(kinds)):
            smallest = min(size.high for size in sizes)
            return _Call(Range(1 if smallest else 0, smallest).scaled(_STRING))
        if name == "_+_" and len(arguments) == 2 and kinds[0] in ("string", "bytes", "list", "dyn"):
            size = sizes[0].plus(sizes[1])
            return _Call(_ONE if kinds[0] == "list" else size.scaled(_STRING), size)
        if name == "matches" and len(arguments) == 2:
            return self._matches(sizes[0], sizes[1])
        return _Call(_ONE)

    def _matches(self, text: Range, pattern: Range) -> _Call:
        return _Call(text.plus(_ONE).scaled(_STRING).times(pattern.scaled(_REGEX)))

    def _text_function(self, name: str, target: Expr, arguments: list[Expr]) -> _Call:
        size = self._size(target)
        sizes = [self._size(argument) for argument in arguments]
        if name in ("startsWith", "endsWith"):
            return _Call(sizes[0].scaled(_STRING))
        if name == "matches":
            return self._matches(size, sizes[0])
        if name == "contains":
            return _Call(size.scaled(_STRING).times(sizes[0].scaled(_STRING)))
        return _Call(_ONE)


def largest_cost(checked: Checked, decl: Decl) -> int:
    """The largest cost of one evaluation."""
    return _Estimator(checked, decl).cost(checked.root).high


def cardinality(decl: Decl) -> int:
    """How often a value of this type can stand in one request, where no list or map above it is bounded."""
    return MAX_REQUEST_BYTES // (decl.min_size + 1)


def over_budget(called: str, cost: int, limit: int) -> str:
    """The sentence for a cost above its limit."""
    factor = cost / limit
    shown = "more than 100x" if factor > 100 else f"{factor:f}x" if factor < 1.5 else f"{factor:.1f}x"
    return (
        f"{called} exceeds budget by factor of {shown} (try simplifying the rule, or adding maxItems, maxProperties, "
        "and maxLength where arrays, maps, and strings are declared)"
    )
