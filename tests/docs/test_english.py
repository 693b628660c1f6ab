"""The list of words of `make lint`."""

import tomllib
from pathlib import Path

import pytest

from tools import check_english
from tools.check_english import LIST, ROOT, files, findings

SETTINGS = tomllib.loads(LIST.read_text(encoding="utf-8"))
RULES, RIGHT = SETTINGS["rules"], SETTINGS["right"]
USES = """
The field can not be changed. The operator is told. The condition tells why. Nothing was heard. It starts anew.
It is written once more. An image of ours. A value that is none. The file lies there. The weights lay there. A fault
befalls it. An evil manifest. The way of a job. Its last word. Ignored in silence. Runs go on. Besides, there is more.
The packages are strangers. It cannot look after it. A hub that knows no revision. What is given. A part thereof. The
Pod failed, whereupon it ended.
"""


def test_every_rule_finds_a_use() -> None:
    unused = [rule for rule in RULES if not list(findings(USES, {rule: "x"}, []))]
    assert unused == []
    assert len(list(findings(USES, RULES, []))) == len(RULES)


@pytest.mark.parametrize("text", ["It can\nnot start.", "# It can\n# not start.", "    It Can  not start."])
def test_a_phrase_is_found_across_lines_of_text_and_comments(text: str) -> None:
    ((line, message),) = findings(text, RULES, [])
    assert line == 1
    assert message.endswith(": write cannot")


def test_a_use_is_reported_with_its_line_and_what_to_write() -> None:
    assert list(findings("One.\nIt starts anew.\n", RULES, [])) == [(2, '"anew": write again')]


@pytest.mark.parametrize(
    "text", ["if value is None:", "Podman told the kernel", "cannot", "to tell apart", "relies on"]
)
def test_right_english_and_code_pass(text: str) -> None:
    assert list(findings(text, RULES, RIGHT)) == []


def test_only_the_exempt_use_passes() -> None:
    assert list(findings("Podman told it, and it was told.", RULES, RIGHT)) == [
        (1, '"told": write reports, receives, is configured with')
    ]


def test_documents_sources_and_the_chart_are_checked() -> None:
    checked = {str(path.relative_to(ROOT)) for path in files(SETTINGS)}
    for part in (
        "README.md",
        "docs/",
        "charts/sftjob-operator/templates/NOTES.txt",
        "crds/sftjobs.yaml",
        "operator/src/",
        "trainer-image/src/",
    ):
        assert any(path.startswith(part) for path in checked), f"{part} has no file to check"


def test_a_finding_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.md").write_text("It can not.\n", encoding="utf-8")
    (tmp_path / "list.toml").write_text('files = ["*.md"]\nright = []\n[rules]\n"can not" = "cannot"\n')
    monkeypatch.setattr(check_english, "ROOT", tmp_path)
    monkeypatch.setattr(check_english, "LIST", tmp_path / "list.toml")
    with pytest.raises(SystemExit, match="True"):
        check_english.main()
    assert capsys.readouterr().out == 'page.md:1 "can not": write cannot\n'
