"""The field reference names every field, and the upstream options that it names exist in the installed libraries."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sftjob_operator.api.crd import resource_schema
from sftjob_operator.api.reference import reference, upstream_names
from support.manifests import ROOT

SOURCES = {
    "TRL": ("trl/trainer/sft_config.py", "trl/trainer/base_config.py", "transformers/training_args.py"),
    "PEFT": ("peft/tuners/lora/config.py",),
    "transformers": ("transformers/utils/quantization_config.py", "transformers/models/auto/auto_factory.py"),
}


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


def test_every_link_has_a_heading() -> None:
    page = reference()
    headings = {re.sub(r"[^a-z0-9]", "", line.lower()) for line in re.findall(r"^## (.*)$", page, flags=re.MULTILINE)}
    assert set(re.findall(r"\(#(\w+)\)", page)) <= headings


@pytest.mark.parametrize(("library", "option"), UPSTREAM)
def test_upstream_options_exist(library: str, option: str) -> None:
    root = Path(str(find_spec("peft").origin)).parents[1]  # type: ignore[union-attr]  # installed for tests
    sources = [root / name for name in SOURCES[library] if (root / name).is_file()]
    told = re.compile(rf"^\s+{option}\s*[:=]|[\"']{option}[\"']", flags=re.MULTILINE)
    assert any(told.search(path.read_text(encoding="utf-8")) for path in sources)
