"""The tables for those who come from another tool: what stands on either side exists, and examples mean the same."""

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml

from sftjob_operator.api import parse_job
from sftjob_operator.api.crd import resource_schema
from sftjob_operator.reconcile.spec.validation import spec_problem
from sftjob_operator.render import run_config
from support.checks.upstream import default_of, options, own_options
from support.clients.kubectl import Kubectl
from support.jobs.builders import UID
from support.jobs.manifests import ROOT, read_manifest

TEXT: Final = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
SECTIONS: Final = {"AutoTrain": "## AutoTrain", "TRL": "## trl sft", "Axolotl": "## Axolotl"}
SPEC: Final = resource_schema()["properties"]["spec"]


def section(tool: str) -> str:
    begin = TEXT.index(f"{SECTIONS[tool]}\n")
    end = TEXT.find("\n## ", begin + 1)
    return TEXT[begin : end if end > 0 else len(TEXT)]


def rows(tool: str, header: str) -> list[list[str]]:
    """Cells of the table that begins with `header`."""
    lines = section(tool).partition(f"{header}\n")[2].splitlines()[1:]
    table = lines[: next((index for index, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    assert table, header
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def option_names(cell: str) -> list[str]:
    """Options of a cell; flags in the form that their libraries give them."""
    return [name.removeprefix("--").replace("-", "_") for name in names(cell)]


def schema_of(field: str) -> dict[str, Any]:
    """Schema of a field of the spec.

    Raises:
        KeyError: there is no such field.
    """
    schema: dict[str, Any] = SPEC
    for part in field.split("."):
        schema = schema.get("items", schema)["properties"][part]
    return schema


MAPPED: Final = {tool: rows(tool, f"| {tool} | field | note |") for tool in SECTIONS}
WITHOUT: Final = {tool: rows(tool, f"| {tool} | instead |") for tool in SECTIONS}


@pytest.mark.parametrize("tool", SECTIONS)
def test_every_option_exists_in_its_tool_and_is_told_once(tool: str) -> None:
    told = [name for row in (*MAPPED[tool], *WITHOUT[tool]) for name in option_names(row[0])]
    assert set(told) - options(tool) == set()
    assert len(told) == len(set(told))


@pytest.mark.parametrize("tool", ["AutoTrain", "Axolotl"])
def test_every_option_that_fine_tuning_knows_is_told(tool: str) -> None:
    told = {name for row in (*MAPPED[tool], *WITHOUT[tool]) for name in option_names(row[0])}
    assert options(tool) - told == set()


@pytest.mark.parametrize(
    "class_name", ["ScriptArguments", "DatasetMixtureConfig", "DatasetConfig", "ModelConfig", "SFTConfig"]
)
def test_every_option_of_trl_s_own_is_told(class_name: str) -> None:
    told = {name for row in (*MAPPED["TRL"], *WITHOUT["TRL"]) for name in option_names(row[0])}
    assert own_options("TRL", class_name) - told == set()


@pytest.mark.parametrize("tool", SECTIONS)
def test_every_field_exists(tool: str) -> None:
    for row in MAPPED[tool]:
        assert names(row[1]), row
        for field in names(row[1]):
            assert schema_of(field)
    in_sentences = [name for row in MAPPED[tool] for name in names(row[2])]
    in_sentences += [name for row in WITHOUT[tool] for name in names(row[1])]
    for name in in_sentences:
        if (field := name.partition(":")[0]).split(".")[0] in SPEC["properties"]:
            assert schema_of(field)


def test_no_other_text_names_a_field_that_is_not_there() -> None:
    prose = re.sub(r"^(```.*?^```|\|.*?$)", "", TEXT, flags=re.DOTALL | re.MULTILINE)
    fields = [name.partition(":")[0] for name in names(prose)]
    assert all(schema_of(field) for field in fields if "." in field and field.split(".")[0] in SPEC["properties"])


def test_the_defaults_of_trl_are_those_of_the_installed_one_and_ours_those_of_a_bare_job() -> None:
    training = run_config(parse_job(a_job(minimal()))).training
    for option, theirs, ours in rows("TRL", "| option | TRL | here |"):
        (field,) = [names(row[1])[0] for row in MAPPED["TRL"] if option_names(row[0]) == names(option)]
        assert str(default_of("TRL", names(option)[0])) == theirs
        assert str(getattr(training, re.sub("([A-Z])", r"_\1", field.partition(".")[2]).lower())) == ours
        assert theirs != ours


def minimal() -> dict[str, Any]:
    return read_manifest((ROOT / "crds" / "samples" / "minimal.yaml").read_text(encoding="utf-8"))


def a_job(manifest: dict[str, Any]) -> dict[str, Any]:
    return {**manifest, "metadata": {**manifest["metadata"], "namespace": "team", "uid": UID}}


def after(tool: str) -> str:
    """The SFTJob of a section."""
    (block,) = re.findall(r"^```yaml\n(apiVersion: .*?)^```", section(tool), re.DOTALL | re.MULTILINE)
    return str(block)


def before(tool: str) -> dict[str, Any]:
    """What stood there: options and their values."""
    if tool == "AutoTrain":
        (command,) = re.findall(r"^```text\n(.*?)^```", section(tool), re.DOTALL | re.MULTILINE)
        pairs = re.findall(r"--([a-z0-9-]+) (?!--)(\S+)", command.replace("\\\n", ""))
        return {name.replace("-", "_"): yaml.safe_load(value) for name, value in pairs}
    block = re.findall(r"^```yaml\n((?!apiVersion).*?)^```", section(tool), re.DOTALL | re.MULTILINE)
    values: dict[str, Any] = read_manifest(block[0])
    return values


def value_of(spec: dict[str, Any], field: str) -> Any:
    value: Any = spec
    for part in field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def numbers_on_both_sides(tool: str) -> Iterator[tuple[str, float, Any]]:
    spec = read_manifest(after(tool))["spec"]
    field_of = {name: names(row[1]) for row in MAPPED[tool] for name in option_names(row[0])}
    for option, value in before(tool).items():
        number = float(value) if re.fullmatch(r"[0-9.]+(e-?[0-9]+)?", str(value)) else None
        if number is not None:
            given = [found for field in field_of[option] if (found := value_of(spec, field)) is not None]
            yield option, number, given


@pytest.mark.parametrize("tool", SECTIONS)
def test_the_numbers_before_are_the_numbers_after(tool: str) -> None:
    compared = list(numbers_on_both_sides(tool))
    assert len(compared) >= 8
    for option, number, given in compared:
        assert number in given, option


@pytest.mark.parametrize("tool", SECTIONS)
def test_every_option_of_the_example_is_in_the_tables(tool: str) -> None:
    told = {name for row in (*MAPPED[tool], *WITHOUT[tool]) for name in option_names(row[0])}
    assert set(before(tool)) - told == set()


@pytest.mark.parametrize("tool", SECTIONS)
def test_the_example_is_accepted_and_understood(kubectl: Kubectl, tool: str) -> None:
    manifest = read_manifest(after(tool))
    assert spec_problem(parse_job(a_job(manifest))) is None
    created = kubectl("create", "--dry-run=server", "--validate=strict", "-o", "name", "-f", "-", text=after(tool))
    assert created == f"sftjob.sftjob.dev/{manifest['metadata']['name']}\n"
