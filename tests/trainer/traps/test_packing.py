"""Packed documents that see each other, or cost more than they should, and what we do with the same rows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.run.config import PaddingSide
from support.trainer.stock import STOCK_WARNS, stock_trainer
from support.trainer.training import build_trainer, documents, job

pytestmark = STOCK_WARNS


def rows(count: int = 24) -> list[dict[str, list[int]]]:
    """Documents as tokens, trained as a whole."""
    return [{"input_ids": ids, "labels": ids} for ids in documents(count, seed=1)]


WRONG: list[tuple[str, Any]] = [
    ("with a cache", lambda batch: {"position_ids": batch["position_ids"]}),
    (
        "with a mask of ones",
        lambda batch: {
            "position_ids": batch["position_ids"],
            "attention_mask": batch["input_ids"] ** 0,
            "use_cache": False,
        },
    ),
    ("without positions", lambda _batch: {"use_cache": False}),
]


@pytest.mark.parametrize("arguments", [way for _, way in WRONG], ids=[name for name, _ in WRONG])
def test_a_plain_forward_pass_mixes_packed_documents_and_ours_does_not(
    qwen2: Path, tmp_path: Path, arguments: Any
) -> None:
    """transformers says nothing in any of these cases; how documents are kept apart depends on all three."""
    import torch
    from transformers import AutoModelForCausalLM

    stock = AutoModelForCausalLM.from_pretrained(qwen2)
    trainer = build_trainer(tmp_path, job(qwen2, packing=True, max_steps=2))
    batch = next(iter(trainer.get_train_dataloader()))
    ids, starts = batch["input_ids"], (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    hidden: list[Any] = []
    trainer.model.get_decoder().register_forward_hook(lambda *given: hidden.append(given[2].last_hidden_state))
    with torch.no_grad():
        alone = stock(input_ids=ids[:, starts[1] : starts[2]]).logits[0]
        mixed = stock(input_ids=ids, **arguments(batch)).logits[0, starts[1] : starts[2]]
        trainer.compute_loss(trainer.model, dict(batch))
        ours = trainer.model.get_output_embeddings()(hidden[-1])[0, starts[1] : starts[2]]

    assert float((mixed - alone).abs().max()) > 1e-2
    torch.testing.assert_close(ours, alone, rtol=0, atol=1e-5)


def test_a_step_attends_within_one_sequence_where_trl_attends_over_the_whole_batch(qwen2: Path, tmp_path: Path) -> None:
    """Without flash attention the cost of a batch grows with the square of its length."""
    stock = stock_trainer(qwen2, rows(), tmp_path / "stock", packing=True, per_device_train_batch_size=4)
    config = job(qwen2, packing=True, per_device_batch_size=4, max_steps=1)
    ours = build_trainer(tmp_path / "ours", config)

    assert next(iter(stock.get_train_dataloader()))["input_ids"].numel() > 2 * 64
    assert all(batch["input_ids"].numel() <= 64 for batch in ours.get_train_dataloader())
    assert ours.args.gradient_accumulation_steps == 4


def test_packing_goes_with_padding_on_the_left_where_trl_refuses_another_collator(qwen2: Path, tmp_path: Path) -> None:
    """Packed sequences are never filled up, so the side does not matter to them."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    with pytest.raises(ValueError, match="Passing a custom data collator is not supported when using padding-free"):
        stock_trainer(
            qwen2,
            rows(),
            tmp_path / "stock",
            packing=True,
            trainer={"data_collator": DataCollatorForLanguageModeling(pad_token_id=0)},
        )

    config = job(qwen2, packing=True, max_steps=1)
    left = replace(config, model=replace(config.model, padding_side=PaddingSide.LEFT))
    batches = [
        next(iter(build_trainer(tmp_path / str(number), one).get_train_dataloader()))
        for number, one in enumerate((config, left))
    ]
    assert batches[0]["input_ids"].tolist() == batches[1]["input_ids"].tolist()
