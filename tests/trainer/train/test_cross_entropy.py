"""The cross entropy that is computed on a CPU is TRL's: its loss, its gradients, its count of tokens."""

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from trl import SFTTrainer

from sftjob_contract.run.config import Precision, RunConfig
from sftjob_trainer.models.output_head import CHUNK_TOKENS, OutputHead
from sftjob_trainer.training.sft_trainer import Trainer, cross_entropy
from support.trainer.tiny import lora, write_tokenizer
from support.trainer.training import PEFT_IS_BEHIND, build_trainer, finish, job, read_metrics

pytestmark = PEFT_IS_BEHIND

WAYS: list[Any] = [
    pytest.param({}, id="full"),
    pytest.param({"packing": True}, id="packed"),
    pytest.param({"method": lora()}, id="LoRA"),
    pytest.param({"method": lora(), "packing": True, "gradient_checkpointing": True}, id="LoRA, packed, checkpointing"),
]


def head(vocabulary: int = 23, width: int = 8, *, bias: bool = False) -> OutputHead:
    torch.manual_seed(0)
    return OutputHead(linear=torch.nn.Linear(width, vocabulary, bias=bias), scale=1.0, cap=None)


def some_batch(length: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Last hidden states and labels, some of them not trained."""
    torch.manual_seed(1)
    labels = torch.randint(0, 23, (3, length))
    labels[0, :4] = labels[2, 5:] = -100
    return torch.randn(3, length, 8, requires_grad=True), labels


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("length", [7, CHUNK_TOKENS + 5])
def test_the_loss_and_its_gradients_are_those_of_the_definition(length: int, bias: bool) -> None:
    """In float64, of all logits at once."""
    model, (hidden, labels) = head(bias=bias), some_batch(length)
    weights = list(model.linear.parameters())
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, *weights)]
    logits = functional.linear(exact[0], exact[1], exact[2] if bias else None)
    expected = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum", ignore_index=-100
    )

    found = cross_entropy(hidden, model, labels)

    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    for own, by_definition in zip(
        torch.autograd.grad(found, [hidden, *weights]), torch.autograd.grad(expected, exact), strict=True
    ):
        torch.testing.assert_close(own.double(), by_definition, rtol=1e-5, atol=1e-5)


def test_a_batch_with_nothing_to_train_on_is_a_differentiable_zero() -> None:
    hidden, labels = some_batch()

    loss = cross_entropy(hidden, head(), torch.full_like(labels, -100))
    (gradient,) = torch.autograd.grad(loss, hidden)

    assert float(loss.detach()) == 0
    assert float(gradient.abs().sum()) == 0


def largest(hidden: torch.Tensor, labels: torch.Tensor, vocabulary: int) -> int:
    """Numbers of the largest tensor that any operation of the loss and of its gradients is given."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as watched:
        cross_entropy(hidden, head(vocabulary), labels).backward()
    return max(math.prod(shape) for event in watched.events() for shape in event.input_shapes if shape)


def test_only_trained_tokens_get_logits_and_no_more_than_a_chunk_of_them_at_a_time() -> None:
    vocabulary = 1000
    hidden = torch.randn(2, 2 * CHUNK_TOKENS, 8, requires_grad=True)
    labels = torch.randint(0, vocabulary, hidden.shape[:2])
    few = labels.clone()
    few[:, 100:] = -100

    assert largest(hidden, labels, vocabulary) == CHUNK_TOKENS * vocabulary
    assert largest(hidden, few, vocabulary) == 2 * 99 * vocabulary


@pytest.mark.parametrize("options", WAYS)
def test_a_batch_has_the_loss_and_the_gradients_that_trl_gives_it(
    qwen2: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    trainer = build_trainer(tmp_path, job(qwen2, max_steps=2, per_device_batch_size=4, **options))
    trainer.model.train()
    for batch in trainer.get_train_dataloader():
        for given in (None, 40):
            found = []
            for compute_loss in (Trainer.compute_loss, SFTTrainer.compute_loss):
                trainer.model.zero_grad()
                loss = compute_loss(trainer, trainer.model, dict(batch), num_items_in_batch=given)
                loss.backward()
                found.append(
                    [
                        loss.detach(),
                        *(weights.grad.clone() for weights in trainer.model.parameters() if weights.grad is not None),
                    ]
                )
            assert len(found[0]) > 1
            for own, trl in zip(*found, strict=True):
                torch.testing.assert_close(own, trl, rtol=1e-5, atol=1e-6)
        assert trainer._seen_tokens == trainer._total_train_tokens > 0  # each has been through twice


@pytest.mark.parametrize("options", [*WAYS, pytest.param({"precision": Precision.BF16}, id="bf16")])
def test_a_run_goes_as_with_trls_own_loss(
    qwen2: Path, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bf16 TRL rounds logits, PyTorch does not."""
    config = job(qwen2, max_steps=6, gradient_accumulation_steps=2, evaluate_every=2, **options)
    by_pytorch = read_metrics(finish(tmp_path / "PyTorch", config).volume)
    monkeypatch.setattr(Trainer, "_head_on_cpu", lambda _: (None, "as on a GPU"))
    without_metrics = read_metrics(finish(tmp_path / "without metrics", config).volume)
    monkeypatch.setattr(Trainer, "_is_cross_entropy_alone", lambda _: False)
    theirs = read_metrics(finish(tmp_path / "theirs", config).volume)

    close = 2e-3 if options.get("precision") is Precision.BF16 else 1e-5
    for name in ("loss", "evalLoss", "gradNorm"):
        expected = theirs.values(name)
        assert len(expected) > 3
        assert by_pytorch.values(name) == pytest.approx(expected, abs=10 * close if name == "gradNorm" else close)
        assert without_metrics.values(name) == pytest.approx(expected, abs=1e-5)
    assert by_pytorch.values("tokens") == without_metrics.values("tokens") == theirs.values("tokens")


def said_of(trainer: Any, caplog: pytest.LogCaptureFixture) -> str:
    assert isinstance(trainer, Trainer)
    [line] = [one.getMessage() for one in caplog.records if one.getMessage().startswith("cross entropy computed by")]
    return line


def soft_capped(directory: Path) -> Path:
    """A Gemma 2 model, whose logits are soft capped."""
    from transformers import AutoModelForCausalLM, Gemma2Config

    write_tokenizer(directory)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = Gemma2Config(vocab_size=512, eos_token_id=2, bos_token_id=None, pad_token_id=0, **shape, **heads)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


def mixture_of_experts(directory: Path) -> Path:
    """A Mixtral model that balances its experts by a loss of their own."""
    from transformers import AutoModelForCausalLM, MixtralConfig

    write_tokenizer(directory)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_local_experts": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    balance = {"output_router_logits": True, "router_aux_loss_coef": 0.1}
    config = MixtralConfig(
        vocab_size=512, eos_token_id=2, bos_token_id=None, pad_token_id=0, **shape, **heads, **balance
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


def with_extra(config: RunConfig, **extra: Any) -> RunConfig:
    return replace(config, training=replace(config.training, extra=extra))


def test_the_log_says_who_computes_the_loss_and_why(
    qwen2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    trainer = build_trainer(tmp_path, job(qwen2, max_steps=2))

    assert said_of(trainer, caplog) == "cross entropy computed by PyTorch: training runs on the CPU"


@pytest.mark.parametrize(
    ("model", "extra", "reason"),
    [
        (None, {"loss_type": "dft"}, "it is not the cross entropy alone"),
        (mixture_of_experts, {}, "it is not the cross entropy alone"),
    ],
    ids=["dft", "mixture of experts"],
)
def test_a_loss_that_is_more_is_left_to_trl(
    qwen2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, model: Any, extra: dict[str, Any], reason: str
) -> None:
    caplog.set_level(logging.INFO)
    directory = qwen2 if model is None else model(tmp_path / "model")
    config = with_extra(job(directory, max_steps=2), **extra)

    trainer = build_trainer(tmp_path / "volume", config)
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    losses = [
        compute(trainer, trainer.model, dict(batch)) for compute in (Trainer.compute_loss, SFTTrainer.compute_loss)
    ]

    assert said_of(trainer, caplog) == f"cross entropy computed by TRL: {reason}"
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("options", [{}, {"method": lora()}], ids=["full", "LoRA"])
def test_logits_that_are_more_than_a_linear_layer_go_through_trls_head_without_its_metrics(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    from trl.kernels import ChunkedLogProbFunction

    caplog.set_level(logging.INFO)
    trainer = build_trainer(tmp_path / "volume", job(soft_capped(tmp_path / "model"), max_steps=2, **options))
    trainer.model.train()
    batch = dict(next(iter(trainer.get_train_dataloader())))
    wanted: list[tuple[str, ...]] = []
    forward = ChunkedLogProbFunction.forward
    monkeypatch.setattr(
        ChunkedLogProbFunction, "forward", staticmethod(lambda *given: wanted.append(given[-1]) or forward(*given))
    )

    loss = Trainer.compute_loss(trainer, trainer.model, dict(batch))

    assert said_of(trainer, caplog) == (
        "cross entropy computed by TRL: logits are more than a linear layer of the last hidden states"
    )
    assert wanted == [("log_probs",)]
    labels = batch.pop("labels")
    logits = trainer.model(**batch).logits[:, :-1]
    torch.testing.assert_close(loss, functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten()))


def test_tokens_are_counted_on_the_device_and_read_when_they_are_logged(qwen2: Path, tmp_path: Path) -> None:
    """Reading a number from a GPU waits for it: not in every micro-batch."""
    trainer = build_trainer(tmp_path, job(qwen2, max_steps=2))
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()

    trainer.compute_loss(trainer.model, dict(batch))

    assert isinstance(trainer._seen_tokens, torch.Tensor)
    assert int(trainer._seen_tokens) == int(batch["attention_mask"].sum())
