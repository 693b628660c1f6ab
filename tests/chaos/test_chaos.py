"""A short chaos; `make chaos` plays a long one."""

import random
from collections.abc import Collection
from pathlib import Path

import pytest
from rich.console import Console

from chaos import admission
from chaos.chaos import Chaos, Deck
from support.checks.exposure import exposed
from support.checks.rbac import Grant
from support.checks.rights import not_granted


@pytest.mark.slow
def test_what_is_disturbed_ends_as_what_is_left_alone(tmp_path: Path, granted: Collection[Grant]) -> None:
    with Chaos(tmp_path, 11, Console()) as chaos:
        chaos.play()
        assert exposed(chaos.stack, chaos.kubectl) == []
    assert not_granted(chaos.stack.api.asked, granted) == set()
    assert chaos.tally.violations == []
    assert chaos.tally.injected.total() > 0


@pytest.mark.slow
def test_whatever_admission_refuses_for_a_while_every_job_ends_as_it_should(tmp_path: Path) -> None:
    refused = admission.play(tmp_path, 1, lasts_seconds=20)
    assert refused.violations == []
    assert len(refused.denials) > 10


def test_each_card_comes_once_before_any_comes_again() -> None:
    deck = Deck("abc", random.Random(1))

    dealt = ["".join(sorted(deck.draw() for _ in "abc")) for _ in range(20)]

    assert set(dealt) == {"abc"}
