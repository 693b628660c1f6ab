"""Requests for resources: from an authorized request to its answer."""

import contextlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web
from multidict import MultiMapping

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.objects import Object, name_of, namespace_of, uid_of
from sftjob_sandbox.cluster.store import Store
from sftjob_sandbox.http import pod_logs
from sftjob_sandbox.http.answers import JSON, answer, answer_json, page_not_found, wants_table
from sftjob_sandbox.http.auth import User
from sftjob_sandbox.http.discovery import WITHOUT_DELETE_COLLECTION
from sftjob_sandbox.http.listing import Selection, list_page, parse_list_options
from sftjob_sandbox.http.rendering import Plain, Renderer, Rows
from sftjob_sandbox.http.requests import RequestInfo
from sftjob_sandbox.http.reviews import answer_token_request
from sftjob_sandbox.http.table import Tabulator
from sftjob_sandbox.http.watch import Watch
from sftjob_sandbox.http.write_options import delete_options_of_query, parse_write_options
from sftjob_sandbox.storage.bodies import parse_body, parse_json, parse_yaml, read_body, unsupported_media_type
from sftjob_sandbox.storage.collections import Entry
from sftjob_sandbox.storage.deletion import DeleteOptions, parse_delete_options
from sftjob_sandbox.storage.resources import Resource, ServedVersion
from sftjob_sandbox.storage.writes import APPLY_PATCH, JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, Target, Written

_WATCH_SECONDS: Final = 1800.0
"""Shortest time that a watch stays open without timeoutSeconds; the longest is twice that, as on a real server."""
_NOT_IMPLEMENTED: Final = {
    "pods": ("attach", "binding", "ephemeralcontainers", "eviction", "exec", "portforward", "proxy", "resize"),
    "nodes": ("proxy",),
    "namespaces": ("finalize",),
}


@dataclass(frozen=True)
class Call:
    """One request for a resource, by a user who may make it."""

    http: web.Request
    info: RequestInfo
    user: User
    resource: Resource
    version: ServedVersion

    @property
    def query(self) -> MultiMapping[str]:
        """The query parameters."""
        return self.http.query

    @property
    def target(self) -> Target:
        """What the path names."""
        namespace = self.info.namespace if self.resource.namespaced else ""
        status = self.info.subresource == "status"
        return Target(
            resource=self.resource, version=self.version, namespace=namespace, name=self.info.name, status=status
        )


class ResourceRoutes:
    """Answers requests for resources. `data` is the node's directory, where Pods' logs are stored."""

    def __init__(self, store: Store, data: Path, bookmark_seconds: float) -> None:
        self._store = store
        self._data = data
        self._bookmark_seconds = bookmark_seconds

    async def answer(self, call: Call) -> web.StreamResponse:
        """The answer. Raises ApiError."""
        if call.info.subresource not in ("", "status"):
            return await self._subresource(call)
        if call.info.subresource and "status" not in call.version.subresources:
            return page_not_found()
        if not _is_allowed(call):
            raise _method_not_allowed(call)
        answers = {
            "get": self._get,
            "list": self._list,
            "watch": self._watch,
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }
        return await answers[call.info.verb](call)

    async def _get(self, call: Call) -> web.StreamResponse:
        return answer(self._renderer(call).one(self._store.writer.live(call.target)))

    async def _list(self, call: Call) -> web.StreamResponse:
        return answer(self._renderer(call).many(*self._page(call)))

    async def _watch(self, call: Call) -> web.StreamResponse:
        options = parse_list_options(call.query)
        watch = Watch(
            storage=self._store.storage,
            resource=call.resource.key,
            selection=Selection(call.resource, call.info.namespace, options, call.info.name),
            options=options,
            renderer=self._renderer(call),
            bookmark_seconds=self._bookmark_seconds,
            timeout_seconds=options.timeout_seconds or _WATCH_SECONDS * (1 + random.random()),  # noqa: S311 -- a spread
        )
        response = web.StreamResponse(headers={"Content-Type": JSON, "Cache-Control": "no-cache, private"})
        await response.prepare(call.http)
        with contextlib.suppress(ConnectionError):
            async for lines in watch.lines():
                await response.write(lines)
        return response

    async def _create(self, call: Call) -> web.StreamResponse:
        body = parse_body(call.http.content_type, await read_body(call.http))
        options = parse_write_options("CreateOptions", call.query, call.http.headers.get("User-Agent", ""))
        return _written(call, self._store.writer.create(call.target, body, options))

    async def _update(self, call: Call) -> web.StreamResponse:
        body = parse_body(call.http.content_type, await read_body(call.http))
        options = parse_write_options("UpdateOptions", call.query, call.http.headers.get("User-Agent", ""))
        return _written(call, self._store.writer.update(call.target, body, options))

    async def _patch(self, call: Call) -> web.StreamResponse:
        kinds = [JSON_PATCH, MERGE_PATCH, APPLY_PATCH]
        if not call.resource.custom:
            kinds.insert(2, STRATEGIC_MERGE_PATCH)
        kind = call.http.content_type
        if kind not in kinds:
            raise unsupported_media_type(*kinds)
        raw = await read_body(call.http)
        agent = call.http.headers.get("User-Agent", "")
        options = parse_write_options("PatchOptions", call.query, agent, apply=kind == APPLY_PATCH)
        patch = parse_yaml(raw) if kind == APPLY_PATCH else parse_json(raw)
        return _written(call, self._store.writer.patch(call.target, kind, patch, options))

    async def _delete(self, call: Call) -> web.StreamResponse:
        deleted = self._store.writer.delete(call.target, await _delete_options(call))
        if deleted.gone and not call.resource.returns_deleted:
            return answer_json(_success(call.resource, deleted.entry.object))
        return answer(deleted.entry.encoded(call.target.api_version))

    async def _delete_collection(self, call: Call) -> web.StreamResponse:
        if call.resource.key in WITHOUT_DELETE_COLLECTION:
            raise _method_not_allowed(call)
        options = await _delete_options(call)
        entries, _ = self._page(call)
        for entry in entries:
            key = (namespace_of(entry.object), name_of(entry.object))
            self._store.writer.delete(Target.of(call.resource, key), options)
        metadata = {"resourceVersion": str(self._store.storage.revision)}
        return answer(self._renderer(call).many(entries, metadata))

    async def _subresource(self, call: Call) -> web.StreamResponse:
        name, plural = call.info.subresource, call.info.resource
        if name == "log" and plural == "pods" and call.info.verb == "get":
            return await pod_logs.answer_log(self._store, self._data, call.target, call.http)
        if name == "token" and plural == "serviceaccounts" and call.info.verb == "create":
            body = parse_body(call.http.content_type, await read_body(call.http))
            return answer_json(answer_token_request(self._store, call.info.namespace, call.info.name, body), 201)
        if name in call.version.subresources:
            raise _method_not_allowed(call)
        known = _NOT_IMPLEMENTED.get(call.resource.key, ("scale",) if call.resource.custom else ())
        if name.split("/")[0] in known:
            raise ApiError(501, "NotImplemented", f"this emulator does not implement {plural}/{name}")
        return page_not_found()

    def _page(self, call: Call) -> tuple[list[Entry], Object]:
        options = parse_list_options(call.query)
        selection = Selection(call.resource, call.info.namespace, options)
        collection = self._store.storage.collection(call.resource.key)
        return list_page(collection, self._store.storage.revision, selection, options)

    def _renderer(self, call: Call) -> Renderer:
        if wants_table(call.http.headers.get("Accept", "")):
            include = call.query.get("includeObject", "Metadata")
            return Rows(Tabulator(call.resource, call.version, include), self._store.clock)
        return Plain(call.resource, call.version.name)


async def _delete_options(call: Call) -> DeleteOptions:
    """Options of a DELETE, from its body or else from the query. Raises ApiError 400 or 422."""
    raw = await read_body(call.http)
    if not raw:
        return parse_delete_options(delete_options_of_query(call.http.query))
    body = parse_body(call.http.content_type, raw)
    if not isinstance(body, dict) or body.get("kind", "DeleteOptions") != "DeleteOptions":
        raise ApiError(400, "BadRequest", "decoded object cannot be converted to DeleteOptions")
    return parse_delete_options(body)


def _written(call: Call, written: Written) -> web.Response:
    body = written.entry.encoded(call.target.api_version)
    notice = (call.version.notice,) if call.version.notice else ()
    return answer(body, 201 if written.created else 200, (*written.warnings, *notice))


def _success(resource: Resource, obj: Object) -> Object:
    """The answer to a DELETE that needs no object."""
    group = {"group": resource.group} if resource.group else {}
    details = {"name": name_of(obj), **group, "kind": resource.plural, "uid": uid_of(obj)}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _is_allowed(call: Call) -> bool:
    """Whether the verb fits what the path names: an object, its status, or a collection (in a namespace or in all)."""
    info = call.info
    if info.subresource:
        return bool(info.name) and info.verb in ("get", "update", "patch")
    if info.verb in ("list", "watch"):
        return True
    if call.resource.namespaced and not info.namespace:
        return False
    return info.verb in (("get", "update", "patch", "delete") if info.name else ("create", "deletecollection"))


def _method_not_allowed(call: Call) -> ApiError:
    resource = call.resource
    details = ({"group": resource.group} if resource.group else {}) | {"kind": resource.plural}
    text = f'{call.info.verb} is not supported on resources of kind "{resource.key}"'
    return ApiError(405, "MethodNotAllowed", text, details)
