"""Tokenizers of two kinds. Each test gets a fresh one, since templates are set on them."""

from pathlib import Path
from typing import Any

import pytest

from sftjob_trainer.tokens.tokenizer import load_tokenizer
from support.trainer.chats import config, write_plain_tokenizer


@pytest.fixture
def tokenizer(model_without_weights: Path) -> Any:
    """Made for ChatML: it has <|im_start|> and ends with <|im_end|>."""
    return load_tokenizer(model_without_weights, config().model)


@pytest.fixture(scope="session")
def plain_tokenizer_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain_tokenizer(tmp_path_factory.mktemp("plain"))


@pytest.fixture
def plain_tokenizer(plain_tokenizer_directory: Path) -> Any:
    """Made for text: no chat tokens, it ends with <|endoftext|>."""
    return load_tokenizer(plain_tokenizer_directory, config().model)
