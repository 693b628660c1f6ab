"""docs/failures.md shows the policy that decides: the table is written from it, not beside it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from sftjob_operator.reconcile.attempts.failure_reasons import POLICIES
from support.checks.golden import check_golden_text

PAGE = Path(__file__).resolve().parents[2] / "docs" / "failures.md"
SECTION = re.compile(r"(<!-- policy: [^>]* -->\n).*?(<!-- end of policy -->)", re.DOTALL)


def policy_table() -> str:
    rows = [
        f"| [{reason}](#{reason.lower()}) | {policy.detected_by} | {policy.retry} |"
        for reason, policy in POLICIES.items()
    ]
    return "\n".join(["| reason | detected by | tried again |", "|---|---|---|", *rows])


def test_the_page_of_failures_shows_the_policy_as_it_is() -> None:
    text = PAGE.read_text(encoding="utf-8")
    (section,) = SECTION.finditer(text)
    shown = f"{section[1]}\n{policy_table()}\n\n{section[2]}"
    check_golden_text(PAGE, text[: section.start()] + shown + text[section.end() :])


def test_the_section_of_each_reason_has_the_hint_that_a_status_gives() -> None:
    sections = PAGE.read_text(encoding="utf-8").split("\n### ")
    told = {section.partition("\n")[0]: " ".join(section.split()) for section in sections}
    assert [reason for reason, policy in POLICIES.items() if policy.hint not in told[reason]] == []


SOURCES = [PAGE.parents[1] / folder / "src" for folder in ("operator", "trainer-image", "contract")]
EXCERPT = re.compile(r"<!-- (\w+): written by .*?<!-- end of \1 -->", re.DOTALL)


def texts(source: str) -> Iterator[str]:
    """Every text of a program, with an ellipsis for each value."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
            yield " ".join("".join(map(str, parts)).split())
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield " ".join(node.value.split())


def test_every_message_that_the_page_quotes_is_one_that_the_code_has() -> None:
    programs = (path.read_text(encoding="utf-8") for folder in SOURCES for path in folder.rglob("*.py"))
    code = "\n".join(text for program in programs for text in texts(program))
    page = EXCERPT.sub("", PAGE.read_text(encoding="utf-8"))
    lists = re.findall(r'^- ((?:"[^"]*"(?:, )?)+)', page, re.MULTILINE)
    quoted = [" ".join(quote.split()) for each in lists for quote in re.findall(r'"([^"]*)"', each)]
    assert quoted
    parts = [part.strip() for quote in quoted for part in quote.split("...") if part.strip()]
    assert [part for part in parts if part not in code] == []
