"""PromQL over two recorded scrapes: as much of it as the dashboard says, and nothing that it does not."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import promql_parser
from prometheus_client.samples import Sample

from support.checks.scrapes import Scrape

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
Value = Vector | float

TARGET: Final = {"job": "sftjob-operator", "instance": "10.0.0.1:8081"}
"""What a Prometheus adds to every series that it scrapes."""
_FOLD: Final[dict[str, Callable[[Iterable[float]], float]]] = {"sum": sum, "max": max}
_ARITHMETIC: Final[dict[str, Callable[[float, float], float]]] = {
    "-": lambda left, right: left - right,
    "/": lambda left, right: left / right if right else math.nan,
}


@dataclass(frozen=True)
class Recording:
    """Two scrapes that are `seconds` apart, the later one made at `time` (Unix)."""

    before: Scrape
    after: Scrape
    seconds: float
    time: float


def parsed(query: str) -> Any:
    """The syntax tree of a query.

    Raises:
        ValueError: it is not PromQL.
    """
    return promql_parser.parse(query)


def selectors(node: Any) -> Iterator[Any]:
    """Every choice of series in a syntax tree."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if hasattr(node, name):
            yield from selectors(getattr(node, name))
    for argument in getattr(node, "args", ()):
        yield from selectors(argument)


def evaluated(query: str, recording: Recording) -> Value:
    """What a query gives at the later scrape.

    Raises:
        ValueError: it is not PromQL.
        TypeError: it says something that is not known here.
    """
    return _value(parsed(query), recording)


def _value(node: Any, at: Recording) -> Value:
    match node:
        case promql_parser.NumberLiteral():
            return float(node.val)
        case promql_parser.ParenExpr():
            return _value(node.expr, at)
        case promql_parser.VectorSelector():
            return _selected(node, at.after)
        case promql_parser.AggregateExpr():
            return _aggregated(node, _vector(node.expr, at))
        case promql_parser.Call():
            return _called(node, at)
        case promql_parser.BinaryExpr():
            return _combined(node, _value(node.lhs, at), _value(node.rhs, at))
    raise TypeError(f"{node} is not known here")


def _vector(node: Any, at: Recording) -> Vector:
    value = _value(node, at)
    assert isinstance(value, dict), f"{node} is no vector"
    return value


def _selected(selector: Any, scrape: Scrape) -> Vector:
    series = [(sample, {**sample.labels, **TARGET}) for sample in scrape.series(selector.name)]
    return {
        frozenset({**labels, "__name__": sample.name}.items()): sample.value
        for sample, labels in series
        if all(_matches(matcher, labels) for matcher in selector.matchers.matchers)
    }


def _matches(matcher: Any, labels: dict[str, str]) -> bool:
    value, wanted = labels.get(matcher.name, ""), matcher.value
    equal, unlike = promql_parser.MatchOp.Equal, promql_parser.MatchOp.NotEqual
    if matcher.op in (equal, unlike):
        return (value == wanted) is (matcher.op == equal)
    return (re.fullmatch(wanted, value) is not None) is (matcher.op == promql_parser.MatchOp.Re)


def _aggregated(node: Any, vector: Vector) -> Vector:
    by = set(node.modifier.labels) if node.modifier is not None else set()
    groups: dict[Labels, list[float]] = {}
    for labels, value in vector.items():
        groups.setdefault(_only(labels, by), []).append(value)
    return {labels: _FOLD[str(node.op)](values) for labels, values in groups.items()}


def _called(node: Any, at: Recording) -> Value:
    match node.func.name:
        case "time":
            return at.time
        case "rate":
            (matrix,) = node.args
            before = _selected(matrix.vector_selector, at.before)
            after = _selected(matrix.vector_selector, at.after)
            rates = {labels: (after[labels] - value) / at.seconds for labels, value in before.items()}
            return {_without_name(labels): rate for labels, rate in rates.items()}
        case "histogram_quantile":
            quantile, buckets = node.args
            return _quantiles(float(quantile.val), _vector(buckets, at))
    raise TypeError(f"{node.func.name} is not known here")


def _quantiles(quantile: float, buckets: Vector) -> Vector:
    """By linear interpolation within the bucket that holds the quantile, as Prometheus does."""
    groups: dict[Labels, list[tuple[float, float]]] = {}
    for labels, value in buckets.items():
        bound = float(dict(labels)["le"])
        groups.setdefault(frozenset(pair for pair in labels if pair[0] != "le"), []).append((bound, value))
    return {labels: _quantile(quantile, sorted(bounds)) for labels, bounds in groups.items()}


def _quantile(quantile: float, bounds: list[tuple[float, float]]) -> float:
    rank, lower, below = quantile * bounds[-1][1], 0.0, 0.0
    for bound, count in bounds:
        if count >= rank and count > below:
            return lower if math.isinf(bound) else lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return math.nan


def _combined(node: Any, left: Value, right: Value) -> Value:
    on = set(node.modifier.matching.labels) if node.modifier is not None and node.modifier.matching else None
    key = (lambda labels: _only(labels, on)) if on is not None else _without_name
    if str(node.op) == "and":
        assert isinstance(left, dict)
        assert isinstance(right, dict)
        there = {key(labels) for labels in right}
        return {labels: value for labels, value in left.items() if key(labels) in there}
    if str(node.op) == ">":
        assert isinstance(left, dict)
        assert isinstance(right, float)
        return {labels: value for labels, value in left.items() if value > right}
    apply = _ARITHMETIC[str(node.op)]
    if isinstance(left, float):
        assert isinstance(right, dict)
        return {_without_name(labels): apply(left, value) for labels, value in right.items()}
    assert isinstance(right, dict)
    others = {key(labels): value for labels, value in right.items()}
    return {key(labels): apply(value, others[key(labels)]) for labels, value in left.items() if key(labels) in others}


def _only(labels: Labels, names: Iterable[str]) -> Labels:
    return frozenset(pair for pair in labels if pair[0] in names)


def _without_name(labels: Labels) -> Labels:
    return frozenset(pair for pair in labels if pair[0] != "__name__")


def label_names(samples: Iterable[Sample]) -> set[str]:
    """Every label that one of these series has, and those of the target."""
    return {name for sample in samples for name in sample.labels} | set(TARGET)
