"""Packed documents get the logits that they get alone, in every implementation of attention that runs on a CPU."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.run.config import Attention
from sftjob_trainer.models.hardware import VARLEN_ATTENTION
from support.trainer.training import build_trainer, job

TOLERANCE = 1e-5


def largest_difference(trainer: Any, model: Any, documents: int = 24) -> float:
    """Between logits of documents packed, on the way that the trainer's loss takes, and alone in `model`."""
    import torch

    hidden: list[Any] = []
    decoder = trainer.model.get_decoder()
    decoder.register_forward_hook(lambda _module, _inputs, output: hidden.append(output.last_hidden_state))
    differences = []
    for batch in trainer.get_train_dataloader():
        hidden.clear()
        with torch.no_grad():
            trainer.compute_loss(trainer.model, dict(batch))
            packed = trainer.model.get_output_embeddings()(hidden[0])[0]
            ids, starts = batch["input_ids"][0], (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
            for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
                alone = model(input_ids=ids[None, start:stop]).logits[0]
                differences.append(float((packed[start:stop] - alone).abs().max()))
    assert len(differences) == documents
    return max(differences)


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
@pytest.mark.parametrize("attention", [Attention.EAGER, Attention.SDPA, Attention.AUTO])
def test_packed_logits_equal_unpacked_ones(
    attention: Attention, architecture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = request.getfixturevalue(architecture)
    config = job(model, packing=True, max_steps=2)
    trainer = build_trainer(tmp_path, replace(config, model=replace(config.model, attention=attention)))
    expected = VARLEN_ATTENTION if attention is Attention.AUTO else attention.value
    assert trainer.model.config._attn_implementation == expected

    assert largest_difference(trainer, AutoModelForCausalLM.from_pretrained(model)) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:flex_attention called without torch.compile")
def test_they_do_in_flex_attention_which_has_no_gradients_on_a_cpu(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with it is refused there, so its machine is pretended; the forward pass is real, but not compiled."""
    import torch
    from transformers import AutoModelForCausalLM

    from sftjob_trainer.models import hardware
    from sftjob_trainer.training import build

    def with_flex(asked: Any, machine: Any) -> Any:
        return replace(hardware.choose(asked, machine), attention=Attention.FLEX_ATTENTION)

    monkeypatch.setattr(build, "choose", with_flex)
    trainer = build_trainer(tmp_path, job(qwen2, packing=True, max_steps=2), rows=8)
    assert trainer.model.config._attn_implementation == "flex_attention"

    with torch.compiler.set_stance("force_eager"):
        difference = largest_difference(trainer, AutoModelForCausalLM.from_pretrained(qwen2), documents=8)
    assert difference <= TOLERANCE
