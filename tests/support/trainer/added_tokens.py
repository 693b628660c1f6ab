"""Tokens that a job adds, and a model whose embedding has no room for them."""

import shutil
from dataclasses import replace
from pathlib import Path

from sftjob_contract.run.config import RunConfig

TOOL, END, NOTE = "<|tool|>", "<|end_tool|>", "#note"
FIRST_ID = 411
"""Id of the first token that is added to a tiny tokenizer."""


def adding(config: RunConfig, plain: tuple[str, ...] = (NOTE,), special: tuple[str, ...] = (TOOL, END)) -> RunConfig:
    """`config` with tokens added, in the form in which the operator writes them."""
    model = replace(config.model, added_tokens=plain or None, added_special_tokens=special or None)
    return replace(config, model=model)


def without_room(model: Path, directory: Path) -> Path:
    """The tiny `model` with as many rows as its tokenizer has tokens, saved into `directory`."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(model, directory)
    whole = AutoModelForCausalLM.from_pretrained(model)
    whole.resize_token_embeddings(FIRST_ID)
    whole.save_pretrained(directory)
    return directory
