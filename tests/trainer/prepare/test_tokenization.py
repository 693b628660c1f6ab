"""The tokenizer that comes with a model."""

from dataclasses import replace
from pathlib import Path

import pytest

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import PaddingSide
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.tokens.tokenizer import load_tokenizer
from support.trainer.chats import config
from support.trainer.tiny import write_tokenizer

MODEL = config().model


@pytest.mark.parametrize("side", PaddingSide)
def test_the_tokenizer_pads_where_the_config_says(side: PaddingSide, model_without_weights: Path) -> None:
    assert load_tokenizer(model_without_weights, replace(MODEL, padding_side=side)).padding_side == side.value


def test_a_tokenizer_without_an_end_of_sequence_token_is_refused(model_without_weights: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model_without_weights, MODEL)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(StageError, match="the model's tokenizer has no end-of-sequence token"):
        load_tokenizer(tmp_path, MODEL)


def test_a_tokenizer_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(StageError) as raised:
        load_tokenizer(tmp_path, MODEL)
    assert raised.value.message == (
        "the model's tokenizer cannot be loaded: none of vocab.json, merges.txt, tokenizer.json is there"
    )
    assert raised.value.reason is Reason.CONFIG_INVALID


def test_a_broken_tokenizer_is_told(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(StageError, match=r"^the model's tokenizer cannot be loaded: ") as raised:
        load_tokenizer(tmp_path, MODEL)
    assert raised.value.reason is Reason.CONFIG_INVALID


def test_code_that_comes_with_a_model_is_not_run_unasked(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}')
    (tmp_path / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["own.OwnTokenizer", null]}}')
    (tmp_path / "own.py").write_text("raise SystemExit('this code must not run')\n")
    with pytest.raises(StageError, match=r"read that code, then set model\.trustRemoteCode: true"):
        load_tokenizer(tmp_path, MODEL)
