"""Tiny models, made once per test process, and nothing left behind in it."""

import importlib.metadata
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sftjob_trainer.process import subprocess_check
from support.forking import python
from support.trainer.added_tokens import without_room
from support.trainer.tiny import CHATML_GENERATION, write_model, write_model_without_weights


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 model with random weights; plain ChatML template. Read only."""
    return write_model(tmp_path_factory.mktemp("qwen2"))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama model with random weights; ChatML template with generation markers. Read only."""
    return write_model(tmp_path_factory.mktemp("llama"), "llama", chat_template=CHATML_GENERATION)


@pytest.fixture(scope="session")
def tied(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a tied head and no rows for added tokens. Read only."""
    return without_room(qwen2, tmp_path_factory.mktemp("tied") / "model")


@pytest.fixture(scope="session")
def untied(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a head of its own and no rows for added tokens. Read only."""
    return without_room(llama, tmp_path_factory.mktemp("untied") / "model")


@pytest.fixture(scope="session")
def model_without_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `prepare` reads of a model. Read only."""
    return write_model_without_weights(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session", autouse=True)
def trl_has_seen_all_packages() -> None:
    """Import TRL before a test hides a package: its modules keep for ever what they found when they were imported."""
    importlib.import_module("trl.trainer.sft_trainer")


@pytest.fixture(scope="session", autouse=True)
def metadata_of_packages_is_read_once() -> Iterator[None]:
    """Libraries and the trainer ask for versions in each run, and every answer is a file that is parsed."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("metadata", "version"):
            patch.setattr(importlib.metadata, name, cache(getattr(importlib.metadata, name)))
        yield


class SystemWithForks:
    """The module `sys`, whose Python forks trainers."""

    @property
    def executable(self) -> str:
        return str(python())

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)


@pytest.fixture(autouse=True)
def checks_of_prepare_are_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that Prepare starts to try options or packing has the libraries already."""
    monkeypatch.setattr(subprocess_check, "sys", SystemWithForks())


@pytest.fixture(autouse=True)
def hidden_packages_are_seen_again() -> Iterator[None]:
    """What a trainer hides from itself as long as its process lives is hidden for one test only."""
    yield
    for name in ("wandb", "bitsandbytes"):
        if sys.modules.get(name, "") is None:
            del sys.modules[name]
    if peft := sys.modules.get("peft"):
        peft.import_utils.is_bnb_available.cache_clear()
        peft.import_utils.is_bnb_4bit_available.cache_clear()
