"""Bodies as client-go's typed clients encode them, written here by hand: (field number, value) pairs."""

import base64
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.storage import protobuf
from support.checks.kube_schemas import schema_of

Value = int | bool | str | bytes | list[tuple[int, Any]]


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def encode(fields: Sequence[tuple[int, Value]]) -> bytes:
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = encode(value) if isinstance(value, list) else value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def body(api_version: str, kind: str, *fields: tuple[int, Value]) -> bytes:
    return b"k8s\x00" + encode([(1, [(1, api_version), (2, kind)]), (2, encode(fields)), (3, ""), (4, "")])


META = (1, [(1, "a"), (2, ""), (3, "team-a"), (8, b"")])


@pytest.mark.parametrize(
    ("encoded", "decoded"),
    [
        (
            body("v1", "Namespace", (1, [(1, "team-a"), (8, b"")]), (2, []), (3, [])),
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-a"}, "spec": {}, "status": {}},
        ),
        (
            body(
                "v1",
                "ConfigMap",
                META,
                (2, [(1, "k"), (2, "v")]),
                (2, [(1, "l"), (2, "")]),
                (3, [(1, "b"), (2, b"\x00\xff")]),
                (4, False),
            ),
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "a", "namespace": "team-a"},
                "data": {"k": "v", "l": ""},
                "binaryData": {"b": "AP8="},
                "immutable": False,
            },
        ),
        (
            body("v1", "Secret", META, (2, [(1, "k"), (2, b"secret")]), (3, "helm.sh/release.v1")),
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "a", "namespace": "team-a"},
                "data": {"k": base64.b64encode(b"secret").decode()},
                "type": "helm.sh/release.v1",
            },
        ),
        (
            body("v1", "ServiceAccount", META, (3, [(1, "pull")]), (3, [(1, "more")]), (4, True)),
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": "a", "namespace": "team-a"},
                "imagePullSecrets": [{"name": "pull"}, {"name": "more"}],
                "automountServiceAccountToken": True,
            },
        ),
        (
            body("authentication.k8s.io/v1", "TokenRequest", (1, []), (2, [(1, "sts"), (4, 600)]), (3, [])),
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "metadata": {},
                "spec": {"audiences": ["sts"], "expirationSeconds": 600},
                "status": {},
            },
        ),
        (
            body("v1", "DeleteOptions", (1, 0), (2, [(1, "uid-1")]), (4, "Background"), (5, "All")),
            {
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "gracePeriodSeconds": 0,
                "preconditions": {"uid": "uid-1"},
                "propagationPolicy": "Background",
                "dryRun": ["All"],
            },
        ),
    ],
)
def test_bodies(encoded: bytes, decoded: dict[str, Any]) -> None:
    assert protobuf.decode(encoded) == decoded


def test_what_is_decoded_has_known_fields_only() -> None:
    decoded = protobuf.decode(body("v1", "Secret", META, (2, [(1, "k"), (2, b"x")]), (5, True)))
    assert schema_of(decoded).prune(decoded) == (decoded, [])


@pytest.mark.parametrize(
    ("encoded", "code", "message"),
    [
        (
            b"{}",
            400,
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
        ),
        (b"k8s\x00\x0a\x05", 400, "unable to decode protobuf body: "),
        (body("v1", "Event", META), 415, "this server decodes no protobuf body of v1 Event; send application/json"),
        (
            body("v1", "ConfigMap", META, (9, "x")),
            415,
            "this server does not know protobuf field 9 of ConfigMap; send application/json",
        ),
        (
            body("v1", "ConfigMap", (1, 7)),
            415,
            "this server does not know protobuf field 1 of ConfigMap; send application/json",
        ),
        (body("v1", "ConfigMap", (1, [(8, [(1, 1 << 60)])])), 400, "unable to decode protobuf body: "),
        (body("v1", "ConfigMap", (1, [(17, [(7, [(1, "{")])])])), 400, "unable to decode protobuf body: "),
    ],
)
def test_what_cannot_be_decoded_is_refused(encoded: bytes, code: int, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        protobuf.decode(encoded)
    assert refused.value.code == code
    assert refused.value.message.startswith(message)


@given(data=st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), max_size=4))
def test_texts_come_back_as_they_were(data: dict[str, str]) -> None:
    fields = [(2, [(1, key), (2, value)]) for key, value in data.items()]
    assert protobuf.decode(body("v1", "ConfigMap", META, *fields)).get("data", {}) == data


@given(rest=st.binary(max_size=40))
def test_any_bytes_are_decoded_or_refused(rest: bytes) -> None:
    with suppress(ApiError):
        assert protobuf.decode(b"k8s\x00" + rest).keys() >= {"apiVersion", "kind"}
