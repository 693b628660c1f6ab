"""The chart's values: all of them described and checked, and wrong ones refused with the place and the reason."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from support.clients.helm import CHART, Helm, HelmRefusalError
from tools.chart import ChartError, readme, rows

CERT_MANAGER = {"enabled": True, "issuerRef": {"name": "ca"}}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"replicas": 2}, "at '': additional properties 'replicas' not allowed"),
        ({"image": {"name": "x"}}, "at '/image': additional properties 'name' not allowed"),
        ({"image": {"repository": ""}}, "at '/image/repository': minLength: got 0, want 1"),
        ({"image": {"repository": "UPPER"}}, "at '/image/repository': 'UPPER' does not match pattern"),
        ({"image": {"tag": "a b"}}, "at '/image/tag': 'a b' does not match pattern"),
        ({"image": {"tag": 1.0}}, "at '/image/tag': got number, want string"),
        ({"trainerImage": {"digest": "sha256:1"}}, "at '/trainerImage/digest': 'sha256:1' does not match pattern"),
        (
            {"image": {"pullPolicy": "Sometimes"}},
            "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'",
        ),
        ({"imageRegistry": "https://registry"}, "at '/imageRegistry': 'https://registry' does not match pattern"),
        ({"imagePullSecrets": ["registry"]}, "at '/imagePullSecrets/0': got string, want object"),
        ({"namespaces": "team-a"}, "at '/namespaces': got string, want array"),
        ({"namespaces": ["Team_A"]}, "at '/namespaces/0': 'Team_A' does not match pattern"),
        ({"namespaces": ["a", "a"]}, "at '/namespaces': items at 0 and 1 are equal"),
        ({"crds": {"keep": "yes"}}, "at '/crds/keep': got string, want boolean"),
        ({"serviceAccount": {"name": "Sa"}}, "at '/serviceAccount/name': 'Sa' does not match pattern"),
        ({"progress": {"intervalSeconds": 0}}, "at '/progress/intervalSeconds': minimum: got 0, want 1"),
        ({"progress": {"port": 70000}}, "at '/progress/port': maximum: got 70,000, want 65,535"),
        ({"progress": {"listenHost": "::"}}, "at '/progress/listenHost': '::' does not match pattern"),
        ({"gpuNodeLabel": "a b"}, "at '/gpuNodeLabel': 'a b' does not match pattern"),
        ({"workers": 1.5}, "at '/workers': got number, want integer"),
        ({"workers": 257}, "at '/workers': maximum: got 257, want 256"),
        ({"resources": {"limits": {"memory": "lots"}}}, "at '/resources/limits/memory': 'lots' does not match pattern"),
        ({"networkPolicy": {"apiServer": {"ports": []}}}, "at '/networkPolicy/apiServer/ports': minItems: got 0"),
        (
            {"networkPolicy": {"apiServer": {"cidrs": ["10.0.0.1"]}}},
            "at '/networkPolicy/apiServer/cidrs/0': '10.0.0.1' does not match pattern",
        ),
        ({"metrics": {"jobs": -1}}, "at '/metrics/jobs': minimum: got -1, want 0"),
        ({"metrics": {"scrapers": [{}]}}, "at '/metrics/scrapers/0': minProperties: got 0, want 1"),
        (
            {"metrics": {"podMonitor": {"interval": "often"}}},
            "at '/metrics/podMonitor/interval': 'often' does not match pattern",
        ),
        ({"podLabels": {"a": 1}}, "at '/podLabels/a': got number, want string"),
        (
            {"progress": {"tls": {"existingSecret": "mine", "certManager": CERT_MANAGER}}},
            'progress.tls.existingSecret is "mine" and progress.tls.certManager.enabled is true: write one of them',
        ),
        (
            {"progress": {"tls": {"certManager": {"enabled": True}}}},
            "progress.tls.certManager.issuerRef.name is empty: write the name of a cert-manager issuer",
        ),
        (
            {"serviceAccount": {"create": False}},
            "serviceAccount.create is false and serviceAccount.name is empty: write the name of the ServiceAccount",
        ),
        (
            {"metrics": {"enabled": False, "podMonitor": {"enabled": True}}},
            "metrics.podMonitor.enabled is true and metrics.enabled is false: set metrics.enabled to true",
        ),
        (
            {"metrics": {"port": 8443}},
            "metrics.port and progress.port are both 8443: write two different ports",
        ),
        (
            {"networkPolicy": {"jobs": {"enabled": True}}},
            "networkPolicy.jobs.enabled is true and namespaces is empty: list the namespaces",
        ),
    ],
    ids=lambda case: "-".join(_paths(case)) if isinstance(case, dict) else "",
)
def test_a_wrong_value_is_refused(helm: Helm, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HelmRefusalError) as caught:
        helm.render(values)
    assert sentence in str(caught.value)


def test_the_schema_has_exactly_the_values_that_there_are() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    schema["properties"].pop("global")
    assert sorted(_described(schema, schema["definitions"])) == sorted(_paths(values, empty=True))


def _paths(values: Mapping[str, Any], *, empty: bool = False) -> Iterator[str]:
    """Dotted names of the leaves."""
    for name, value in values.items():
        if isinstance(value, dict) and value and not (empty and name in ("requests", "limits")):
            yield from (f"{name}.{rest}" for rest in _paths(value, empty=empty))
        else:
            yield name


def _described(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    for name, given in schema["properties"].items():
        part = definitions[given["$ref"].rpartition("/")[2]] if "$ref" in given else given
        if "properties" in part:
            assert part["additionalProperties"] is False, name
            yield from (f"{name}.{rest}" for rest in _described(part, definitions))
        else:
            yield name


def test_every_value_is_told_in_the_readme_with_its_default() -> None:
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    page = (CHART / "README.md").read_text(encoding="utf-8")
    assert readme(page, values) == page
    assert len(list(rows(values))) > 30


def test_a_value_without_a_comment_is_refused() -> None:
    with pytest.raises(ChartError, match=r"values\.yaml: a\.c has no comment: write one above it"):
        list(rows("a:\n  # What b is.\n  b: 1\n  c: 2\n"))


def test_a_comment_may_have_several_lines_and_tell_a_whole_map() -> None:
    assert list(rows("# What a is,\n# and why.\na:\n  b: 1\n")) == [("a", '{"b": 1}', "What a is, and why.")]
