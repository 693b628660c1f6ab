"""Mapping of spec fields to library options, from the fields' descriptions."""

from collections.abc import Iterator, Mapping
from functools import cache

from sftjob_operator.api.crd import Schema, resource_schema
from sftjob_operator.api.reference import upstream_names


@cache
def fields_of_options() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """By library (TRL, PEFT, transformers) and option: paths of the fields that set it, such as spec.training.seed.

    Several fields may set one option, as spec.tracking does for TRL's report_to.
    """
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for path, library, option in _entries(resource_schema()["properties"]["spec"], "spec"):
        options = found.setdefault(library, {})
        options[option] = (*options.get(option, ()), path)
    return found


def _entries(schema: Schema, path: str) -> Iterator[tuple[str, str, str]]:
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        if named := upstream_names(field["description"]):
            library, options = named
            yield from ((here, library, option) for option in options)
        yield from _entries(field, here)
