"""Watch caches: the newest known version of each object, grouped by job."""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)
Key = tuple[str, str]
"""Namespace and name of an SFTJob."""
_MOST_DIGITS = 64
"""Maximum digits of a resourceVersion that is read as a number."""
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""Exceptions from parsing an object without the structure of a Kubernetes object."""


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    version: int | None
    value: T


class Cache(Generic[T]):
    """Objects of one kind, parsed by `parse` and grouped by `group`: the key of their job, or None for other objects.

    Watch events, responses to the operator's own requests and listings update it in any order: an older version never
    replaces a newer one. (A resourceVersion is a growing decimal number; etcd has always produced one, and since
    Kubernetes 1.35 the API guarantees it. One that is not a number counts as newer.)
    """

    def __init__(
        self, parse: Callable[[Mapping[str, Any]], T], group: Callable[[Mapping[str, Any]], Key | None]
    ) -> None:
        self._parse = parse
        self._group = group
        self._entries: dict[Key, dict[str, _Entry[T]]] = {}
        self._touched: set[tuple[Key, str]] | None = None

    def jobs(self) -> tuple[Key, ...]:
        """Return the jobs of all known objects."""
        return tuple(self._entries)

    def get(self, key: Key) -> tuple[T, ...]:
        """Return all objects of one job."""
        return tuple(entry.value for entry in self._entries.get(key, {}).values())

    def put(self, body: Mapping[str, Any]) -> Key | None:
        """Add a version of an object; return its job, or None if it is not newer.

        The response to the operator's own request is added too, so that the same version from the watch wakes no
        worker.
        """
        try:
            return self._put(body)
        except _UNREADABLE as error:
            log.warning("ignored an update that cannot be read: %s", type(error).__name__)
            return None

    def final_state(self, body: Mapping[str, Any]) -> T | None:
        """Return the last version of a deleted object; None if that cannot be read."""
        try:
            return self._parse(body)
        except _UNREADABLE as error:
            log.warning("cannot read a deleted object: %s", type(error).__name__)
            return None

    def _put(self, body: Mapping[str, Any]) -> Key | None:
        key = self._group(body)
        if key is None:
            return None
        name = body["metadata"]["name"]
        self._touch(key, name)
        if not self._is_newer(key, body):
            return None
        self._entries.setdefault(key, {})[name] = _Entry(_version(body), self._parse(body))
        return key

    def is_new(self, body: Mapping[str, Any]) -> bool:
        """Whether `put` would add this version of an object; its metadata is enough."""
        key = self._group(body)
        return key is not None and self._is_newer(key, body)

    def _is_newer(self, key: Key, body: Mapping[str, Any]) -> bool:
        held, version = self._entries.get(key, {}).get(body["metadata"]["name"]), _version(body)
        return held is None or held.version is None or version is None or version > held.version

    def drop(self, body: Mapping[str, Any]) -> Key | None:
        """Remove a deleted object, unless a newer one has its name; return its job."""
        key = self._group(body)
        if key is None:
            return None
        name, version = body["metadata"]["name"], _version(body)
        self._touch(key, name)
        held = self._entries.get(key, {}).get(name)
        if held is None or held.version is None or version is None or version >= held.version:
            self._remove(key, name)
        return key

    def forget(self, key: Key) -> None:
        """Remove all objects of one job."""
        self._entries.pop(key, None)

    async def replace(self, listing: AsyncIterator[Mapping[str, Any]], namespace: str | None = None) -> None:
        """Add a complete listing and remove what it lacks, except what changed while the listing was read.

        `namespace`: the listed one; objects of others stay. None: all.

        A restarted watch reports what exists, never what was deleted in between; this method detects deletions.
        """
        seen: set[tuple[Key, str]] = set()
        self._touched = touched = set()
        try:
            async for body in listing:
                if (key := self._group(body)) is None:
                    continue
                identity = (key, body["metadata"]["name"])
                seen.add(identity)
                if identity not in touched:
                    self.put(body)
                    touched.discard(identity)
            listed = (item for item in self._entries.items() if namespace in (None, item[0][0]))
            for key, name in [(key, name) for key, names in listed for name in names]:
                if (key, name) not in seen and (key, name) not in touched:
                    self._remove(key, name)
        finally:
            self._touched = None

    def _touch(self, key: Key, name: str) -> None:
        if self._touched is not None:
            self._touched.add((key, name))

    def _remove(self, key: Key, name: str) -> None:
        names = self._entries.get(key, {})
        names.pop(name, None)
        if not names:
            self._entries.pop(key, None)


def _version(body: Mapping[str, Any]) -> int | None:
    text = body["metadata"].get("resourceVersion") or ""
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None
