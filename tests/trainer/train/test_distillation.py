"""Distillation: the loss is that of its formula, in memory for a chunk of tokens, and the student learns from it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import Metric, Precision, RunConfig
from sftjob_contract.run.method import ComputeDtype, Distillation, Method, Quantization, QuantizationType, Teacher
from sftjob_contract.run.sources import all_sources
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.training import distillation
from sftjob_trainer.training.distillation import OutputHead, Weights, distillation_loss
from sftjob_trainer.training.starting_point import check_teacher_tokenizer
from support.trainer.tiny import lora, run_config, write_model
from support.trainer.training import PEFT_IS_BEHIND, build_trainer, finish, job, read_metrics, run_train, write_prepared

pytestmark = PEFT_IS_BEHIND

QUANTIZED = Quantization(
    bits=4, type=QuantizationType.NF4, double_quantization=True, compute_dtype=ComputeDtype.BFLOAT16
)


def by_definition(
    ours: torch.Tensor, theirs: torch.Tensor, labels: torch.Tensor, alpha: float, temperature: float
) -> float:
    """The loss in float64, one token at a time; logits are (batch, length, vocabulary)."""
    total = 0.0
    for row in range(labels.shape[0]):
        for at in range(1, labels.shape[1]):
            label = int(labels[row, at])
            if label == -100:
                continue
            student, teacher = (logits[row, at - 1].detach().double() for logits in (ours, theirs))
            p, q = (torch.softmax(logits / temperature, 0) for logits in (teacher, student))
            divergence = float((p * (p.log() - q.log())).sum())
            entropy = -float(torch.log_softmax(student, 0)[label])
            total += alpha * temperature**2 * divergence + (1 - alpha) * entropy
    return total


def heads(vocabulary: int = 23, width: int = 8) -> tuple[OutputHead, OutputHead]:
    torch.manual_seed(0)
    return (
        OutputHead(linear=torch.nn.Linear(width, vocabulary), scale=1.0, cap=None),
        OutputHead(linear=torch.nn.Linear(2 * width, vocabulary, bias=False), scale=0.5, cap=3.0),
    )


def some_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Last hidden states of student and teacher, and labels, some of them not trained."""
    torch.manual_seed(1)
    labels = torch.randint(0, 23, (3, 7))
    labels[0, :4] = labels[2, 5:] = -100
    return torch.randn(3, 7, 8, requires_grad=True), torch.randn(3, 7, 16), labels


@pytest.mark.parametrize(("alpha", "temperature"), [(0.7, 3.0), (0.0, 2.0), (1.0, 1.0), (0.5, 0.5)])
def test_the_loss_is_that_of_the_formula(alpha: float, temperature: float) -> None:
    student, teacher = heads()
    ours, theirs, labels = some_batch()
    weights = Weights(alpha=alpha, temperature=temperature, vocabulary=23)

    found = distillation_loss((ours, student), (theirs, teacher), labels, weights)

    teacher_logits = 3.0 * torch.tanh(0.5 * teacher.linear(theirs) / 3.0)
    expected = by_definition(student.linear(ours), teacher_logits, labels, alpha, temperature)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


def test_chunks_change_neither_loss_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = heads()
    ours, theirs, labels = some_batch()
    weights = Weights(alpha=0.7, temperature=2.0, vocabulary=23)
    found = []
    for chunk in (512, 4, 1):
        monkeypatch.setattr(distillation, "CHUNK_TOKENS", chunk)
        student.linear.zero_grad()
        loss = distillation_loss((ours, student), (theirs, teacher), labels, weights)
        (gradient,) = torch.autograd.grad(loss, ours, retain_graph=True)
        (head,) = torch.autograd.grad(loss, student.linear.weight)
        found.append((loss.detach(), gradient, head))

    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_no_more_than_a_chunk_of_logits_exists_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither while the loss is computed nor kept for its gradient."""
    monkeypatch.setattr(distillation, "CHUNK_TOKENS", 4)
    student, teacher = heads()
    ours, theirs, labels = some_batch()
    sizes: list[int] = []

    def kept(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    student.linear.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0]) * 23))
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        loss = distillation_loss(
            (ours, student), (theirs, teacher), labels, Weights(alpha=0.5, temperature=1.0, vocabulary=23)
        )
    before = len(sizes)
    loss.backward()

    assert len(sizes) > before  # each chunk is computed once more for its gradient
    whole = int((labels[:, 1:] != -100).sum()) * 23
    assert max(sizes) < whole
    assert max(sizes) <= max(4 * 23, ours.numel())


def test_the_padding_of_a_larger_vocabulary_takes_no_part() -> None:
    student, _ = heads()
    _, larger = heads(vocabulary=31)
    smaller = OutputHead(linear=torch.nn.Linear(16, 23, bias=False), scale=larger.scale, cap=larger.cap)
    smaller.linear.weight.data = larger.linear.weight.data[:23]
    ours, theirs, labels = some_batch()
    weights = Weights(alpha=0.7, temperature=2.0, vocabulary=23)

    losses = [distillation_loss((ours, student), (theirs, head), labels, weights) for head in (smaller, larger)]

    torch.testing.assert_close(losses[0], losses[1])


def test_a_batch_with_nothing_to_train_on_is_a_differentiable_zero() -> None:
    student, teacher = heads()
    ours, theirs, labels = some_batch()

    loss = distillation_loss(
        (ours, student),
        (theirs, teacher),
        torch.full_like(labels, -100),
        Weights(alpha=0.5, temperature=1.0, vocabulary=23),
    )
    loss.backward()

    assert float(loss.detach()) == 0
    assert ours.grad is not None
    assert float(ours.grad.abs().sum()) == 0


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the student's tokenizer and other weights."""
    return write_model(tmp_path_factory.mktemp("teacher"), "llama", seed=5)


def distilling(model: Path, teacher: Path, method: Method | None = None, **options: Any) -> RunConfig:
    given = {"alpha": 0.7, "temperature": 2.0, **{key: options.pop(key) for key in ("alpha",) if key in options}}
    config = job(model, method=method or Method(lora=None, quantization=None, distillation=None), **options)
    source = Teacher(source=str(teacher), revision=None)
    return replace(config, method=replace(config.method, distillation=Distillation(teacher=source, **given)))


@pytest.mark.parametrize("options", [{"packing": True}, {"gradient_checkpointing": True}, {}, {"method": lora()}])
def test_the_loss_of_a_step_is_the_mean_over_its_trained_tokens(
    qwen2: Path, teacher: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """The first logged loss, before any update, against the whole models on one row at a time."""
    from datasets import load_from_disk
    from transformers import AutoModelForCausalLM

    config = distilling(qwen2, teacher, max_steps=1, per_device_batch_size=3, gradient_accumulation_steps=8, **options)
    run = finish(tmp_path / "run", config)
    rows = load_from_disk(write_rows(tmp_path / "rows", config))
    models = [AutoModelForCausalLM.from_pretrained(path).eval() for path in (qwen2, teacher)]
    total, tokens = 0.0, 0
    for row in rows:
        with torch.no_grad():
            ours, theirs = (model(input_ids=torch.tensor([row["input_ids"]])).logits for model in models)
        total += by_definition(ours, theirs, torch.tensor([row["labels"]]), 0.7, 2.0)
        tokens += sum(label != -100 for label in row["labels"][1:])

    assert read_metrics(run.volume).values("loss")[1] == pytest.approx(total / tokens, rel=1e-5)
    assert run.outcome.progress is not None
    assert run.outcome.progress.tokens == run.stats.tokens


def write_rows(volume: Path, config: RunConfig) -> Path:
    """The unpacked training rows."""
    write_prepared(volume, replace(config, training=replace(config.training, packing=False)))
    return volume / "prepared" / "train"


def test_the_student_comes_closer_to_its_teacher(qwen2: Path, teacher: Path, tmp_path: Path) -> None:
    config = distilling(qwen2, teacher, alpha=1.0, epochs=6.0, learning_rate=1e-2)

    losses = read_metrics(finish(tmp_path, config).volume).values("loss")

    assert min(losses) >= 0
    assert losses[max(losses)] < 0.7 * losses[1]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"precision": Precision.BF16}, id="bf16"),
        pytest.param(
            {"precision": Precision.BF16, "method": lora(), "packing": True, "epochs": 3.0}, id="bf16 LoRA, packed"
        ),
        pytest.param({"method": lora(quantization=QUANTIZED)}, id="QLoRA"),
        pytest.param({"method": lora(quantization=QUANTIZED), "precision": Precision.BF16}, id="bf16 QLoRA"),
    ],
)
def test_a_student_of_any_precision_learns_and_answers(
    qwen2: Path, teacher: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    config = distilling(qwen2, teacher, **{"epochs": 1.0, "learning_rate": 1e-2, **options})
    config = replace(config, evaluation=replace(config.evaluation, metrics=(Metric.ROUGE,), max_new_tokens=4))

    outcome = finish(tmp_path, config).outcome

    assert outcome.output is not None, outcome.message
    losses = read_metrics(tmp_path).values("loss")
    assert losses[max(losses)] < losses[1]
    assert 0 <= outcome.output.metrics["evalRougeL"] <= 1


def test_the_evaluation_loss_is_the_cross_entropy_as_without_a_teacher(
    qwen2: Path, teacher: Path, tmp_path: Path
) -> None:
    plain = build_trainer(tmp_path / "plain", job(qwen2, max_steps=1)).evaluate()["eval_loss"]

    assert build_trainer(tmp_path / "taught", distilling(qwen2, teacher, max_steps=1)).evaluate()["eval_loss"] == plain


@pytest.mark.parametrize("attention", ["varlen", "eager"])
def test_packed_rows_go_one_at_a_time_if_the_teacher_attends_to_the_whole_row(
    qwen2: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attention: str
) -> None:
    from sftjob_trainer.training import build, construction

    load_teacher, sft_arguments, dense = build.load_teacher, construction.sft_arguments, []

    def loaded(*given: Any) -> Any:
        model = load_teacher(*given)
        model.set_attn_implementation(attention)
        return model

    def recorded(*given: Any, **options: Any) -> Any:
        dense.append(options["dense"])
        return sft_arguments(*given, **options)

    monkeypatch.setattr(build, "load_teacher", loaded)
    monkeypatch.setattr(construction, "sft_arguments", recorded)

    build_trainer(tmp_path, distilling(qwen2, teacher, packing=True, max_steps=1))

    assert dense == [attention == "eager"]


def test_the_teacher_is_frozen_and_no_part_of_what_is_saved(qwen2: Path, teacher: Path, tmp_path: Path) -> None:
    trainer = build_trainer(tmp_path, distilling(qwen2, teacher, max_steps=2))
    before = {name: weights.clone() for name, weights in trainer._teacher.named_parameters()}

    trainer.train()

    assert not trainer._teacher.training
    assert all(torch.equal(weights, before[name]) for name, weights in trainer._teacher.named_parameters())
    trained = sum(weights.numel() for group in trainer.optimizer.param_groups for weights in group["params"])
    assert trained == sum(weights.numel() for weights in trainer.model.parameters())


def test_a_model_that_makes_its_logits_otherwise_is_refused(
    qwen2: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OutputHead, "__call__", lambda head, hidden: 2 * head.linear(hidden).float())
    config = distilling(qwen2, teacher, max_steps=2)
    write_prepared(tmp_path, config)

    outcome = run_train(tmp_path, config)

    assert (outcome.exit_code, outcome.reason) == (ExitCode.INVALID, Reason.CONFIG_INVALID)
    assert outcome.message == (
        "method.distillation: models of type qwen2 compute their logits in a way that this trainer does not support"
    )


class Vocabulary:
    def __init__(self, *tokens: str) -> None:
        self._tokens = tokens

    def get_vocab(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self._tokens)}


def test_a_teacher_that_means_something_else_by_a_token_is_refused() -> None:
    check_teacher_tokenizer(Vocabulary("a", "b"), Vocabulary("a", "b"))

    with pytest.raises(StageError) as raised:
        check_teacher_tokenizer(Vocabulary("a", "b", "c"), Vocabulary("a", "c", "b", "d"))

    assert raised.value.message == (
        "method.distillation.teacher: it must have the tokenizer of the model that is trained, but of 3 and 4 tokens "
        "3 differ, such as 'b'; use a teacher of the same family"
    )


def test_prepare_reads_from_the_teacher_too() -> None:
    config = distilling(Path("m"), Path("t"), max_steps=1)

    assert "t" in set(all_sources(config))
    assert "t" not in set(all_sources(run_config(model="m", dataset="d")))
