"""A short chaos; `make chaos` plays a long one."""

from collections.abc import Collection
from pathlib import Path

import pytest
from rich.console import Console

from chaos.chaos import Chaos
from support.exposure import exposed
from support.rbac import Grant
from support.rights import not_granted

pytestmark = pytest.mark.slow


def test_what_is_disturbed_ends_as_what_is_left_alone(tmp_path: Path, granted: Collection[Grant]) -> None:
    with Chaos(tmp_path, 11, Console()) as chaos:
        chaos.play()
        assert exposed(chaos.stack, chaos.kubectl) == []
    assert not_granted(chaos.stack.api.asked, granted) == set()
    assert chaos.tally.violations == []
    assert chaos.tally.injected.total() > 0
