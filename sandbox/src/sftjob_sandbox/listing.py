"""Which objects a list or watch is about, and a list's pages."""

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sftjob_sandbox.causes import forbidden, not_supported
from sftjob_sandbox.errors import ApiError, Cause, invalid
from sftjob_sandbox.objects import Object
from sftjob_sandbox.resources import Resource, ServedVersion
from sftjob_sandbox.selectors import field_selector, label_selector
from sftjob_sandbox.storage import Collection, CompactedError, Entry, Key, select

_NOT_OLDER_THAN: Final = "NotOlderThan"
_EXACT: Final = "Exact"
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


@dataclass(frozen=True)
class Page:
    """One page of a list. `remaining`: how many objects follow, where that is known."""

    entries: list[Entry]
    revision: int
    continue_token: str = ""
    remaining: int | None = None


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
    causes = _watch_causes(options) if options.watch else _list_causes(options)
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

    def __init__(
        self, resource: Resource, version: ServedVersion, namespace: str, options: ListOptions, name: str = ""
    ) -> None:
        """Raises ApiError 400 for a selector that can not be read."""
        self._namespace = namespace
        self._name = name
        self._labels = label_selector(options.label_selector) if options.label_selector else None
        self._fields: Callable[[Object], bool] | None = None
        if options.field_selector:
            self._fields = field_selector(
                options.field_selector, resource.kind, custom=resource.custom, selectable=version.selectable
            )

    @property
    def everything(self) -> bool:
        """Whether only the namespace narrows the selection."""
        return not (self._name or self._labels or self._fields)

    def __call__(self, key: Key, entry: Entry) -> bool:
        """Whether the object belongs to the selection."""
        if (self._namespace and key[0] != self._namespace) or (self._name and key[1] != self._name):
            return False
        if self._labels and not self._labels(entry.object["metadata"].get("labels") or {}):
            return False
        return self._fields is None or self._fields(entry.object)


def list_page(collection: Collection, revision: int, selection: Selection, options: ListOptions) -> Page:
    """One page of the objects as they were at one revision. Raises ApiError 410 when that is no longer known."""
    start: Key = ("", "")
    limit = options.limit
    if options.continue_token:
        revision, start = _parse_token(options.continue_token)
    elif options.resource_version_match == _EXACT:
        revision = options.revision
    elif options.revision > revision:
        raise _too_large(options.revision, revision)
    elif options.resource_version == "0":
        limit = 0  # answered from the watch cache, which knows no pages
    try:
        entries = collection.at(revision)
    except CompactedError as error:
        raise ApiError(410, "Expired", _TOO_OLD) from error
    found = [(key, entry) for key, entry in select(entries, selection) if key > start]
    if not limit or len(found) <= limit:
        return Page([entry for _, entry in found], revision)
    remaining = len(found) - limit if selection.everything else None
    return Page([entry for _, entry in found[:limit]], revision, _token(revision, found[limit - 1][0]), remaining)


def _list_causes(options: ListOptions) -> list[Cause]:
    texts, match = [], options.resource_version_match
    if match and not options.resource_version:
        texts.append("resourceVersionMatch is forbidden unless resourceVersion is provided")
    if match and options.continue_token:
        texts.append("resourceVersionMatch is forbidden when continue is provided")
    if match == _EXACT and options.resource_version == "0":
        texts.append('resourceVersionMatch "exact" is forbidden for resourceVersion "0"')
    causes = [forbidden("resourceVersionMatch", text) for text in texts]
    if match and match not in (_EXACT, _NOT_OLDER_THAN):
        causes.append(not_supported("resourceVersionMatch", match, (_EXACT, _NOT_OLDER_THAN, "")))
    if options.send_initial_events is not None:
        causes.append(forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"))
    return causes


def _watch_causes(options: ListOptions) -> list[Cause]:
    texts, match = [], options.resource_version_match
    if options.send_initial_events is not None and match != _NOT_OLDER_THAN:
        texts.append(f"sendInitialEvents requires setting resourceVersionMatch to {_NOT_OLDER_THAN}")
    if match and options.send_initial_events is None:
        texts.append("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
    causes = [forbidden("resourceVersionMatch", text) for text in texts]
    if match and match != _NOT_OLDER_THAN:
        causes.append(not_supported("resourceVersionMatch", match, (_NOT_OLDER_THAN,)))
    return causes


def _too_large(asked: int, revision: int) -> ApiError:
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    text = f"Timeout: Too large resource version: {asked}, current: {revision}"
    return ApiError(504, "Timeout", text, {"causes": causes, "retryAfterSeconds": 1})


def _token(revision: int, last: Key) -> str:
    text = json.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": "/".join(last)})
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def _parse_token(token: str) -> tuple[int, Key]:
    try:
        parsed: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token + "=="))
        namespace, name = parsed["start"].split("/")
        return int(parsed["rv"]), (namespace, name)
    except (binascii.Error, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ApiError(400, "BadRequest", f"continue key is not valid: {token}") from error
