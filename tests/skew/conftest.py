"""The previous release, beside this version."""

import pytest

from support.stacks.previous import Previous, extract_previous


@pytest.fixture(scope="session")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Previous:
    """Its sources, extracted once."""
    return extract_previous(tmp_path_factory.mktemp("previous"))
