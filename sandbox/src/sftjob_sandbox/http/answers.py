"""Answers: JSON with the headers of an API server, and which form of it a client accepts."""

from collections.abc import Iterable
from typing import Final

from aiohttp import web

from sftjob_sandbox.apimachinery.causes import quoted
from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.storage.collections import encode

JSON: Final = "application/json"
_HEADERS: Final = {"Cache-Control": "no-cache, private", "Content-Type": JSON}
_ANY: Final = ("*/*", "application/*", JSON)


def answer(body: bytes, status: int = 200, warnings: Iterable[str] = ()) -> web.Response:
    """Encoded JSON, with warnings as kubectl shows them."""
    response = web.Response(body=body + b"\n", status=status, headers=_HEADERS)
    for text in warnings:
        response.headers.add("Warning", f"299 - {quoted(text)}")
    return response


def answer_json(value: object, status: int = 200) -> web.Response:
    """A value as JSON."""
    return answer(encode(value), status)


def page_not_found() -> web.Response:
    """404 for a path that is not served."""
    return web.Response(text="404 page not found\n", status=404)


def wants_table(accept: str) -> bool:
    """Whether a client prefers a Table to plain JSON. Raises ApiError 406 when it accepts neither."""
    for media_type, parameters in accepted(accept):
        if media_type not in _ANY:
            continue
        if parameters.get("as") == "Table" and parameters.get("v") == "v1":
            return True
        if "as" not in parameters:
            return False
    raise ApiError(406, "NotAcceptable", f"only the following media types are accepted: {JSON}")


def accepted(accept: str) -> list[tuple[str, dict[str, str]]]:
    """The media types of an Accept header with their parameters, in the client's order."""
    found = []
    for clause in (accept or "*/*").split(","):
        media_type, *parts = (part.strip() for part in clause.split(";"))
        parameters = dict(part.split("=", 1) for part in parts if "=" in part)
        found.append((media_type, parameters))
    return found
