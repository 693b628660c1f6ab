"""The real model, converted once for all sessions and kept in pytest's cache."""

from pathlib import Path

import pytest

from support.trainer import smollm2 as real


@pytest.fixture(scope="session")
def smollm2(request: pytest.FixtureRequest) -> Path:
    """SmolLM2-135M-Instruct in bf16. Read only."""
    return real.smollm2(request.config.cache.mkdir("smollm2"))


@pytest.fixture(scope="session")
def smollm2_tokenizer(request: pytest.FixtureRequest) -> Path:
    """The tokenizer of SmolLM2-135M-Instruct with its chat template. Read only."""
    return real.smollm2_tokenizer(request.config.cache.mkdir("smollm2"))
