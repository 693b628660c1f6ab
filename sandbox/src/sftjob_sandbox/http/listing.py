"""Which objects a list or watch is about, and the pages of a list."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from sftjob_sandbox.apimachinery.causes import forbidden, not_supported
from sftjob_sandbox.apimachinery.errors import ApiError, invalid
from sftjob_sandbox.apimachinery.objects import Object
from sftjob_sandbox.apimachinery.selectors import field_selector, label_selector
from sftjob_sandbox.storage.collections import Collection, CompactedError, Entry, Key, select
from sftjob_sandbox.storage.resources import Resource

_NOT_OLDER_THAN: Final = "NotOlderThan"
_TOO_OLD: Final = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter."
)


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """The query parameters of a list or watch, as metav1.ListOptions."""

    label_selector: str = ""
    field_selector: str = ""
    limit: int = 0
    continue_token: str = ""
    resource_version: str = ""
    resource_version_match: str = ""
    watch: bool = False
    timeout_seconds: int | None = None
    allow_watch_bookmarks: bool = False
    send_initial_events: bool | None = None

    @property
    def revision(self) -> int:
        """`resource_version` as a number; 0 when it is not given."""
        return int(self.resource_version or 0)


def parse_list_options(query: Mapping[str, str]) -> ListOptions:
    """Read the query of a list or watch. Raises ApiError 400 or 422."""
    options = ListOptions(
        label_selector=query.get("labelSelector", ""),
        field_selector=query.get("fieldSelector", ""),
        limit=integer(query, "limit") or 0,
        continue_token=query.get("continue", ""),
        resource_version=query.get("resourceVersion", ""),
        resource_version_match=query.get("resourceVersionMatch", ""),
        watch=flag(query, "watch"),
        timeout_seconds=integer(query, "timeoutSeconds"),
        allow_watch_bookmarks=flag(query, "allowWatchBookmarks"),
        send_initial_events=flag(query, "sendInitialEvents") if "sendInitialEvents" in query else None,
    )
    if options.resource_version and not options.resource_version.isdecimal():
        text = f'strconv.ParseUint: parsing "{options.resource_version}": invalid syntax'
        raise ApiError(400, "BadRequest", f'resourceVersion: Invalid value: "{options.resource_version}": {text}')
    match, causes = options.resource_version_match, []
    if match not in ("", _NOT_OLDER_THAN):
        causes.append(not_supported("resourceVersionMatch", match, (_NOT_OLDER_THAN,)))
    if options.send_initial_events is not None and not (options.watch and match):
        text = f"sendInitialEvents requires setting resourceVersionMatch to {_NOT_OLDER_THAN}"
        causes.append(forbidden("resourceVersionMatch", text))
    if causes:
        raise invalid("ListOptions", "meta.k8s.io", "", causes)
    return options


def flag(query: Mapping[str, str], name: str) -> bool:
    """A boolean of the query, read as apimachinery does: everything but nothing, 0 and false is true."""
    return name in query and query[name].lower() not in ("false", "0")


def integer(query: Mapping[str, str], name: str) -> int | None:
    """A whole number of the query, None when it is not given. Raises ApiError 400."""
    text = query.get(name)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise ApiError(400, "BadRequest", f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


class Selection:
    """The objects of a collection that a request is about."""

    def __init__(self, resource: Resource, namespace: str, options: ListOptions, name: str = "") -> None:
        """Raises ApiError 400 for a selector that cannot be read."""
        self._namespace = namespace
        self._name = name
        self._labels = label_selector(options.label_selector) if options.label_selector else None
        self.everything = not (options.label_selector or options.field_selector)
        self._fields: Callable[[Object], bool] | None = None
        if options.field_selector:
            self._fields = field_selector(options.field_selector, resource.kind)

    def __call__(self, key: Key, entry: Entry) -> bool:
        """Whether the object belongs to the selection."""
        if (self._namespace and key[0] != self._namespace) or (self._name and key[1] != self._name):
            return False
        if self._labels and not self._labels(entry.object["metadata"].get("labels") or {}):
            return False
        return self._fields is None or self._fields(entry.object)


def list_page(
    collection: Collection, revision: int, selection: Selection, options: ListOptions
) -> tuple[list[Entry], Object]:
    """The objects of a page, as they were when the first page was listed, and the metadata of the list.

    Raises ApiError: 400 for an invalid continue token, 410 for one that is too old, 504 for a revision in the future.
    """
    entries, last = collection.entries, ("", "")
    if options.continue_token:
        revision, last = _parse_token(options)
        try:
            entries = collection.at(revision)
        except CompactedError as error:
            raise ApiError(410, "Expired", _TOO_OLD) from error
    elif options.revision > revision:
        raise _too_large(options.revision, revision)
    found = [(key, entry) for key, entry in select(entries, selection) if key > last]
    metadata: Object = {"resourceVersion": str(revision)}
    limit = 0 if options.resource_version == "0" else options.limit  # "0": from the watch cache, which has no pages
    if 0 < limit < len(found):
        metadata["continue"] = _token(revision, found[limit - 1][0])
        metadata |= {"remainingItemCount": len(found) - limit} if selection.everything else {}
        found = found[:limit]
    return [entry for _, entry in found], metadata


def _token(revision: int, last: Key) -> str:
    text = json.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": "/".join(last)})
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def _parse_token(options: ListOptions) -> tuple[int, Key]:
    if options.resource_version not in ("", "0"):
        raise ApiError(400, "BadRequest", "specifying resource version is not allowed when using continue")
    try:
        token = json.loads(base64.urlsafe_b64decode(options.continue_token + "=="))
        namespace, name = token["start"].split("/")
        return int(token["rv"]), (namespace, name)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        text = f"invalid continue token: continue key is not valid: {options.continue_token}"
        raise ApiError(400, "BadRequest", text) from error


def _too_large(asked: int, revision: int) -> ApiError:
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    text = f"Timeout: Too large resource version: {asked}, current: {revision}"
    return ApiError(504, "Timeout", text, {"causes": causes, "retryAfterSeconds": 1})
