"""x-kubernetes-validations: rules compiled once and evaluated for each write.

Source: apiextensions-apiserver's pkg/apiserver/schema/cel. A rule that uses oldSelf is evaluated only where there is
an old value. Failures of other rules are not reported in a part that did not change (ratcheting).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cel_expr_python import cel

from sftjob_sandbox.apimachinery.causes import OMITTED, as_json, duplicate, forbidden, invalid, required
from sftjob_sandbox.apimachinery.errors import Cause
from sftjob_sandbox.apimachinery.objects import Object
from sftjob_sandbox.crd.checker import evaluation_environment
from sftjob_sandbox.crd.decl import Decl, aligned, as_declared, declare, escape
from sftjob_sandbox.crd.structural import MISSING

_TEXTS: Final = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""")
_OLD_SELF: Final = re.compile(r"(?<![\w.])oldSelf(?!\w)")


@dataclass(frozen=True)
class Rule:
    """One rule, ready to run."""

    declared: Mapping[str, Any]
    program: cel.Expression
    uses_old_self: bool
    optional_old_self: bool
    field_path: str

    @property
    def text(self) -> str:
        """How the rule is named in messages."""
        return str(self.declared.get("message") or self.declared["rule"]).strip()

    @property
    def message(self) -> str:
        """The message of a failure."""
        message = self.declared.get("message")
        return str(message).strip() if message else f"failed rule: {self.text}"


@dataclass(eq=False)
class RuleTree:
    """The rules of a schema node and of those below it."""

    type: str
    decl: Decl | None
    rules: list[Rule] = field(default_factory=list)
    properties: dict[str, "RuleTree"] = field(default_factory=dict)
    values: "RuleTree | None" = None
    items: "RuleTree | None" = None
    map_keys: tuple[str, ...] | None = None

    @property
    def empty(self) -> bool:
        """Whether there is no rule here or below."""
        return not (self.rules or self.properties or self.values or self.items)


def compile_rules(schema: Mapping[str, Any], *, root: bool = False) -> RuleTree | None:
    """The rules of an accepted schema; None if it has none."""
    return _tree(schema, declare(schema, root=root))


def _tree(schema: Mapping[str, Any], decl: Decl | None) -> RuleTree | None:
    if decl is None:
        return None
    keys = schema.get("x-kubernetes-list-map-keys") if schema.get("x-kubernetes-list-type") == "map" else None
    tree = RuleTree(str(schema.get("type") or ""), decl, map_keys=tuple(keys) if keys else None)
    tree.rules = [_rule(declared) for declared in schema.get("x-kubernetes-validations") or ()]
    for name, part in (schema.get("properties") or {}).items():
        escaped = escape(name)
        below = _tree(part, declare(part) if escaped is None else decl.fields.get(escaped))
        if below:
            tree.properties[name] = below
    if isinstance(schema.get("items"), dict):
        tree.items = _tree(schema["items"], decl.element)
    if isinstance(schema.get("additionalProperties"), dict):
        tree.values = _tree(schema["additionalProperties"], decl.element)
    return None if tree.empty else tree


def _rule(declared: Mapping[str, Any]) -> Rule:
    environment = evaluation_environment()
    optional = bool(declared.get("optionalOldSelf"))
    text = declared["rule"]
    if optional:
        text = f"[hasOldSelf ? optional.of(oldSelf) : optional.none()].all(oldSelf, {text}\n)"
    return Rule(
        declared=declared,
        program=environment.compile(text),
        uses_old_self=bool(_OLD_SELF.search(_TEXTS.sub("", declared["rule"]))),
        optional_old_self=optional,
        field_path=(declared.get("fieldPath") or "").lstrip("."),
    )


def run_rules(tree: RuleTree | None, value: Any, path: str = "", old: Any = MISSING) -> list[Cause]:
    """Every failed rule. `old` is the old value of the same field, where there is one."""
    if tree is None or value is None:
        return []
    causes = _run_node(tree, value, path, old) if tree.rules else []
    if isinstance(value, list) and tree.items is not None:
        olds = _by_key(old, tree.map_keys)
        for index, item in enumerate(value):
            before = olds.get(_key(item, tree.map_keys), MISSING) if olds else MISSING
            causes += run_rules(tree.items, item, f"{path}[{index}]", before)
    elif isinstance(value, dict):
        causes += _run_children(tree, value, path, old)
    return causes


def _run_children(tree: RuleTree, value: Object, path: str, old: Any) -> list[Cause]:
    causes: list[Cause] = []
    before = old if isinstance(old, dict) else {}
    for key, item in value.items():
        if tree.values is not None:
            causes += run_rules(tree.values, item, f"{path}[{key}]", before.get(key, MISSING))
        elif key in tree.properties:
            where = f"{path}.{key}" if path else key
            causes += run_rules(tree.properties[key], item, where, before.get(key, MISSING))
    return causes


def _key(item: Any, keys: tuple[str, ...] | None) -> str:
    return as_json([item.get(key) for key in keys or ()]) if isinstance(item, dict) else ""


def _by_key(old: Any, keys: tuple[str, ...] | None) -> dict[str, Any]:
    """Old items of a list map by their keys. Items of other lists have no old value."""
    return {_key(item, keys): item for item in old} if keys and isinstance(old, list) else {}


def _run_node(tree: RuleTree, value: Any, path: str, old: Any) -> list[Cause]:
    causes = []
    has_old = old is not MISSING and old is not None
    unchanged = has_old and old == value
    data: Object = {"self": as_declared(value, tree.decl), "oldSelf": None, "hasOldSelf": has_old}
    if has_old and any(rule.uses_old_self for rule in tree.rules):
        data["oldSelf"] = as_declared(aligned(old, value, tree.decl), tree.decl)
    for rule in tree.rules:
        if rule.uses_old_self and not has_old and not rule.optional_old_self:
            continue
        if unchanged and not rule.uses_old_self:
            continue
        result = rule.program.eval(data=data)
        if result.type() != cel.Type.BOOL:
            text = _runtime_error(str(result.value()), rule.text)
            causes.append(invalid(path or "<nil>", tree.type, text))
        elif not result.value():
            causes.append(_failure(tree, rule, path))
    return causes


def _failure(tree: RuleTree, rule: Rule, path: str) -> Cause:
    where = f"{path}.{rule.field_path}".lstrip(".") if rule.field_path else path or "<nil>"
    message, reason = rule.message, rule.declared.get("reason")
    if reason == "FieldValueForbidden":
        return forbidden(where, message)
    if reason == "FieldValueRequired":
        return required(where, message)
    if reason == "FieldValueDuplicate":
        return duplicate(where, tree.type)
    return invalid(where, tree.type or OMITTED, message)


def _runtime_error(error: str, rule: str) -> str:
    """The words of cel-go for a rule that could not be evaluated."""
    code, _, detail = error.partition(": ")
    if detail.startswith("Key not found in map"):
        detail = "no such key: " + detail.rpartition(": ")[2].strip('"')
    elif detail.startswith("Index error"):
        detail = "index out of bounds: " + detail.rpartition("index=")[2].split()[0]
    elif detail == "divide by zero":
        detail = "division by zero"
    elif detail.startswith("No matching overloads found"):
        supported = "call arguments did not match a supported operator, function or macro signature"
        return f"'no such overload': {supported} for rule: {rule}"
    return f"{detail or code} evaluating rule: {rule}"
