"""Objects as a metav1.Table, which is what `kubectl get` shows."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Any, Final

from sftjob_sandbox.apimachinery.jsonpath import find, parse_path
from sftjob_sandbox.apimachinery.objects import Object, is_deleting, name_of, parse_timestamp
from sftjob_sandbox.storage.resources import Resource, ServedVersion

Cells = Callable[[Object, datetime], list[Any]]
"""(object, now) to the cells of its row."""


@dataclass(frozen=True)
class Column:
    """A metav1.TableColumnDefinition. A priority above 0 is shown by `-o wide` only."""

    name: str
    description: str = ""
    type: str = "string"
    format: str = ""
    priority: int = 0

    def definition(self) -> Object:
        """The column in a table."""
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


@dataclass(frozen=True)
class Columns:
    """The columns of one resource and the function for their cells."""

    columns: tuple[Column, ...]
    cells: Cells

    @classmethod
    def named(cls, names: str, wide: str, cells: Cells) -> "Columns":
        """Columns by their names; those in `wide` are shown by `-o wide` only."""
        shown = [Column(name, format="name" if name == "Name" else "") for name in names.split(", ")]
        return cls((*shown, *(Column(name, priority=1) for name in wide.split(", ") if name)), cells)


NAME: Final = Column("Name", "Name must be unique within a namespace.", format="name")


def _age(obj: Object, now: datetime) -> str:
    return age(obj["metadata"].get("creationTimestamp"), now)


def _pod(pod: Object, now: datetime) -> list[Any]:
    spec, status = pod["spec"], pod.get("status") or {}
    containers = status.get("containerStatuses") or []
    ready = sum(bool(container.get("ready")) for container in containers)
    restarts = str(sum(container.get("restartCount", 0) for container in containers))
    places = [status.get("podIP") or "<none>", spec.get("nodeName") or "<none>"]
    return [name_of(pod), f"{ready}/{len(spec['containers'])}", _pod_reason(pod), restarts, _age(pod, now), *places]


def _pod_reason(pod: Object) -> str:
    status = pod.get("status") or {}
    if is_deleting(pod) and status.get("phase") not in ("Succeeded", "Failed"):
        return "Terminating"
    for container in status.get("containerStatuses") or ():
        state = container.get("state") or {}
        if reason := (state.get("waiting") or state.get("terminated") or {}).get("reason"):
            return str(reason)
    return str(status.get("reason") or status.get("phase") or "")


_ACCESS_MODES: Final = {
    "ReadWriteOnce": "RWO",
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOncePod": "RWOP",
}


def _claim(claim: Object, now: datetime) -> list[Any]:
    spec, status = claim["spec"], claim.get("status") or {}
    bound = status.get("phase") == "Bound"
    return [
        name_of(claim),
        "Terminating" if is_deleting(claim) else status.get("phase", ""),
        spec.get("volumeName", ""),
        (status.get("capacity") or {}).get("storage", "") if bound else "",
        ",".join(_ACCESS_MODES[mode] for mode in status.get("accessModes") or ()) if bound else "",
        spec.get("storageClassName", ""),
        _age(claim, now),
    ]


def _event(event: Object, now: datetime) -> list[Any]:
    involved, source = event["involvedObject"], event.get("source") or {}
    first = event.get("firstTimestamp") or event.get("eventTime")
    return [
        age(event.get("lastTimestamp") or first, now),
        event.get("type", ""),
        event.get("reason", ""),
        "/".join(filter(None, (involved.get("kind", "").lower(), involved.get("name")))),
        (event.get("message") or "").strip(),
        source.get("component") or event.get("reportingComponent") or "",
        age(first, now),
        max(event.get("count") or 0, 1),
        name_of(event),
    ]


def _node(node: Object, now: datetime) -> list[Any]:
    status = node.get("status") or {}
    ready = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}.get("Ready")
    state = "Ready" if ready == "True" else "NotReady" if ready else "Unknown"
    state += ",SchedulingDisabled" if node.get("spec", {}).get("unschedulable") else ""
    return [name_of(node), state, _age(node, now), (status.get("nodeInfo") or {}).get("kubeletVersion", "")]


def _config_map(config: Object, now: datetime) -> list[Any]:
    return [name_of(config), len(config.get("data") or ()) + len(config.get("binaryData") or ()), _age(config, now)]


def _other(obj: Object, _now: datetime) -> list[Any]:
    return [name_of(obj), obj["metadata"].get("creationTimestamp", "")]


DEFAULT: Final = Columns((NAME, Column("Created At", type="date")), _other)

BUILT_IN: Final[Mapping[str, Columns]] = {
    "pods": Columns.named("Name, Ready, Status, Restarts, Age", "IP, Node", _pod),
    "persistentvolumeclaims": Columns.named(
        "Name, Status, Volume, Capacity, Access Modes, StorageClass, Age", "", _claim
    ),
    "events": Columns.named("Last Seen, Type, Reason, Object, Message", "Source, First Seen, Count, Name", _event),
    "nodes": Columns.named("Name, Status, Age, Version", "", _node),
    "configmaps": Columns.named("Name, Data, Age", "", _config_map),
}


_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 31536000


def human_duration(seconds: float) -> str:
    """`5s`, `3m20s`, `2d4h`: the rules of k8s.io/apimachinery/pkg/util/duration.HumanDuration."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    if whole < 2 * _MINUTE:
        return f"{max(whole, 0)}s"
    for limit, unit, letter, rest, rest_letter in (
        (10 * _MINUTE, _MINUTE, "m", 1, "s"),
        (3 * _HOUR, _MINUTE, "m", 0, ""),
        (8 * _HOUR, _HOUR, "h", _MINUTE, "m"),
        (2 * _DAY, _HOUR, "h", 0, ""),
        (8 * _DAY, _DAY, "d", _HOUR, "h"),
        (2 * _YEAR, _DAY, "d", 0, ""),
        (8 * _YEAR, _YEAR, "y", _DAY, "d"),
    ):
        if whole < limit:
            more = whole % unit // rest if rest else 0
            return f"{whole // unit}{letter}" + (f"{more}{rest_letter}" if more else "")
    return f"{whole // _YEAR}y"


def age(timestamp: str | None, now: datetime) -> str:
    """Time since a timestamp; `<unknown>` without one."""
    if not timestamp:
        return "<unknown>"
    return human_duration((now - parse_timestamp(timestamp)).total_seconds())


_AGE_ONLY: Final[tuple[Object, ...]] = (
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
)  # what a CRD without additionalPrinterColumns shows


@dataclass(frozen=True)
class Tabulator:
    """Makes tables of one resource. `include`: Metadata, Object or None, the content of a row besides its cells."""

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
        # As on a real server, a path that cannot be read ends the columns.
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
    """The first value at the column's path, in the column's type; None if it has another type."""
    found = find(obj, definition["jsonPath"])
    if not found or found[0] is None:
        return None
    value, kind = found[0], definition["type"]
    if kind == "string":
        return _text(value)
    if kind == "date":
        return _elapsed(value, now)
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if kind == "integer" else float(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"))


def _elapsed(value: Any, now: datetime) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        return age(value, now)
    except ValueError:
        return "<invalid>"
