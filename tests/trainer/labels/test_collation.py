"""Batches that are filled up at the beginning of their rows."""

from typing import Any

from sftjob_trainer.training.collation import LeftPadding

ROWS = [
    {"input_ids": [11, 12, 13, 14], "labels": [11, 12, 13, 14]},
    {"input_ids": [21, 22], "labels": [-100, 22]},
    {"input_ids": [31], "labels": [31]},
]


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in LeftPadding(pad_token_id=0)(rows).items()}


def test_rows_end_together() -> None:
    assert collate(ROWS) == {
        "input_ids": [[11, 12, 13, 14], [0, 0, 21, 22], [0, 0, 0, 31]],
        "attention_mask": [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]],
        "position_ids": [[0, 1, 2, 3], [0, 0, 0, 1], [0, 0, 0, 0]],
        # The token after padding is not trained: there is nothing to predict it from.
        "labels": [[-100, 12, 13, 14], [-100, -100, -100, 22], [-100, -100, -100, -100]],
    }


def test_rows_are_not_changed() -> None:
    collate(ROWS)
    assert ROWS[0] == {"input_ids": [11, 12, 13, 14], "labels": [11, 12, 13, 14]}


def test_the_loss_of_a_batch_is_that_of_rows_filled_up_at_their_end(llama: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    model = AutoModelForCausalLM.from_pretrained(llama).eval()
    with torch.no_grad():
        left = model(**LeftPadding(pad_token_id=0)(ROWS)).loss.item()
        right = model(**DataCollatorForLanguageModeling(pad_token_id=0)(ROWS)).loss.item()
    assert abs(left - right) < 1e-5
