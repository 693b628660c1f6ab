"""Protobuf messages from definitions in the language of .proto files (proto3), without a compiler."""

import re
from typing import Any, Final

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

_MESSAGE: Final = re.compile(r"message (\w+) \{(.*?)\}", re.DOTALL)
_FIELD: Final = re.compile(r"(optional |repeated |)(map<string, (\w+)>|\w+) (\w+) = (\d+);")


def message_types(package: str, definitions: str) -> dict[str, Any]:
    """The classes of the defined messages by name. A map has texts as keys."""
    file = FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, content in _MESSAGE.findall(definitions):
        message = file.message_type.add(name=name)
        for modifier, kind, values, field, number in _FIELD.findall(content):
            added = message.field.add(name=field, number=int(number), label=Field.LABEL_OPTIONAL)
            if modifier == "repeated ":
                added.label = Field.LABEL_REPEATED
            elif modifier:
                added.proto3_optional, added.oneof_index = True, len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field}")
            _set_type(map_values(message, added, package) if values else added, values or kind, package)
    classes = message_factory.GetMessages([file], pool=descriptor_pool.DescriptorPool())
    return {name.rpartition(".")[2]: found for name, found in classes.items()}


def map_values(message: DescriptorProto, field: Field, package: str) -> Field:
    """Make a field of a message a map with texts as keys; the field of its values."""
    field.label, field.type = Field.LABEL_REPEATED, Field.TYPE_MESSAGE
    camel = "".join(part[:1].upper() + part[1:] for part in field.name.split("_"))
    entry = message.nested_type.add(name=f"{camel}Entry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    field.type_name = f".{package}.{message.name}.{entry.name}"
    return entry.field.add(name="value", number=2, label=Field.LABEL_OPTIONAL)


def _set_type(field: Field, kind: str, package: str) -> None:
    if kind.islower():
        field.type = Field.Type.Value(f"TYPE_{kind.upper()}")
    else:
        field.type, field.type_name = Field.TYPE_MESSAGE, f".{package}.{kind}"
