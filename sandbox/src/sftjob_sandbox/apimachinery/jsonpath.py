"""The simple JSON paths of printer columns: `.spec.x`, `['a.b']`, `[0]`, `[*]`, `[?(@.type=="Ready")]`. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

_STEP: Final = re.compile(
    r"""\.(?P<field>(?:[^.\[\]\\'"]|\\.)+)
      | \[(?P<quote>['"])(?P<quoted>(?:[^'"\\]|\\.)*)(?P=quote)\]
      | \[(?P<index>-?\d+|\*)\]
      | \[\?\(@\.(?P<key>[\w.\-/]+)\s*==\s*(?P<mark>['"])(?P<value>[^'"]*)(?P=mark)\)\]
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Step:
    """One step of a path: into a field, an item (None: all items), or the items whose `key` has the value."""

    field: str | None = None
    index: int | None = None
    key: tuple[str, ...] = ()
    value: str = ""


@cache
def parse_path(path: str) -> tuple[Step, ...]:
    """The steps of a path. Raises ValueError for one that is not simple."""
    text = path.strip().removeprefix("$")
    steps, position = [], 0
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None:
            raise ValueError(f"unrecognized JSON path {path!r} at character {position}")
        steps.append(_step(match))
        position = match.end()
    return tuple(steps)


def find(obj: Any, path: str) -> list[Any]:
    """Every value that the path leads to; none where a key is missing."""
    found = [obj]
    for step in parse_path(path):
        found = [value for start in found for value in _follow(start, step)]
    return found


def _step(match: re.Match[str]) -> Step:
    groups = match.groupdict()
    name = groups["field"] if groups["field"] is not None else groups["quoted"]
    if name is not None:
        return Step(field=re.sub(r"\\(.)", r"\1", name))
    if groups["index"] is not None:
        return Step(index=None if groups["index"] == "*" else int(groups["index"]))
    return Step(key=tuple(groups["key"].split(".")), value=groups["value"])


def _follow(start: Any, step: Step) -> Iterable[Any]:
    if step.field is not None:
        return [start[step.field]] if isinstance(start, dict) and step.field in start else []
    if not isinstance(start, list):
        return []
    if step.key:
        return [item for item in start if _at(item, step.key) == step.value]
    if step.index is None:
        return start
    return start[step.index :][:1]


def _at(item: Any, key: tuple[str, ...]) -> Any:
    for part in key:
        item = item.get(part) if isinstance(item, dict) else None
    return item
