"""Patterns have RE2's syntax, also where Python reads them in another way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftjob_sandbox.crd.regex import compile_pattern


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("b", "abc", True),
        ("^b", "abc", False),
        ("c$", "abc", True),
        ("c$", "abc\n", False),
        ("^[a-z$]+$", "a$", True),
        (r"\d", "\u0663", False),
        (r"\w", "\u00e4", False),
        (r"\pL", "\u00e4", True),
        (r"\x41", "A", True),
        (r"a\z", "a", True),
        ("(?i)abc", "ABC", True),
        ("[[:alpha:]]+$", "abc", True),
        ("^.$", "\n", False),
        ("^(a|b)*?$", "abab", True),
        ("^[^/]+/[^/]+$", "a/b", True),
    ],
)
def test_patterns(pattern: str, text: str, matches: bool) -> None:
    assert compile_pattern(pattern)(text) is matches


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "[z-a]", "(?=x)", r"\1", "a**", "x{1001}", "a*+"])
def test_what_re2_does_not_know_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        compile_pattern(pattern)


@given(text=st.text("ab$\n./-", max_size=6))
def test_both_engines_agree_where_both_are_used(text: str) -> None:
    assert compile_pattern("^[a-b]+(/[.$-])?$")(text) is compile_pattern("(?:)^[a-b]+(/[.$-])?$")(text)
