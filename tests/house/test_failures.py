"""docs/failures.md shows the policy that decides: the table is written from it, not beside it."""

import re
from pathlib import Path

from sftjob_operator.reconcile.policy import POLICIES
from support.golden import check_golden_text

PAGE = Path(__file__).resolve().parents[2] / "docs" / "failures.md"
SECTION = re.compile(r"(<!-- policy: [^>]* -->\n).*?(<!-- end of policy -->)", re.DOTALL)


def policy_table() -> str:
    rows = [
        f"| [{reason}](#{reason.lower()}) | {policy.told_by} | {policy.retry} |" for reason, policy in POLICIES.items()
    ]
    return "\n".join(["| reason | told by | tried again |", "|---|---|---|", *rows])


def test_the_page_of_failures_shows_the_policy_as_it_is() -> None:
    text = PAGE.read_text(encoding="utf-8")
    (section,) = SECTION.finditer(text)
    shown = f"{section[1]}\n{policy_table()}\n\n{section[2]}"
    check_golden_text(PAGE, text[: section.start()] + shown + text[section.end() :])


def test_the_section_of_each_reason_has_the_hint_that_a_status_gives() -> None:
    sections = PAGE.read_text(encoding="utf-8").split("\n### ")
    told = {section.partition("\n")[0]: " ".join(section.split()) for section in sections}
    assert [reason for reason, policy in POLICIES.items() if policy.hint not in told[reason]] == []
