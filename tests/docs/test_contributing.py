"""CONTRIBUTING.md and what contributors meet besides it: the pictures, the hooks and the workflow."""

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.architecture import BEGIN, END, PAGE, layers_picture, package_imports, page, pictures

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
QUESTIONS = re.findall(r"^\| (.+\?) \| `(.+)` \| `(\w+)` \|$", GUIDE, re.MULTILINE)
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_there_are_ten_questions() -> None:
    assert len(QUESTIONS) == 10


@pytest.mark.parametrize(("question", "file", "function"), QUESTIONS)
def test_the_file_of_a_question_defines_the_function(question: str, file: str, function: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert function in defined, question


def test_every_package_with_a_version_is_part_of_a_release_step() -> None:
    assert {path.name for path in ROOT.iterdir() if (path / "pyproject.toml").exists()} == {
        *("contract", "operator", "trainer-image", "sandbox", "dev")
    }
    versions = {
        tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"] for path in ROOT.glob("*/pyproject.toml")
    }
    chart = yaml.safe_load((ROOT / "charts/sftjob-operator/Chart.yaml").read_text(encoding="utf-8"))
    assert versions == {chart["version"], chart["appVersion"]}


def test_the_pictures_are_those_of_the_linters_contracts() -> None:
    imports = package_imports(LINTER["root_packages"])
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, list(pictures(LINTER, imports))) == text
    assert ("sftjob_operator", "sftjob_contract") in imports
    assert not [pair for pair in imports if pair[1] == "sftjob_dev"]


def test_layers_are_boxes_in_their_order() -> None:
    assert layers_picture(["p.top", "p.a.b | p.c", "q"]) == (
        "```mermaid\nflowchart TB\n"
        '    layer0["top"]\n    layer1["a.b | c"]\n    layer2["q"]\n'
        "    layer0 --> layer1 --> layer2\n```\n"
    )


def test_only_the_marked_part_of_the_page_is_replaced() -> None:
    assert page(f"before\n{BEGIN}old\n{END}after\n", ["new\n"]) == f"before\n{BEGIN}\nnew\n\n{END}after\n"


def hooks() -> list[dict[str, Any]]:
    settings = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in settings["repos"]] == ["local"], "a hook of another repository needs a network"
    return [hook for repo in settings["repos"] for hook in repo["hooks"]]


def test_hooks_run_targets_of_make_without_a_network() -> None:
    for hook in hooks():
        make, quiet, target = hook["entry"].split()
        assert (make, quiet, hook["language"]) == ("make", "-s", "system")
        assert target in makefile_targets()


def test_the_workflow_runs_what_decides_about_a_merge() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert steps[-1] == {"run": ".ci/run"}
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert next(step for step in steps if "uses" in step)["with"]["fetch-depth"] == 0, "tests/skew needs the history"


@pytest.mark.parametrize("template", ["bug.md", "feature.md"])
def test_issue_templates_have_a_name_and_a_description(template: str) -> None:
    text = (ROOT / ".github/ISSUE_TEMPLATE" / template).read_text(encoding="utf-8")
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["name"]
    assert header["about"]


def test_links_of_templates_lead_to_files() -> None:
    for path in (ROOT / ".github").rglob("*.md"):
        for target in re.findall(r"\]\(([^)\s#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).resolve().exists(), f"{path.name} links to {target}"
