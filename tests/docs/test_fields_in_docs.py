"""Fields, defaults and printed tables in the documents are those of the resource."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from sftjob_operator.api.conditions import ConditionReason
from sftjob_operator.api.v1alpha1.status import Phase
from support.jobs.doc_blocks import DOCUMENTS, ROOT, blocks

VERSION = yaml.safe_load((ROOT / "crds/sftjobs.yaml").read_text(encoding="utf-8"))["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]["properties"]
SPEC = SCHEMA["spec"]["properties"]
ANSWERS = ["docs/your-data.md", "docs/is-it-learning.md", "docs/concepts.md", "docs/why-sftjob.md"]
"""Pages in which every name with a capital inside is a field of the resource."""
OTHERS = {"podFailurePolicy"}
"""Fields of other resources that these pages name."""
FILES = (".yaml", ".safetensors")
"""Suffixes of files that are named like a field and a part of it."""
DEFAULT = re.compile(
    r"`(?P<field>[\w.]+)`(?:, which is (?P<value>\S+) by default| (?:times )?\((?P<short>\S+) by default\))"
)


def field(path: str, schema: dict[str, Any] = SCHEMA["spec"]) -> dict[str, Any] | None:
    """The schema of a field below `schema`; None if there is none. Fields of list items follow the list."""
    for part in path.split("."):
        schema = schema.get("items", schema)
        if schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema:
            return schema
        if part not in schema.get("properties", {}):
            return None
        schema = schema["properties"][part]
    return schema


def names(schema: dict[str, Any]) -> Iterator[str]:
    """Names of all fields below `schema`."""
    schema = schema.get("items", schema)
    for name, below in schema.get("properties", {}).items():
        yield name
        yield from names(below)


def code(name: str) -> list[str]:
    """What a document has in backticks outside of blocks."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("name", [str(path.relative_to(ROOT)) for path in DOCUMENTS])
def test_every_field_of_the_spec_that_is_named_exists(name: str) -> None:
    paths = [found[1] for text in code(name) if (found := re.match(r"((?:spec\.)?[a-z]\w*(?:\.\w+)+)(?:: .*)?$", text))]
    below_spec = [path.removeprefix("spec.") for path in paths]
    of_spec = [path for path in below_spec if path.split(".")[0] in SPEC and not path.endswith(FILES)]
    assert [path for path in of_spec if field(path) is None] == []


@pytest.mark.parametrize("name", [str(path.relative_to(ROOT)) for path in DOCUMENTS])
def test_every_field_of_the_status_that_is_named_exists(name: str) -> None:
    paths = [found[1] for text in code(name) if (found := re.match(r"status\.([\w.]+)$", text))]
    assert [path for path in paths if field(path, SCHEMA["status"]) is None] == []


@pytest.mark.parametrize("name", ANSWERS)
def test_every_short_name_of_a_field_exists(name: str) -> None:
    known = {*names(SCHEMA["spec"]), *names(SCHEMA["status"])} | OTHERS
    camel = [found[1] for text in code(name) if (found := re.match(r"([a-z]+[A-Z]\w*)(?:: .*)?$", text))]
    assert [word for word in camel if word not in known] == []


def test_every_default_that_is_named_is_the_default() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    shown = [(found["field"], found["value"] or found["short"]) for found in DEFAULT.finditer(text)]
    defaults = {path: (field(path) or {}).get("default") for path, _ in shown}
    assert len(shown) >= 2
    assert [(path, value) for path, value in shown if str(defaults[path]) != value.rstrip(",")] == []


def test_every_field_in_a_yaml_block_exists() -> None:
    """Of blocks that begin with a part of a spec; whole manifests are applied by other tests."""
    for block in blocks():
        if block.language == "yaml" and block.lines[0].partition(":")[0] in SPEC:
            for path in leaves(yaml.safe_load(block.text)):
                assert field(path) is not None, f"{block.document}: {path}"


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """Paths of all values of a manifest."""
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from leaves(below, f"{path}.{key}".lstrip("."))
    else:
        yield path


def columns(line: str) -> list[str]:
    """Cells of a line that kubectl prints; at least three spaces divide them."""
    return re.split(r" {3,}", line.strip())


def test_the_sample_of_kubectl_get_has_the_columns_and_values_of_the_resource() -> None:
    block = next(block for block in blocks() if block.document == "README.md" and "$ kubectl get sft" in block.text)
    printed = [column["name"].upper() for column in VERSION["additionalPrinterColumns"] if column["priority"] == 0]
    command, header, *jobs = block.text.splitlines()
    assert command == "$ kubectl get sft"
    assert columns(header) == ["NAME", *printed]
    starts = [header.index(name) for name in columns(header)]
    assert jobs
    for line in jobs:
        cells = [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        job = dict(zip(columns(header), cells, strict=True))
        manifest = {"quickstart": "sftjob.yaml", "quickstart-lora": "lora.yaml"}[job["NAME"]]
        spec = yaml.safe_load((ROOT / "examples/quickstart" / manifest).read_text(encoding="utf-8"))["spec"]
        assert job["PHASE"] in set(Phase)
        assert job["REASON"] in set(ConditionReason)
        assert job["GPUS"] == str(spec["resources"]["gpus"])
        done = job["PHASE"] == Phase.SUCCEEDED
        assert done or int(job["PROGRESS"].rstrip("%")) == 100 * int(job["STEP"]) // spec["training"]["maxSteps"]
        assert (job["PROGRESS"] == "100%", job["ETA"] == "") == (done, done)
