"""The forms of objects in responses: plain or as rows of a table, one by one or in a list."""

from collections.abc import Iterable

from sftjob_sandbox.apimachinery.objects import Clock, Object
from sftjob_sandbox.http.table import Tabulator
from sftjob_sandbox.storage.collections import Entry, encode
from sftjob_sandbox.storage.resources import Resource


class Plain:
    """Objects as they are, in one version."""

    def __init__(self, resource: Resource, version: str) -> None:
        self._resource = resource
        self._api_version = resource.api_version(version)

    def one(self, entry: Entry) -> bytes:
        """The object."""
        return entry.encoded(self._api_version)

    def many(self, entries: list[Entry], metadata: Object) -> bytes:
        """A list. Items of built-in kinds do not repeat kind and apiVersion, as on a real server."""
        items: Iterable[bytes]
        if self._resource.custom:
            items = (entry.encoded(self._api_version) for entry in entries)
        else:
            items = (entry.encoded_untyped() for entry in entries)
        head = {"kind": self._resource.list_kind, "apiVersion": self._api_version, "metadata": metadata}
        return encode(head)[:-1] + b',"items":[' + b",".join(items) + b"]}"

    def bookmark(self, metadata: Object) -> bytes:
        """An object with nothing but metadata."""
        return encode({"kind": self._resource.kind, "apiVersion": self._api_version, "metadata": metadata})


class Rows:
    """Objects as rows of tables. Only the first table of a watch has columns."""

    def __init__(self, tabulator: Tabulator, clock: Clock) -> None:
        self._tabulator = tabulator
        self._clock = clock
        self._headers = True

    def one(self, entry: Entry) -> bytes:
        """A table of one row."""
        metadata = {"resourceVersion": entry.object["metadata"].get("resourceVersion", "")}
        return self.many([entry], metadata)

    def many(self, entries: list[Entry], metadata: Object) -> bytes:
        """A table."""
        objects = [entry.object for entry in entries]
        table = self._tabulator.table(objects, metadata, self._clock(), headers=self._headers)
        self._headers = False
        return encode(table)

    def bookmark(self, metadata: Object) -> bytes:
        """A table without rows."""
        return self.many([], metadata)


Renderer = Plain | Rows
