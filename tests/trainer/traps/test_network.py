"""Addresses that are asked for during a run whose model and data are all local."""

import socket
from pathlib import Path
from threading import Event
from typing import Any, NoReturn

import pytest

from support.trainer.stock import STOCK_WARNS, stock_trainer
from support.trainer.training import documents

pytestmark = STOCK_WARNS


def test_trl_calls_home_when_a_trainer_is_made(qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our side: a whole run as a process asks for no address."""
    asked, found = [], Event()

    def refuse(host: Any, *_: Any, **__: Any) -> NoReturn:
        asked.append(host)
        found.set()
        raise socket.gaierror(socket.EAI_NONAME, "there is no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("CI", raising=False)  # with it TRL stays silent
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", False)

    stock_trainer(qwen2, [{"input_ids": documents(1, seed=1)[0]}], tmp_path)

    assert found.wait(30)
    assert asked
