"""Collation of rows into batches with left padding."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from sftjob_trainer.tokens.tokenizer import NOT_TRAINED


class LeftPadding(DataCollatorForLanguageModeling):
    """TRL's collator with padding on the left instead of the right.

    Positions count from a row's own first token, as they would without padding. That token is not trained, because only
    padding precedes it.
    """

    def torch_call(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """`input_ids`, `labels`, `attention_mask` and `position_ids`, each (rows, longest row)."""
        mirrored = [{key: list(row[key])[::-1] for key in ("input_ids", "labels")} for row in examples]
        for row in mirrored:
            row["labels"][-1] = NOT_TRAINED
        batch = {name: tensor.flip(1) for name, tensor in super().torch_call(mirrored).items()}
        positions = batch["attention_mask"].cumsum(1) - 1
        return {**batch, "position_ids": positions.clamp(min=0)}
