"""Objects as a metav1.Table, which is what `kubectl get` shows."""

import json
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Any, Final

from sftjob_sandbox.columns import BUILT_IN, DEFAULT, NAME, Column, Columns
from sftjob_sandbox.durations import age
from sftjob_sandbox.jsonpath import find, parse_path
from sftjob_sandbox.objects import Object, name_of
from sftjob_sandbox.resources import Resource, ServedVersion

_AGE_ONLY: Final[tuple[Object, ...]] = (
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
)  # what a CRD without additionalPrinterColumns shows


@dataclass(frozen=True)
class Tabulator:
    """Makes tables of one resource. `include`: Metadata, Object or None, what a row says beside its cells."""

    resource: Resource
    version: ServedVersion
    include: str = "Metadata"

    def table(self, objects: list[Object], metadata: Object, now: datetime, *, headers: bool = True) -> Object:
        """A table; `metadata` is that of the list. Only the first table of a watch has headers."""
        columns = self._columns()
        definitions = [column.definition() for column in columns.columns] if headers else []
        rows = [self._row(obj, columns.cells(obj, now)) for obj in objects]
        return {
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
            "columnDefinitions": definitions,
            "rows": rows,
        }

    def _columns(self) -> Columns:
        if not self.resource.custom:
            return BUILT_IN.get(self.resource.key, DEFAULT)
        # As on a real server, a path that can not be read ends the columns.
        defined = tuple(takewhile(_is_readable, self.version.columns or _AGE_ONLY))
        shown = tuple(_custom_column(definition) for definition in defined)
        return Columns((NAME, *shown), lambda obj, now: [name_of(obj), *(_cell(d, obj, now) for d in defined)])

    def _row(self, obj: Object, cells: list[Any]) -> Object:
        if self.include == "None":
            return {"cells": cells}
        if self.include == "Object":
            return {"cells": cells, "object": {**obj, "apiVersion": self.resource.api_version(self.version.name)}}
        partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
        return {"cells": cells, "object": partial}


def _is_readable(definition: Object) -> bool:
    try:
        parse_path(definition["jsonPath"])
    except ValueError:
        return False
    return True


def _custom_column(definition: Object) -> Column:
    path = definition["jsonPath"]
    return Column(
        name=definition["name"],
        description=definition.get("description") or f"Custom resource definition column (in JSONPath format): {path}",
        type=definition["type"],
        format=definition.get("format", ""),
        priority=definition.get("priority", 0),
    )


def _cell(definition: Object, obj: Object, now: datetime) -> Any:
    """The first value that the column's path leads to, as its type says; nothing where it does not fit."""
    found = find(obj, definition["jsonPath"])
    if not found or found[0] is None:
        return None
    value, kind = found[0], definition["type"]
    if kind == "string":
        return _text(value)
    if kind == "date":
        return _age(value, now)
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if kind == "integer" else float(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"))


def _age(value: Any, now: datetime) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        return age(value, now)
    except ValueError:
        return "<invalid>"
