"""Whether the rules of a schema compile, and what they may cost.

Source: apiextensions-apiserver's pkg/apiserver/schema/cel/compilation.go and
pkg/apis/apiextensions/validation/cel_validation.go.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sftjob_sandbox.apimachinery.causes import GoText, forbidden, invalid, quoted
from sftjob_sandbox.apimachinery.errors import Cause
from sftjob_sandbox.crd.checker import Checker, RuleError
from sftjob_sandbox.crd.cost import (
    FUNCTIONS,
    RULE_LIMIT,
    SCHEMA_LIMIT,
    UNBOUNDED,
    cardinality,
    largest_cost,
    over_budget,
)
from sftjob_sandbox.crd.decl import Decl, declare, escape
from sftjob_sandbox.crd.expressions import Checked, read_checked

Schema = Mapping[str, Any]


@dataclass
class Costs:
    """The costs of all rules of a schema: their sum, and each that matters with its place."""

    total: int = 0
    expensive: list[tuple[int, str]] = field(default_factory=list)

    def add(self, cost: int, path: str) -> None:
        """Count one rule."""
        self.total = min(self.total + cost, UNBOUNDED)
        if cost >= SCHEMA_LIMIT // 100:
            self.expensive = sorted([*self.expensive, (cost, path)], reverse=True)[:4]

    def causes(self, path: str) -> list[Cause]:
        """The causes if all rules together cost too much; `path` is the schema's."""
        if self.total <= SCHEMA_LIMIT:
            return []
        text = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
        called = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema"
        causes = [forbidden(where, text) for _, where in self.expensive]
        return [*causes, forbidden(path, over_budget(called, self.total, SCHEMA_LIMIT))]


@dataclass(frozen=True)
class RuleScope:
    """Where rules are: the type of the node, and how many such values one object can have."""

    decl: Decl | None
    costs: Costs
    most: int | None = 1
    """None if a list or map above has no limit."""

    @classmethod
    def of_root(cls, schema: Schema) -> "RuleScope":
        """The scope of a version's schema."""
        return cls(declare(schema, root=True), Costs())

    def property(self, schema: Schema, name: str) -> "RuleScope":
        """The scope of a property."""
        escaped = escape(name)
        known = self.decl.fields.get(escaped) if self.decl is not None and escaped is not None else None
        part = schema["properties"][name]
        decl = known or declare(part)
        return replace(self, decl=decl, most=self._times(None if schema.get("additionalProperties") else 1))

    def items(self, schema: Schema) -> "RuleScope":
        """The scope of a list's items."""
        element = self.decl.element if self.decl is not None else None
        return replace(self, decl=element, most=self._times(schema.get("maxItems")))

    def values(self, schema: Schema) -> "RuleScope":
        """The scope of a map's values."""
        element = self.decl.element if self.decl is not None else None
        return replace(self, decl=element, most=self._times(schema.get("maxProperties")))

    def _times(self, count: int | None) -> int | None:
        return None if self.most is None or count is None else min(self.most * max(count, 0), UNBOUNDED)


def check_rules(schema: Schema, path: str, scope: RuleScope, uncorrelatable: str | None) -> list[Cause]:
    """What is wrong with the rules of one node."""
    if scope.decl is None:
        text = "failed to convert to declType for CEL validation rules"
        return [Cause("InternalError", f"{path}.x-kubernetes-validations", f"Internal error: {text}")]
    checker = Checker(scope.decl)
    causes: list[Cause] = []
    for index, declared in enumerate(schema["x-kubernetes-validations"]):
        where = f"{path}.x-kubernetes-validations[{index}]"
        causes += _check_rule(declared, where, scope, checker, uncorrelatable)
    return causes


def _check_rule(
    declared: Schema, where: str, scope: RuleScope, checker: Checker, uncorrelatable: str | None
) -> list[Cause]:
    optional = declared.get("optionalOldSelf")
    try:
        checked = _compiled(checker, declared["rule"], optional=bool(optional))
    except RuleError as error:
        return [invalid(f"{where}.rule", _as_go(declared), str(error))]
    causes = _check_cost(checked, f"{where}.rule", scope)
    mentions = sum(expr.kind == "ident" and expr.name == "oldSelf" for expr in checked.walk())
    uses_old = mentions > int(bool(optional))  # the checker itself puts one in to make it optional
    if uses_old and uncorrelatable is not None:
        text = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {uncorrelatable}"
        causes.append(invalid(f"{where}.rule", declared["rule"], text))
    elif not uses_old and optional is not None:
        causes.append(invalid(f"{where}.optionalOldSelf", optional, "may not be set if oldSelf is not used in rule"))
    return causes


def _as_go(declared: Schema) -> GoText:
    """A rule as Go prints the struct."""
    texts = {name: declared.get(name[0].lower() + name[1:]) or "" for name in ("Rule", "Message", "MessageExpression")}
    fields = [f"{name}:{quoted(text)}" for name, text in texts.items()]
    pointer = {True: "nil", False: "0xc000000000"}
    fields += [
        f"Reason:(*apiextensions.FieldValueErrorReason)({pointer[declared.get('reason') is None]})",
        f"FieldPath:{quoted(declared.get('fieldPath') or '')}",
        f"OptionalOldSelf:(*bool)({pointer[declared.get('optionalOldSelf') is None]})",
    ]
    return GoText(f"apiextensions.ValidationRule{{{', '.join(fields)}}}")


def _compiled(checker: Checker, source: str, *, optional: bool) -> Checked:
    """The checked tree of an expression that evaluates to a boolean.

    Raises RuleError: if it does not compile, has another type, or needs what this server does not evaluate.
    """
    try:
        checked = read_checked(checker.check(source, optional_old_self=optional))
    except RuleError as error:
        raise RuleError(f"compilation failed: {error}") from error
    if checked.kind_of(checked.root) not in ("bool", "dyn" if optional else "bool"):
        raise RuleError("cel expression must evaluate to a bool")
    for expr in checked.walk():
        if checked.kind_of(expr) == "timestamp" and expr.kind in ("select", "ident"):
            raise RuleError(f"field {expr.name!r} is a date-time; this local server does not evaluate such rules")
        if expr.kind == "call" and expr.name not in FUNCTIONS:
            raise RuleError(f"this local server does not estimate the cost of the function {expr.name}")
    return checked


def _check_cost(checked: Checked, path: str, scope: RuleScope) -> list[Cause]:
    if scope.decl is None:
        return []
    times = cardinality(scope.decl) if scope.most is None else scope.most
    cost = min(largest_cost(checked, scope.decl) * times, UNBOUNDED)
    scope.costs.add(cost, path)
    return [forbidden(path, over_budget("estimated rule cost", cost, RULE_LIMIT))] if cost > RULE_LIMIT else []
