"""What the documents say is so: links lead somewhere, tables match the code, commands name what exists."""

import json
import re
import shlex
from collections.abc import Iterator
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.layout import OUTPUT_ADAPTER, OUTPUT_MERGED, OUTPUT_MODEL
from sftjob_contract.names import GROUP, KIND, LABEL_JOB, PLURAL, SHORT_NAME, SINGULAR, Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.api import parse_job
from sftjob_operator.api.conditions import ConditionReason, ConditionType
from sftjob_operator.api.v1alpha1.status import Phase
from sftjob_operator.render import pod_name
from sftjob_operator.settings import OperatorSettings
from support.jobs.doc_blocks import DOCUMENTS, ROOT, blocks

NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
GENERATED = {"docs/reference/sftjob.md"}
RESOURCES = {KIND.lower(), SINGULAR, PLURAL, SHORT_NAME, "pod", "pods", "pvc", "configmaps"}
STATUS, INSTALL = "docs/status.md", "docs/install.md"


def sentences_between(text: str, opening: str, closing: str) -> Iterator[str]:
    return (found[1] for found in re.finditer(f"{re.escape(opening)}(.*?){re.escape(closing)}", text, re.DOTALL))


BLOCKS = list(blocks())


def commands(document: str) -> list[str]:
    return [line for block in BLOCKS if (block.document, block.language) == (document, "sh") for line in block.lines]


def table_after(heading: str, document: str) -> list[list[str]]:
    """Rows of the first table after `heading`, without its two header lines, cells without backticks."""
    text = (ROOT / document).read_text(encoding="utf-8")
    lines = iter(text[text.index(heading) :].splitlines())
    rows: list[str] = []
    for line in lines:
        if line.startswith("|"):
            rows.append(line)
        elif rows:
            break
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in rows[2:]]


def anchors(path: Path) -> set[str]:
    """Anchors of a document's headings as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file_and_a_heading(name: str) -> None:
    document = ROOT / name
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        place = (document.parent / path).resolve() if path else document
        assert place.exists(), f"{name} links to {target}"
        if anchor:
            assert anchor in anchors(place), f"{name} links to {target}"


def test_the_exit_code_table_is_the_contract() -> None:
    told = {int(row[0]): row[1] for row in table_after("Exit codes, for whoever", STATUS)}
    assert told == {int(code): code.name for code in ExitCode}


def test_the_condition_table_names_every_condition() -> None:
    assert [row[0] for row in table_after("conditions:\n", STATUS)] == [str(type_) for type_ in ConditionType]


def test_the_phases_are_all_named() -> None:
    told = next(
        sentences_between((ROOT / STATUS).read_text(encoding="utf-8"), "`phase` is a summary for people: ", ".")
    )
    assert [name.strip() for name in told.split(",")] == [str(phase) for phase in Phase]


def test_the_settings_table_names_every_setting() -> None:
    source = Path(ROOT / "operator/src/sftjob_operator/settings.py").read_text(encoding="utf-8")
    read = set(re.findall(r'environ(?:\.get\(|, )"(SFTJOB_\w+)"', source))
    assert {row[0] for row in table_after("Settings of the operator", INSTALL)} == read
    assert len(read) == len(OperatorSettings.__annotations__), "all but KUBECONFIG, and two for the certificate"


def test_every_reason_has_a_place_in_the_page_of_failures() -> None:
    told = anchors(ROOT / "docs/failures.md")
    reasons = [*Reason, ConditionReason.RETRIES_EXHAUSTED, ConditionReason.INTERRUPTIONS_EXHAUSTED]
    assert not [reason for reason in reasons if reason.lower() not in told]


def test_every_decision_is_in_the_list_of_decisions() -> None:
    index = (ROOT / "docs/adr/README.md").read_text(encoding="utf-8")
    for page in ROOT.glob("docs/adr/[0-9]*.md"):
        title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").partition(": ")[2]
        row = re.search(
            rf"\({re.escape(page.name)}\) \| {re.escape(title)}(?: \(superseded by (\d+)\))? \|$", index, re.MULTILINE
        )
        assert row is not None, page.name
        assert row[1] is None or list(ROOT.glob(f"docs/adr/{row[1]}-*.md"))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in GENERATED])
def test_every_path_in_a_table_or_sentence_exists(name: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    tops = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")} - {"build", "dist"}
    for token in re.findall(r"`([\w./-]+/[\w./-]*)`", text):
        if token.split("/")[0] in tops:
            assert (ROOT / token).exists(), f"{name} names {token}"


@pytest.mark.parametrize("name", NAMES)
def test_every_target_of_make_that_is_named_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = (ROOT / name).read_text(encoding="utf-8")
    assert set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", text, re.MULTILINE)) <= targets


def test_every_folder_of_tests_is_in_the_page_about_them() -> None:
    told = set(re.findall(r"`(tests/\w+)`", (ROOT / "docs/testing.md").read_text(encoding="utf-8")))
    folders = {path for path in (ROOT / "tests").iterdir() if path.is_dir() and not path.name.startswith(("_", "."))}
    assert told == {f"tests/{path.name}" for path in folders} - {"tests/support"}


def test_every_block_that_is_marked_runnable_is_run_by_the_test_that_it_names() -> None:
    marks = [
        mark
        for path in DOCUMENTS
        for mark in re.findall(r"^<!-- runnable\b.*?-->", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    ]
    runners = [block.runner for block in BLOCKS if block.runner is not None]
    assert marks == [f"<!-- runnable: {runner} -->" for runner in runners], "a mark is not before a block"
    assert {"README.md", "docs/trying.md"} <= {block.document for block in BLOCKS if block.runner is not None}
    for runner in set(runners):
        assert "runnable_by(__file__)" in (ROOT / runner).read_text(encoding="utf-8"), f"{runner} runs no blocks"


COMMANDS = [pytest.param(name, line, id=f"{name}: {line}") for name in NAMES for line in commands(name)]


@pytest.mark.parametrize(("name", "line"), COMMANDS)
def test_every_command_names_what_exists(name: str, line: str) -> None:
    words = shlex.split(line)
    match words:
        case ["make", target, *assignments]:
            found = re.search(
                rf"^{target}:.*## .*\n(\t.*\n)*", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
            )
            assert found is not None
            assert [given for given in assignments if f"$({given.partition('=')[0]})" not in found[0]] == []
        case ["export", assignment]:
            assert_known_variable(assignment.partition("=")[0])
        case [".venv/bin/python", "-m", module]:
            assert (ROOT / {"sftjob_operator": "operator"}[module] / "src" / module / "__main__.py").exists()
        case [".venv/bin/python", script, *_]:
            assert (ROOT / script).exists()
        case ["helm", "install" | "upgrade" | "rollback" | "uninstall", release, *rest]:
            assert release == "sftjob-operator"
            assert_chart(rest)
        case ["kubectl", "cp", source, target]:
            assert_copied(source, target)
        case ["kubectl", "delete", "pod", pod] if pod in copying_pods():
            pass
        case ["kubectl", "wait", "--for=condition=Ready", target, _]:
            assert target.removeprefix("pod/") in copying_pods()
        case ["kubectl", verb, *rest]:
            assert_kubectl(verb, rest)
        case _:
            pytest.fail(f"{name}: no test knows what to make of {line!r}")


def changeable() -> set[str]:
    """Fields of the spec that no rule of the definition keeps as they were."""
    schema = load("crds/sftjobs.yaml")["spec"]["versions"][0]["schema"]["openAPIV3Schema"]  # type: ignore[index]  # parsed YAML
    spec = schema["properties"]["spec"]
    fixed = set(re.findall(r"oldSelf\.(\w+)", json.dumps(spec["x-kubernetes-validations"])))
    own = {name for name, field in spec["properties"].items() if "oldSelf" in json.dumps(field)}
    return set(spec["properties"]) - fixed - own


@pytest.mark.parametrize("name", ["README.md", "docs/troubleshooting.md"])
def test_the_fields_that_can_be_changed_are_named(name: str) -> None:
    text = " ".join((ROOT / name).read_text(encoding="utf-8").split())
    told = re.search(r"only ((?:`\w+`(?:, | and )?)+) can be changed", text, re.IGNORECASE)
    assert told is not None
    assert set(re.findall(r"`(\w+)`", told[1])) == changeable()


def assert_known_variable(variable: str) -> None:
    assert variable == "KUBECONFIG" or variable in {row[0] for row in table_after("Settings of the operator", INSTALL)}


def assert_chart(words: list[str]) -> None:
    """The chart is there, and a value that is set is one of its values."""
    assert "--reuse-values" not in words, "it leaves out the values that are new in a chart"
    if words[0].startswith("charts/"):
        values = load(f"{words[0]}/values.yaml")
        for option, value in pairwise(words):
            if option == "--set":
                assert reduce(dict.__getitem__, value.partition("=")[0].split("."), values) is not None


def assert_kubectl(verb: str, rest: list[str]) -> None:
    files = rest[rest.index("-f") + 1 :] if "-f" in rest and verb != "logs" else []
    match verb, [word for word in rest if not word.startswith("-") and word not in files]:
        case (("apply" | "delete"), []):
            assert files
            assert [load_all(file) for file in files]
        case "logs", [pod]:
            assert pod in {*pods("quickstart", 1), *pods("quickstart", 2), *pods("minimal", 1)}
        case "delete", ["pod", pod]:
            assert pod in pods("quickstart", 1)
        case "patch", [kind, name, patch]:
            assert_exists(kind, name)
            assert set(json.loads(patch)["spec"]) <= changeable()
        case ("rollout", ["status", name]) | ("delete", ["crd", name]):  # what the chart made
            assert name in {"deployment/sftjob-operator", f"{PLURAL}.{GROUP}"}
        case "explain", [path]:
            assert path.split(".")[0] == SINGULAR
            assert_field(path.split(".")[1:])
        case "wait", [target]:
            (condition,) = [word for word in rest if word.startswith("--for=condition=")]
            assert condition.removeprefix("--for=condition=") in set(ConditionType)
            assert_exists(*target.split("/"))
        case (("get" | "describe" | "delete"), [kinds, *words]):
            assert set(kinds.split(",")) <= RESOURCES
            for word in words:
                if "=" in word:
                    assert word == f"{LABEL_JOB}=quickstart"
                elif word != "wide":
                    assert_exists(kinds, word)
        case _:
            pytest.fail(f"no test knows kubectl {verb} {rest}")


def load(file: str) -> dict[str, object]:
    body: dict[str, object] = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    return body


def load_all(file: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / file).read_text(encoding="utf-8")))


def copying_pods() -> dict[str, dict[str, Any]]:
    """The Pods that mount a claim for `kubectl cp`."""
    objects = [body for path in ROOT.glob("examples/*.yaml") for body in load_all(str(path))]
    return {body["metadata"]["name"]: body for body in objects if body["kind"] == "Pod"}


def assert_copied(source: str, target: str) -> None:
    """One side is a path below the mount of a Pod's claim, the other one is a local file."""
    (remote,) = [side for side in (source, target) if ":" in side]
    pod, _, path = remote.partition(":")
    (container,) = copying_pods()[pod]["spec"]["containers"]
    (mount,) = container["volumeMounts"]
    assert path.startswith(f"{mount['mountPath']}/")
    assert mount.get("readOnly", False) is (remote == source), "only a Pod that data is copied to may write"
    if remote == source:
        assert path.removeprefix(f"{mount['mountPath']}/") in {OUTPUT_ADAPTER, OUTPUT_MODEL, OUTPUT_MERGED}


def pods(job: str, attempt: int) -> set[str]:
    body = {**load("examples/quickstart/sftjob.yaml")}
    body["metadata"] = {"name": job, "namespace": "default", "uid": "0", "generation": 1, "resourceVersion": "1"}
    return {pod_name(parse_job(body), stage, attempt) for stage in Stage}


def assert_exists(kind: str, name: str) -> None:
    manifests = [*ROOT.glob("examples/quickstart/*.yaml"), *ROOT.glob("crds/samples/*.yaml")]
    names = {yaml.safe_load(path.read_text(encoding="utf-8"))["metadata"]["name"] for path in manifests}
    assert kind in RESOURCES
    assert name in names


def assert_field(path: list[str]) -> None:
    definition = load("crds/sftjobs.yaml")
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]  # type: ignore[index]  # parsed YAML
    for part in path:
        schema = schema["properties"][part]
