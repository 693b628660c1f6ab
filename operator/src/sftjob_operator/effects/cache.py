"""What the watches have reported so far: the newest known version of each object, grouped by the job it belongs to."""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)
Key = tuple[str, str]
"""Namespace and name of an SFTJob."""
_MOST_DIGITS = 64
"""Of a resourceVersion that is read as a number."""
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What parsing an object of another shape than Kubernetes' own raises."""


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    version: int | None
    value: T


class Cache(Generic[T]):
    """Objects of one kind, parsed by `parse` and grouped by `group`: the key of their job, or None for strangers.

    It is fed by watch events, by the answers to our own requests and by listings, in any order: an older version
    never replaces a newer one. (A resourceVersion is a growing decimal number; etcd has always given one, and since
    Kubernetes 1.35 the API promises it. One that is no number is taken as newer.)
    """

    def __init__(
        self, parse: Callable[[Mapping[str, Any]], T], group: Callable[[Mapping[str, Any]], Key | None]
    ) -> None:
        self._parse = parse
        self._group = group
        self._entries: dict[Key, dict[str, _Entry[T]]] = {}
        self._touched: set[tuple[Key, str]] | None = None

    def jobs(self) -> tuple[Key, ...]:
        """The jobs that something is known of."""
        return tuple(self._entries)

    def of(self, key: Key) -> tuple[T, ...]:
        """All objects of one job."""
        return tuple(entry.value for entry in self._entries.get(key, {}).values())

    def put(self, body: Mapping[str, Any]) -> Key | None:
        """Take in a version of an object; answers the job it belongs to, or None if it is no news.

        Whoever puts in the answer to a request of its own knows it already, so that the watch's echo wakes nobody.
        """
        try:
            return self._put(body)
        except _UNREADABLE as error:
            log.warning("an object that cannot be read is left as it was last seen: %s", type(error).__name__)
            return None

    def last_words(self, body: Mapping[str, Any]) -> T | None:
        """What the object was when it went; None if that cannot be read."""
        try:
            return self._parse(body)
        except _UNREADABLE as error:
            log.warning("an object that is gone cannot be read: %s", type(error).__name__)
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

    def is_news(self, body: Mapping[str, Any]) -> bool:
        """Whether `put` would take in this version of an object; its metadata is enough."""
        key = self._group(body)
        return key is not None and self._is_newer(key, body)

    def _is_newer(self, key: Key, body: Mapping[str, Any]) -> bool:
        held, version = self._entries.get(key, {}).get(body["metadata"]["name"]), _version(body)
        return held is None or held.version is None or version is None or version > held.version

    def drop(self, body: Mapping[str, Any]) -> Key | None:
        """Forget an object that is gone, unless a newer one has its name; answers the job it belonged to."""
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
        """Forget all objects of one job."""
        self._entries.pop(key, None)

    async def replace(self, listing: AsyncIterator[Mapping[str, Any]], namespace: str | None = None) -> None:
        """Take in a complete listing and forget what it lacks, save what changed while the listing was read.

        `namespace`: the one that was listed; objects of others stay. None: all were.

        A watch that had to start anew tells of what exists, never of what went away in between; this finds it.
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
