"""Where objects live: one collection per resource, one revision counter for all, and a log of recent changes.

A stored object is never changed in place; every write puts a new one. So readers need no copies, each object is
encoded at most once for all that read or watch it.
"""

import asyncio
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from sftjob_sandbox.apimachinery.objects import Object

Key = tuple[str, str]
"""Namespace (empty for cluster-scoped resources) and name."""
ChangeType = Literal["ADDED", "MODIFIED", "DELETED"]

HISTORY_LIMIT = 8192
"""Changes kept per resource. A watch that needs an older one gets 410 Expired."""


def encode(value: object) -> bytes:
    """Compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class Entry:
    """One state of one object."""

    __slots__ = ("_tail", "object", "revision")

    def __init__(self, obj: Object, revision: int) -> None:
        self.object = obj
        self.revision = revision
        self._tail: bytes | None = None

    def encoded(self, api_version: str) -> bytes:
        """The object as JSON, in `api_version`."""
        return b'{"kind":' + encode(self.object["kind"]) + b',"apiVersion":' + encode(api_version) + b"," + self.tail()

    def encoded_untyped(self) -> bytes:
        """The object as JSON without kind and apiVersion: how built-in objects stand in a list."""
        return b"{" + self.tail()

    def tail(self) -> bytes:
        """The encoding after the opening brace, without kind and apiVersion; made once."""
        if self._tail is None:
            self._tail = encode({k: v for k, v in self.object.items() if k not in ("kind", "apiVersion")})[1:]
        return self._tail


@dataclass(frozen=True, slots=True)
class Change:
    """One write. `entry` of a DELETED change is the last state, with the revision of its removal."""

    type: ChangeType
    key: Key
    entry: Entry
    previous: Entry | None

    @property
    def revision(self) -> int:
        """The revision that the write made."""
        return self.entry.revision


class CompactedError(Exception):
    """A revision that the log no longer reaches back to; it reaches to `oldest`."""

    def __init__(self, oldest: int) -> None:
        super().__init__(oldest)
        self.oldest = oldest


class Collection:
    """All objects of one resource and their recent changes."""

    def __init__(self, start: int) -> None:
        self.entries: dict[Key, Entry] = {}
        self.closed = False
        self._log: list[Change] = []
        self._compacted = start
        self._waiters: set[asyncio.Future[None]] = set()

    def changes_after(self, revision: int) -> list[Change]:
        """Every change later than `revision`, oldest first. Raises CompactedError if some are gone."""
        if revision < self._compacted:
            raise CompactedError(self._compacted)
        return self._log[bisect_right(self._log, revision, key=lambda change: change.revision) :]

    def at(self, revision: int) -> dict[Key, Entry]:
        """The objects as they were at `revision`. Raises CompactedError if that is no longer known."""
        entries = dict(self.entries)
        for change in reversed(self.changes_after(revision)):
            if change.previous is None:
                entries.pop(change.key, None)
            else:
                entries[change.key] = change.previous
        return entries

    async def changed_after(self, revision: int) -> None:
        """Wait until there is a change later than `revision`, or until the collection is closed."""
        while not self.closed and (not self._log or self._log[-1].revision <= revision):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def append(self, change: Change) -> None:
        """Record `change` and wake those who wait for it."""
        if change.type == "DELETED":
            del self.entries[change.key]
        else:
            self.entries[change.key] = change.entry
        self._log.append(change)
        if len(self._log) > 2 * HISTORY_LIMIT:
            self._compacted = self._log[HISTORY_LIMIT - 1].revision
            del self._log[:HISTORY_LIMIT]
        self._wake()

    def close(self) -> None:
        """End every wait: the resource is no longer served."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class Storage:
    """The collections. `listeners` are called after every change, with the resource's key."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self.listeners: list[Callable[[str, Change], None]] = []
        self._collections: dict[str, Collection] = {}

    def __iter__(self) -> Iterator[tuple[str, Collection]]:
        return iter(self._collections.items())

    def collection(self, resource: str) -> Collection:
        """The collection of a resource, named by its plural and group (`sftjobs.sftjob.dev`, `pods`)."""
        found = self._collections.get(resource)
        if found is None:
            found = self._collections[resource] = Collection(self.revision)
        return found

    def drop(self, resource: str) -> None:
        """Forget a resource that is no longer served."""
        if found := self._collections.pop(resource, None):
            found.close()

    def put(self, resource: str, key: Key, obj: Object) -> Entry:
        """Store `obj` under a new revision."""
        previous = self.collection(resource).entries.get(key)
        self.revision += 1
        entry = Entry(_stamped(obj, self.revision), self.revision)
        self._publish(resource, Change("MODIFIED" if previous else "ADDED", key, entry, previous))
        return entry

    def remove(self, resource: str, key: Key) -> Entry:
        """Remove an object and return its last state, with the revision of the removal."""
        previous = self.collection(resource).entries[key]
        self.revision += 1
        entry = Entry(_stamped(previous.object, self.revision), self.revision)
        self._publish(resource, Change("DELETED", key, entry, previous))
        return entry

    def close(self) -> None:
        """End every wait for changes."""
        for collection in self._collections.values():
            collection.close()

    def _publish(self, resource: str, change: Change) -> None:
        self.collection(resource).append(change)
        for listener in self.listeners:
            listener(resource, change)


def select(entries: dict[Key, Entry], keep: Callable[[Key, Entry], bool]) -> Iterable[tuple[Key, Entry]]:
    """The entries that `keep` accepts, ordered as a server lists them: by namespace, then by name."""
    return [(key, entries[key]) for key in sorted(entries) if keep(key, entries[key])]


def _stamped(obj: Object, revision: int) -> Object:
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(revision)}}
