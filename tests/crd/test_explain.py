"""`kubectl explain` is the manual: it knows every field of the models, and says about each what the models say."""

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from sftjob_contract.names import API_VERSION, KIND
from sftjob_operator.api import SFTJobSpec
from sftjob_operator.api.types import Model
from support.clients.kubectl import Kubectl

LINE = re.compile(r"^(?P<indent> *)(?P<name>\w+)\t<(?P<type>[^>]+)>(?P<required> -required-)?$")


def models_in(annotation: Any) -> Iterator[type[Model]]:
    """Models that a field's type is made of: X of `X | None`, `tuple[X, ...]` and their annotated forms."""
    if inspect.isclass(annotation) and issubclass(annotation, Model):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def fields(model: type[Model], path: str = "") -> Iterator[tuple[str, str, bool]]:
    """Dotted path, description and requiredness of every field below a model."""
    for name, field in model.model_fields.items():
        at = f"{path}{field.alias or name}"
        yield at, " ".join((field.description or "").split()), field.is_required()
        for nested in models_in(field.annotation):
            yield from fields(nested, f"{at}.")


FIELDS = list(fields(SFTJobSpec))
DESCRIPTIONS = {path: text for path, text, _ in FIELDS}


def explained_tree(text: str) -> dict[str, bool]:
    """Dotted path of every field that `explain --recursive` prints, and whether it is required."""
    tree: dict[str, bool] = {}
    parents: list[str] = []
    for line in text.partition("FIELDS:\n")[2].splitlines():
        if found := LINE.match(line):
            depth = len(found["indent"]) // 2 - 1
            parents = [*parents[:depth], found["name"]]
            tree[".".join(parents)] = found["required"] is not None
    return tree


def test_the_whole_spec_at_once_names_every_field_and_what_is_required(kubectl: Kubectl) -> None:
    tree = explained_tree(kubectl("explain", "sftjob.spec", "--recursive"))
    assert tree == {path: required for path, _, required in FIELDS}


@pytest.fixture(scope="module")
def document(kubectl: Kubectl) -> dict[str, Any]:
    """The schema of the kind in the document that `kubectl explain` reads."""
    schemas = json.loads(kubectl("get", "--raw", f"/openapi/v3/apis/{API_VERSION}"))["components"]["schemas"]
    (schema,) = (schema for name, schema in schemas.items() if name.endswith(f".{KIND}"))
    found: dict[str, Any] = schema
    return found


@pytest.mark.parametrize(("path", "description"), DESCRIPTIONS.items(), ids=DESCRIPTIONS)
def test_a_field_is_described_in_the_words_of_its_model(document: dict[str, Any], path: str, description: str) -> None:
    node = document
    for name in ("spec", *path.split(".")):
        node = node.get("items", node)["properties"][name]
    assert description
    assert description in " ".join(node["description"].split())


@pytest.mark.parametrize(
    "path", ["model", "training.learningRate", "method.lora.targetModules", "env.name", "training.extra"]
)
def test_kubectl_explains_a_field(kubectl: Kubectl, path: str) -> None:
    told = kubectl("explain", f"sftjob.spec.{path}")
    assert f"FIELD: {path.rpartition('.')[2]} <" in told
    assert DESCRIPTIONS[path] in " ".join(told.partition("DESCRIPTION:\n")[2].split())


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("training.precision", ["auto", "bf16", "fp16", "fp32"]),
        ("method.quantization.bits", ["4", "8"]),
    ],
)
def test_the_values_of_a_choice_are_listed(kubectl: Kubectl, path: str, values: list[str]) -> None:
    told = kubectl("explain", f"sftjob.spec.{path}").partition("DESCRIPTION:")[0]
    assert told.partition("ENUM:\n")[2].split() == values


def test_a_field_that_is_not_there_is_not_explained(kubectl: Kubectl) -> None:
    refused = kubectl.run("explain", "sftjob.spec.training.learning_rate")
    assert refused.returncode != 0
    assert 'field "learning_rate" does not exist' in refused.stderr
