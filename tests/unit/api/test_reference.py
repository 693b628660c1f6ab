"""The field reference names every field, and the upstream options that it names exist in the installed libraries."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from sftjob_operator.api.crd import resource_schema
from sftjob_operator.api.reference import reference, upstream_names
from support.checks.upstream import options
from support.jobs.manifests import ROOT

LIBRARY = re.compile(r"\b(TRL|PEFT|transformers|AutoTrain): ")
WRITTEN_SMALL = ("s3:// ", "full, ")
"""Descriptions that begin with a name, which is written small."""


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field below a schema, with its dotted path."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from fields(field.get("items", field), f"{path}.{name}")


ALL_FIELDS = [pair for part in ("spec", "status") for pair in fields(resource_schema()["properties"][part], part)]
UPSTREAM = [
    pytest.param(found[0], option, id=f"{path}-{option}")
    for path, field in ALL_FIELDS
    if (found := upstream_names(field["description"]))
    for option in found[1]
]


def test_every_field_has_a_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", reference(), flags=re.MULTILINE)
    assert sorted(rows) == sorted(path.rpartition(".")[2] for path, _ in ALL_FIELDS)


def test_the_committed_page_is_what_the_models_give() -> None:
    assert (ROOT / "docs" / "reference" / "sftjob.md").read_text(encoding="utf-8") == reference()


def test_a_row_tells_type_default_bounds_and_upstream_name() -> None:
    row = next(line for line in reference().splitlines() if line.startswith("| `maxLength` |"))
    assert row == (
        "| `maxLength` | integer | `1024` | 8 to 1048576 | Longest sequence in tokens; longer rows are cut. "
        "| TRL `max_length` |"
    )


def test_a_map_of_a_library_s_own_options_takes_any_value() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| `extra` |")]
    assert [row.split(" | ")[1] for row in rows] == ["map of any value"] * 2


def test_every_link_has_a_heading() -> None:
    page = reference()
    headings = {re.sub(r"[^a-z0-9]", "", line.lower()) for line in re.findall(r"^## (.*)$", page, flags=re.MULTILINE)}
    assert set(re.findall(r"\(#(\w+)\)", page)) <= headings


@pytest.mark.parametrize(("library", "option"), UPSTREAM)
def test_upstream_options_exist(library: str, option: str) -> None:
    assert option in options(library)


def test_options_of_each_library_are_told() -> None:
    assert {param.values[0] for param in UPSTREAM} == {"TRL", "PEFT", "transformers", "AutoTrain"}


@pytest.mark.parametrize(
    ("description", "found"),
    [
        ("Rank of the matrices. PEFT: r.", ("PEFT", ("r",))),
        (
            "Tokens to train on. TRL: completion_only_loss, assistant_only_loss.",
            ("TRL", ("completion_only_loss", "assistant_only_loss")),
        ),
        ("Share of the teacher. AutoTrain: distill_alpha.", ("AutoTrain", ("distill_alpha",))),
        ("Fields of transformers: many.", ("transformers", ("many",))),
        ("TRL: max_length counts tokens.", None),
        ("No option of a library.", None),
    ],
)
def test_the_option_is_what_a_description_ends_with(
    description: str, found: tuple[str, tuple[str, ...]] | None
) -> None:
    assert upstream_names(description) == found


@pytest.mark.parametrize(("path", "field"), ALL_FIELDS, ids=[path for path, _ in ALL_FIELDS])
def test_a_description_is_whole_sentences_with_the_option_at_the_end(path: str, field: dict[str, Any]) -> None:
    description = field["description"]
    assert re.match(r"[A-Z0-9]", description) or description.startswith(WRITTEN_SMALL), path
    assert description.endswith(".")
    assert len(LIBRARY.findall(description)) == (upstream_names(description) is not None)
