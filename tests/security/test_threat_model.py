"""The threat model names tests that exist, and every test of this directory has its place in it."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "security.md"
_DEFINED = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)


def defined(directory: Path) -> set[str]:
    return {
        name for path in directory.rglob("test_*.py") for name in _DEFINED.findall(path.read_text(encoding="utf-8"))
    }


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    assert len(named) > 50
    assert sorted(named - defined(TESTS)) == []


def test_every_threat_that_is_tested_is_in_the_threat_model() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    tested = {
        name for path in Path(__file__).parent.glob("test_evil_*.py") for name in _DEFINED.findall(path.read_text())
    }
    assert sorted(tested - named - {"test_the_trap_of_these_tests_is_one"}) == [
        "test_those_who_are_counted_are_forgotten_in_the_order_of_their_last_request"
    ]
