"""Request bodies: how much is read, which media types are understood, and fields that are given twice."""

import json
import re
from typing import Any, Final

import yaml
from aiohttp import web

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.storage.protobuf import CONTENT_TYPE as PROTOBUF
from sftjob_sandbox.storage.protobuf import decode as decode_protobuf

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


def parse_body(content_type: str, raw: bytes) -> Any:
    """An object in JSON, YAML or protobuf. Raises ApiError 400 or 415."""
    if content_type in ("", "application/octet-stream", JSON):  # octet-stream is aiohttp's default
        return parse_json(raw)
    if content_type == YAML:
        return parse_yaml(raw)
    if content_type == PROTOBUF:
        return decode_protobuf(raw)
    raise unsupported_media_type(JSON, YAML, PROTOBUF)


def unsupported_media_type(*accepted: str) -> ApiError:
    """415, naming what is understood."""
    text = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    return ApiError(415, "UnsupportedMediaType", text)


def parse_json(raw: bytes) -> Any:
    """JSON. Raises ApiError 400, also for a field that is given twice."""

    def unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(items)
        if len(made) != len(items):
            names = [name for name, _ in items]
            raise ValueError(f'duplicate field "{next(name for name in names if names.count(name) > 1)}"')
        return made

    try:
        return json.loads(raw, object_pairs_hook=unique, parse_constant=_refuse_constant)
    except ValueError as error:
        text = f"couldn't get version/kind; json parse error: {error}"
        raise ApiError(400, "BadRequest", text) from error


def parse_yaml(raw: bytes) -> Any:
    """YAML as Go reads it: no dates, and `2e-4` is a number. JSON is YAML too, and read faster. Raises ApiError 400."""
    if raw.lstrip()[:1] == b"{":
        return parse_json(raw)
    try:
        return yaml.load(raw, Loader=GoLoader)  # noqa: S506 -- a SafeLoader
    except yaml.YAMLError as error:
        text = f"error decoding YAML: {' '.join(str(error).split())}"
        raise ApiError(400, "BadRequest", text) from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"invalid value {name}")


class GoLoader(yaml.SafeLoader):
    """YAML with the scalars of Go's YAML library."""


GoLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
GoLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)
