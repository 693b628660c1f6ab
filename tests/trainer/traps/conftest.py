from pathlib import Path

import pytest

from support.trainer.preparing import Workbench


@pytest.fixture
def bench(tmp_path: Path, qwen2: Path) -> Workbench:
    """A place to prepare data in, with a model that can be trained; its template is plain ChatML."""
    return Workbench(tmp_path, qwen2)
