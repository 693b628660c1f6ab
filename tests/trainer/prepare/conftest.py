from pathlib import Path

import pytest

from support.trainer.preparing import Workbench


@pytest.fixture
def bench(tmp_path: Path, model_without_weights: Path) -> Workbench:
    return Workbench(tmp_path, model_without_weights)
