"""Watches: the events of one watch, as lines of JSON."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.objects import Object, with_metadata
from sftjob_sandbox.http.listing import ListOptions, Selection
from sftjob_sandbox.http.rendering import Renderer
from sftjob_sandbox.storage.collections import Change, ChangeType, CompactedError, Entry, Storage, encode, select

_INITIAL_EVENTS_END = "k8s.io/initial-events-end"


@dataclass(frozen=True, kw_only=True)
class Watch:
    """One watch."""

    storage: Storage
    resource: str
    selection: Selection
    options: ListOptions
    renderer: Renderer
    bookmark_seconds: float
    timeout_seconds: float

    async def lines(self) -> AsyncIterator[bytes]:
        """All events, until the timeout or until the resource is no longer served."""
        collection = self.storage.collection(self.resource)
        position = self.options.revision
        if self.options.send_initial_events or not position:
            position = self.storage.revision
            yield b"".join(self._initial())
        deadline = time.monotonic() + self.timeout_seconds
        bookmark_at = time.monotonic() + self.bookmark_seconds
        while (now := time.monotonic()) < deadline:
            try:
                lines = [line for change in collection.changes_after(position) if (line := self._line(change))]
            except CompactedError as error:
                yield _expired(position, error.oldest)
                return
            position = max(position, self.storage.revision)
            if now >= bookmark_at:
                bookmark_at = now + self.bookmark_seconds
                if self.options.allow_watch_bookmarks:
                    lines.append(self._bookmark_line({"resourceVersion": str(position)}))
            if lines:
                yield b"".join(lines)
            if collection.closed:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(collection.changed_after(position), min(deadline, bookmark_at) - now)

    def _initial(self) -> list[bytes]:
        entries = select(self.storage.collection(self.resource).entries, self.selection)
        lines = [event_line("ADDED", self.renderer.one(entry)) for _, entry in entries]
        if self.options.send_initial_events and self.options.allow_watch_bookmarks:
            annotations = {_INITIAL_EVENTS_END: "true"}
            metadata: Object = {"resourceVersion": str(self.storage.revision), "annotations": annotations}
            lines.append(self._bookmark_line(metadata))
        return lines

    def _bookmark_line(self, metadata: Object) -> bytes:
        return event_line("BOOKMARK", self.renderer.bookmark({**metadata, "creationTimestamp": None}))

    def _line(self, change: Change) -> bytes | None:
        event = seen(change, self.selection)
        return event_line(event[0], self.renderer.one(event[1])) if event else None


def seen(change: Change, selection: Selection) -> tuple[ChangeType, Entry] | None:
    """How a change looks to a watcher: an object that enters its selection is ADDED, one that leaves it DELETED."""
    now = change.type != "DELETED" and selection(change.key, change.entry)
    before = change.previous is not None and selection(change.key, change.previous)
    if now:
        return ("MODIFIED" if before else "ADDED"), change.entry
    if not before or change.previous is None:
        return None
    if change.type == "DELETED":
        return "DELETED", change.entry
    last = with_metadata(change.previous.object, resourceVersion=str(change.revision))
    return "DELETED", Entry(last, change.revision)


def event_line(event: str, encoded: bytes) -> bytes:
    """One line of a watch's answer."""
    return b'{"type":"' + event.encode() + b'","object":' + encoded + b"}\n"


def _expired(position: int, oldest: int) -> bytes:
    status = ApiError(410, "Expired", f"too old resource version: {position} ({oldest})").status()
    return event_line("ERROR", encode(status))
