"""Request bodies: how much is read, which media types are understood, and fields that are given twice."""

import json
import re
from typing import Any, Final

import yaml
from aiohttp import web

from sftjob_sandbox.decoding import Body
from sftjob_sandbox.errors import ApiError
from sftjob_sandbox.protobuf import CONTENT_TYPE as PROTOBUF
from sftjob_sandbox.protobuf import decode as decode_protobuf

JSON: Final = "application/json"
YAML: Final = "application/yaml"
LIMIT_BYTES: Final = 3 * 1024 * 1024


async def read_body(request: web.Request) -> bytes:
    """The body. Raises ApiError 413 when it is larger than a server takes."""
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > LIMIT_BYTES:
            text = f"Request entity too large: limit is {LIMIT_BYTES}"
            raise ApiError(413, "RequestEntityTooLarge", text)
    return bytes(body)


def parse_body(content_type: str, raw: bytes) -> Body:
    """An object in JSON, YAML or protobuf. Raises ApiError 400 or 415."""
    if content_type in ("", "application/octet-stream", JSON):  # aiohttp says octet-stream where nothing is said
        return parse_json(raw)
    if content_type == YAML:
        return parse_yaml(raw)
    if content_type == PROTOBUF:
        return Body(decode_protobuf(raw))
    raise unsupported_media_type(JSON, YAML, PROTOBUF)


def unsupported_media_type(*accepted: str) -> ApiError:
    """415, naming what is understood."""
    text = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    return ApiError(415, "UnsupportedMediaType", text)


def parse_json(raw: bytes) -> Body:
    """JSON, with the paths of fields that are given twice. Raises ApiError 400."""
    repeated: list[tuple[dict[str, Any], str]] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(items)
        if len(made) != len(items):
            names = [name for name, _ in items]
            repeated.extend((made, name) for name in made if names.count(name) > 1)
        return made

    try:
        value = json.loads(raw, object_pairs_hook=pairs, parse_constant=_refuse_constant)
    except ValueError as error:
        text = f"couldn't get version/kind; json parse error: {error}"
        raise ApiError(400, "BadRequest", text) from error
    return Body(value, tuple(_paths(value, repeated)) if repeated else ())


def parse_yaml(raw: bytes) -> Body:
    """YAML as Go reads it: no dates, and `2e-4` is a number. JSON is YAML too, and read faster. Raises ApiError 400."""
    if raw.lstrip()[:1] == b"{":
        return parse_json(raw)
    try:
        return Body(yaml.load(raw, Loader=GoLoader))  # noqa: S506 -- a SafeLoader
    except yaml.YAMLError as error:
        text = f"error decoding YAML: {' '.join(str(error).split())}"
        raise ApiError(400, "BadRequest", text) from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"invalid value {name}")


def _paths(value: Any, repeated: list[tuple[dict[str, Any], str]], path: str = "") -> list[str]:
    """Paths of the repeated fields, found by walking to the objects that have them."""
    found = []
    if isinstance(value, dict):
        found += [f"{path}.{name}".lstrip(".") for owner, name in repeated if owner is value]
        for key, member in value.items():
            found += _paths(member, repeated, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += _paths(item, repeated, f"{path}[{index}]")
    return found


class GoLoader(yaml.SafeLoader):
    """YAML with the scalars of Go's YAML library."""


GoLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
GoLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)
