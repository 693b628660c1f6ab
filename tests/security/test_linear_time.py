"""Text from elsewhere is looked at in time that grows with its length and no faster, whoever chose the text."""

import re
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftjob_contract import secrets, times
from sftjob_contract.secrets import HIDDEN, TEXT_LIMIT, shown, without_secrets
from sftjob_operator.api import types
from sftjob_operator.reconcile.attempts import end_reason
from sftjob_operator.reconcile.reports import limits
from sftjob_operator.reconcile.spec import validation
from support.checks.regex_steps import StepCounter

PATTERNS = {
    "keys and passwords in URLs": secrets._LEAKY_VALUE,
    "bearer tokens": secrets._BEARER,
    "dotted text": secrets._DOTTED,
    "starts of web tokens": secrets._WEB_TOKEN_START,
    "signed URLs": secrets._SIGNED,
    "names of secrets": re.compile(types.LEAKY_NAME),
    "unseen characters": types._UNSEEN,
    "stacks at the end of a log": end_reason._STACKS,
    "names of metrics": limits._LABEL,
    "moments": times._FORM,
    "leaky values of a spec": validation._LEAKY_VALUE,
}
"""Every expression that the operator, or the redaction of both sides, runs over what somebody else wrote."""
PIECES = (
    "://", ":", "@", "/", " ", "\t", "a", "A", "0", "-", "_", ".", "=", "?", "&", '"', "|",
    "eyJ", "-eyJ", "eyJaaaaaaaaaa.", "hf_", "_sk-", "-----BEGIN ", "PRIVATE KE", "bearer ", "basic\t", "?sig=",
    "&token", "token", "?x-amz-a", 'File "', '", line 1 in ', "2026-03-01T", "_token_",
)  # fmt: skip
STARTS = ("", "://", "eyJ", "-----BEGIN ", "bearer", "?token", 'File "')
LENGTH = 50


def growth(pattern: re.Pattern[str], short: str, long: str) -> bool:
    """Whether a text of twice the length takes at most little more than twice the steps: four times, if quadratic."""
    return StepCounter(pattern).scan(long) <= 2.6 * StepCounter(pattern).scan(short) + 100


@pytest.mark.parametrize("name", PATTERNS)
def test_a_text_of_twice_the_length_takes_twice_the_steps(name: str) -> None:
    for start, pump in product(STARTS, PIECES):
        texts = [start + pump * (length // len(pump)) for length in (LENGTH, 2 * LENGTH)]
        assert growth(PATTERNS[name], *texts), (start, pump)


@pytest.mark.parametrize("name", PATTERNS)
@settings(max_examples=15, deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=4))
def test_so_does_any_mixture(name: str, pieces: list[str]) -> None:
    pump = "".join(pieces)
    assert growth(PATTERNS[name], pump * 6, pump * 12)


def test_the_steps_are_counted_as_they_are_taken() -> None:
    quadratic = StepCounter(re.compile("://[^/@ ]*:[^/@ ]*@"))
    assert quadratic.scan("://" + ":" * 100) > 3.5 * quadratic.scan("://" + ":" * 50)
    assert StepCounter(re.compile("ab")).scan("xabx") == 5


@pytest.mark.parametrize(
    "text",
    [
        "see https://me:made-up@host:443/x",
        "://a:b:c@d",
        "-----BEGIN EC PRIVATE KEY",
        f"x-eyJ{'a' * 10}.{'b' * 10}.",
        f"a.b.eyJ{'a' * 10}.{'b' * 10}.c",
    ],
)
def test_what_was_recognized_is_recognized_still(text: str) -> None:
    assert HIDDEN in without_secrets(text)


def test_a_long_text_is_cut_between_words_so_that_no_half_key_is_shown() -> None:
    key = f"hf_{'k' * 40}"
    text = "w " * (TEXT_LIMIT // 2 - 10) + key + " more" * 10_000
    assert "k" not in shown(text)
    assert len(shown(text)) <= TEXT_LIMIT + 10
    assert shown("k" * 100_000) == " ..."
    assert shown(f"a {key} b") == f"a {HIDDEN} b"
