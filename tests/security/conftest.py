"""What evil models, datasets and programs are made of, and whether any of them came to do something."""

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sftjob_trainer.process.environment import Environment
from support.servers.object_store import ObjectStore
from support.servers.web import Web, web
from support.trainer.preparing import Workbench, environment
from support.trainer.tiny import write_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights. Read only."""
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def bench(tmp_path: Path, tiny: Path) -> Workbench:
    return Workbench(tmp_path, tiny)


@pytest.fixture
def here(tmp_path: Path) -> Environment:
    """A container whose volume is the directory `volume`."""
    (tmp_path / "volume").mkdir()
    return environment(tmp_path / "volume")


@dataclass(frozen=True)
class Trap:
    """Code that leaves something at a place when it runs."""

    file: Path

    @property
    def code(self) -> str:
        """Python that springs it."""
        return f"from pathlib import Path\nPath({str(self.file)!r}).touch()\n"

    @property
    def pickled(self) -> bytes:
        """A pickle that springs it when it is loaded without care."""
        return pickle.dumps(_Touch(str(self.file)), protocol=2)

    @property
    def sprung(self) -> bool:
        """Whether it ran."""
        return self.file.exists()


class _Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (self.path,)


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path / "ran")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """An empty object store that the environment leads to."""
    with ObjectStore({"lab/empty": b""}) as running:
        running.be_the_one_of(monkeypatch)
        yield running


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A web server that the trainer trusts."""
    with web(tmp_path, {}) as running:
        monkeypatch.setenv("SSL_CERT_FILE", str(running.certificate))
        yield running
