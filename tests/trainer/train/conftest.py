"""One finished run that many tests look at, and no waiting for the disk."""

import os
from pathlib import Path

import pytest

from support.trainer.training import Finished, finish, job


@pytest.fixture(scope="session")
def finished(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two epochs of 6 steps, full fine-tuning in fp32, with evaluation and checkpoint at steps 4, 8 and 12."""
    config = job(
        qwen2,
        save_every=4,
        evaluate_every=4,
        epochs=2.0,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        warmup_ratio=0.2,
    )
    return finish(tmp_path_factory.mktemp("finished"), config)


@pytest.fixture(autouse=True)
def nothing_waits_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test outlives a crash of the machine. Those of the order of writes look at their own `fsync`."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.fixture
def cpu_with_avx512_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bitsandbytes finds such a CPU, an evaluation repacks 4-bit weights and spoils gradients through them."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
