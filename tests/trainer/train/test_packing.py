"""Packed documents do not see each other, and packing changes nothing but speed."""

from pathlib import Path
from typing import Any

import pytest

from support.trainer.training import build_trainer, documents, finish, job, read_metrics


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_a_packed_document_gets_the_logits_that_it_gets_alone(
    architecture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """On the trainer's own path: its data loader, its loss and what the model computes for that."""
    import torch

    model = request.getfixturevalue(architecture)
    trainer = build_trainer(tmp_path, job(model, packing=True, per_device_batch_size=2, max_steps=2))
    hidden: list[Any] = []
    backbone = trainer.model.get_decoder()
    backbone.register_forward_hook(lambda _module, _inputs, output: hidden.append(output.last_hidden_state))

    for batch in trainer.get_train_dataloader():
        hidden.clear()
        trainer.model.train()
        trainer.compute_loss(trainer.model, dict(batch))
        packed = trainer.model.get_output_embeddings()(hidden[0])[0]

        ids, starts = batch["input_ids"][0], (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
        bounds = list(zip(starts, [*starts[1:], len(ids)], strict=True))
        assert len(bounds) > 1
        for start, stop in bounds:
            alone = trainer.model(input_ids=ids[None, start:stop]).logits[0]
            torch.testing.assert_close(packed[start:stop], alone, rtol=0, atol=2e-6)


def test_no_document_is_trained_to_follow_from_the_one_before(qwen2: Path, tmp_path: Path) -> None:
    trainer = build_trainer(tmp_path, job(qwen2, packing=True, max_steps=2))

    for batch in trainer.get_train_dataloader():
        assert set(batch["labels"][batch["position_ids"] == 0].tolist()) == {-100}
        assert "attention_mask" not in batch


def test_every_token_of_every_document_is_trained_on_once_per_epoch(qwen2: Path, tmp_path: Path) -> None:
    trainer = build_trainer(tmp_path, job(qwen2, packing=True, max_steps=2), rows=24)

    seen = sorted(token for batch in trainer.get_train_dataloader() for token in batch["input_ids"][0].tolist())

    assert seen == sorted(token for ids in documents(24, seed=1) for token in ids)


def test_one_packed_sequence_at_a_time_is_the_same_training_as_a_batch_of_them(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job(qwen2, packing=True, per_device_batch_size=3, learning_rate=1e-2, epochs=3.0)
    one_at_a_time = finish(tmp_path / "one", config)
    monkeypatch.setattr(
        "sftjob_trainer.run.sft_config.micro_batches", lambda config, **_: (config.training.per_device_batch_size, 1)
    )
    batched = finish(tmp_path / "batched", config)

    for name in ("loss", "gradNorm", "evalLoss", "learningRate"):
        expected = read_metrics(batched.volume).values(name)
        assert len(expected) > 3
        assert read_metrics(one_at_a_time.volume).values(name) == pytest.approx(expected, abs=1e-5)
