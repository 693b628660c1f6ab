"""Type-checking of rules: the declared types as a protobuf schema, which is what the CEL runtime checks against."""

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from cel_expr_python import cel
from cel_expr_python.ext import ext_optional, ext_strings
from google.protobuf import descriptor_pool, struct_pb2, timestamp_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

from sftjob_sandbox.apimachinery.messages import map_values
from sftjob_sandbox.crd.decl import Decl

_PACKAGE: Final = "schema"
_SCALARS: Final = {
    "string": (Field.TYPE_STRING, cel.Type.STRING),
    "double": (Field.TYPE_DOUBLE, cel.Type.DOUBLE),
    "int": (Field.TYPE_INT64, cel.Type.INT),
    "bool": (Field.TYPE_BOOL, cel.Type.BOOL),
}
_TIMESTAMP: Final = ".google.protobuf.Timestamp"
_VALUE: Final = ".google.protobuf.Value"
_MIXED_COMPARISON: Final = re.compile(r"'_(<|<=|>|>=)_' applied to '\((int, double|double, int)\)'")


class RuleError(Exception):
    """Why a rule does not compile, in the API server's words."""


def extensions() -> list[cel.CelExtensionBase]:
    """The extensions that both the API server and the runtime here have."""
    return [ext_strings.ExtStrings(2), ext_optional.ExtOptional()]


@dataclass
class _File:
    """The messages of a protobuf file in the making."""

    proto: FileDescriptorProto = field(
        default_factory=lambda: FileDescriptorProto(
            name="schema.proto",
            package=_PACKAGE,
            syntax="proto2",
            dependency=["google/protobuf/struct.proto", "google/protobuf/timestamp.proto"],
        )
    )
    doubles_are_dynamic: bool = False

    def message(self, decl: Decl) -> str:
        """Add the message of an object; its name."""
        name = f"Object{len(self.proto.message_type)}"
        message = self.proto.message_type.add(name=name)
        message.options.deprecated_legacy_json_field_conflicts = True
        for number, (escaped, child) in enumerate(decl.fields.items(), start=1):
            self._field(message, escaped, number, child)
        return name

    def _field(self, message: DescriptorProto, name: str, number: int, decl: Decl) -> None:
        target = message.field.add(name=name, number=number, label=Field.LABEL_OPTIONAL)
        element = decl.element
        if decl.kind == "list" and element is not None and element.kind not in ("list", "map"):
            target.label = Field.LABEL_REPEATED
            self._set_type(target, element)
        elif decl.kind == "map" and element is not None and element.kind not in ("list", "map"):
            self._set_type(map_values(message, target, _PACKAGE), element)
        else:
            self._set_type(target, decl)

    def _set_type(self, target: Field, decl: Decl) -> None:
        if decl.kind in _SCALARS and not (decl.kind == "double" and self.doubles_are_dynamic):
            target.type = _SCALARS[decl.kind][0]
            return
        target.type = Field.TYPE_MESSAGE
        if decl.kind == "object":
            target.type_name = f".{_PACKAGE}.{self.message(decl)}"
        else:
            # lists of lists are beyond protobuf: they stay unchecked
            target.type_name = _TIMESTAMP if decl.kind == "timestamp" else _VALUE

    def variable(self, decl: Decl) -> cel.Type:
        """The type of a variable."""
        if decl.kind == "object":
            return cel.Type(f"{_PACKAGE}.{self.message(decl)}")
        if decl.kind == "list" and decl.element is not None:
            return cel.Type.List(self.variable(decl.element))
        if decl.kind == "map" and decl.element is not None:
            return cel.Type.Map(cel.Type.STRING, self.variable(decl.element))
        if decl.kind == "double" and self.doubles_are_dynamic:
            return cel.Type.DYN
        if decl.kind == "timestamp":
            return cel.Type.TIMESTAMP
        return _SCALARS[decl.kind][1] if decl.kind in _SCALARS else cel.Type.DYN


class Checker:
    """Checks the rules of one schema node, whose type is `decl`."""

    def __init__(self, decl: Decl) -> None:
        self._decl = decl
        self._strict = _environment(decl, doubles_are_dynamic=False)

    def check(self, rule: str, *, optional_old_self: bool = False) -> cel.Expression:
        """Compile a rule against the declared types. Raises RuleError: with the compiler's message."""
        source = f"[optional.of(oldSelf)].map(oldSelf, {rule})[0]" if optional_old_self else rule
        try:
            return self._strict.compile(source)
        except RuntimeError as error:
            message = _issues(str(error))
            if not _MIXED_COMPARISON.search(message):
                raise RuleError(message) from error
        try:
            # The API server compares integers with doubles; the checker here only where the type is not known.
            lenient = _environment(self._decl, doubles_are_dynamic=True).compile(source)
        except RuntimeError as error:
            raise RuleError(_issues(str(error))) from error
        if not _only_mixed_comparisons(message):
            raise RuleError(message)
        return lenient


def _environment(decl: Decl, *, doubles_are_dynamic: bool) -> cel.Env:
    file = _File(doubles_are_dynamic=doubles_are_dynamic)
    variable = file.variable(decl)
    pool = descriptor_pool.DescriptorPool()
    for known in (struct_pb2, timestamp_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.proto.SerializeToString())
    variables = {"self": variable, "oldSelf": variable}
    return cel.NewEnv(descriptor_pool=pool, variables=variables, extensions=extensions())


def _issues(text: str) -> str:
    """The compiler's issues without the runtime's own frame, and struct names, which the API server does not show."""
    text = text.removeprefix("INVALID_ARGUMENT: ").removesuffix(" [INVALID_ARGUMENT]")
    text = re.sub(r"(undefined field '[^']*') not found in struct '[^']*'", r"\1", text)
    return re.sub(rf"{_PACKAGE}\.Object\d+", "object", text).replace("null_type", "null")


def _only_mixed_comparisons(message: str) -> bool:
    errors = [line for line in message.splitlines() if line.startswith("ERROR: ")]
    return bool(errors) and all(_MIXED_COMPARISON.search(line) for line in errors)


@cache
def evaluation_environment() -> cel.Env:
    """Where checked rules run: values are plain JSON, so nothing is declared."""
    variables = {"self": cel.Type.DYN, "oldSelf": cel.Type.DYN, "hasOldSelf": cel.Type.BOOL}
    return cel.NewEnv(variables=variables, extensions=extensions())
