"""The protobuf wire format: a message as its fields, without a schema."""

import struct
from collections.abc import Iterator

Raw = int | float | bytes


class MalformedError(ValueError):
    """Not the protobuf wire format."""


def fields(data: bytes) -> Iterator[tuple[int, Raw]]:
    """Number and value of each field: a varint as an integer, fixed64 as a double, the rest as bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield tag >> 3, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length, position = _varint(data, position)
        if length is None or position + length > len(data):
            raise MalformedError("unexpected EOF")
        content = data[position : position + length]
        position += length
        yield tag >> 3, struct.unpack("<d", content)[0] if kind == 1 else content


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise MalformedError("bad varint")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position


def signed(number: int) -> int:
    """An int64 field's value."""
    return number - (1 << 64) if number >= 1 << 63 else number


def as_bytes(value: Raw) -> bytes:
    """A length-delimited field's content."""
    if not isinstance(value, bytes):
        raise MalformedError("expected a length-delimited field")
    return value


def text(value: Raw) -> str:
    """A string field's content."""
    return as_bytes(value).decode()
