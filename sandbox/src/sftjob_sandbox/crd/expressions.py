"""Checked CEL expressions as trees, read from the CEL runtime's serialized form (cel.expr.CheckedExpr)."""

from dataclasses import dataclass, field
from typing import Any, Final

from cel_expr_python import cel

from sftjob_sandbox.apimachinery.messages import message_types

_NAMED: Final = {
    "primitive": {1: "bool", 2: "int", 3: "uint", 4: "double", 5: "string", 6: "bytes"},
    "wellKnown": {1: "any", 2: "timestamp", 3: "duration"},
}
_TYPES: Final = message_types("cel", """
message Any { string typeUrl = 1; bytes value = 2; }
message CheckedExpr { repeated TypeEntry types = 3; Expr expr = 4; }
message TypeEntry { int64 id = 1; Type type = 2; }
message Type {
  optional int32 null = 2; int32 primitive = 3; int32 wellKnown = 5; ListType list = 6; optional bytes map = 7;
  optional string object = 9; optional string param = 10; optional bytes type = 11; optional bytes opaque = 14;
}
message ListType { Type element = 1; }
message Expr {
  int64 id = 2; Constant literal = 3; Ident ident = 4; Select select = 5; Call call = 6; List list = 7;
  Struct struct = 8; Comprehension comprehension = 9;
}
message Constant { optional string text = 6; optional bytes bytes = 7; }
message Ident { string name = 1; }
message Select { Expr operand = 1; string name = 2; bool testOnly = 3; }
message Call { Expr target = 1; string name = 2; repeated Expr arguments = 3; }
message List { repeated Expr elements = 1; }
message Struct { string name = 1; repeated Entry entries = 2; }
message Entry { Expr key = 3; Expr value = 4; }
message Comprehension {
  string name = 1; Expr range = 2; Expr initial = 4; Expr condition = 5; Expr step = 6; Expr result = 7;
}
""")  # fmt: skip


@dataclass
class Expr:
    """One node.

    `kind` is literal, ident, select, call, list, map, struct or comprehension. `parts` are, in this order: the
    operand (select), target and arguments (call), elements (list, map, struct), or range, initial accumulator,
    condition, step and result (comprehension).
    """

    id: int
    kind: str
    name: str = ""
    """Identifier, selected field, function or iteration variable."""
    test_only: bool = False
    has_target: bool = False
    literal_size: int = 1
    """Length of a literal text."""
    parts: list["Expr"] = field(default_factory=list)


@dataclass(frozen=True)
class Checked:
    """An expression with the kind of each node's type."""

    root: Expr
    kinds: dict[int, str]

    def kind_of(self, expr: Expr) -> str:
        """The kind of a node's deduced type."""
        return self.kinds.get(expr.id, "dyn")

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
    checked = _TYPES["CheckedExpr"].FromString(_TYPES["Any"].FromString(expression.serialize()).value)
    return Checked(_expr(checked.expr), {entry.id: _kind(entry.type) for entry in checked.types})


def _kind(message: Any) -> str:
    for described, value in message.ListFields():
        return _NAMED[described.name].get(value, "dyn") if described.name in _NAMED else str(described.name)
    return "dyn"


def _expr(message: Any) -> Expr:
    kind: str = next((described.name for described, _ in message.ListFields() if described.name != "id"), "literal")
    node = getattr(message, kind)
    result = Expr(message.id, kind, name=getattr(node, "name", ""))
    match kind:
        case "literal" if node.ListFields():
            result.literal_size = len(node.text or node.bytes)
        case "select":
            result.test_only, result.parts = node.testOnly, [_expr(node.operand)]
        case "call":
            result.has_target = node.HasField("target")
            target = [node.target] if result.has_target else []
            result.parts = [_expr(part) for part in (*target, *node.arguments)]
        case "list":
            result.parts = [_expr(element) for element in node.elements]
        case "struct":
            result.kind = "struct" if node.name else "map"
            parts = ([entry.key, entry.value] if entry.HasField("key") else [entry.value] for entry in node.entries)
            result.parts = [_expr(part) for pair in parts for part in pair]
        case "comprehension":
            steps = (node.range, node.initial, node.condition, node.step, node.result)
            result.parts = [_expr(part) for part in steps]
    return result
