"""Knowledge distillation (Hinton et al. 2015, arXiv:1503.02531): learn from a teacher's probabilities and the data."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sftjob_contract.reasons import Reason
from sftjob_trainer.models.output_head import CHUNK_TOKENS, OutputHead, find_output_head, last_hidden_states
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.tokens.tokenizer import NOT_TRAINED
from sftjob_trainer.training.sft_trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Weights:
    """`alpha` is the teacher's share of the loss, `temperature` divides logits, `vocabulary` counts shared tokens."""

    alpha: float
    temperature: float
    vocabulary: int


def distillation_loss(
    student: tuple[torch.Tensor, OutputHead],
    teacher: tuple[torch.Tensor, OutputHead],
    labels: torch.Tensor,
    weights: Weights,
) -> torch.Tensor:
    """The loss summed over the trained tokens.

    For each token: alpha * T^2 * KL(teacher || student, both at T) + (1 - alpha) * cross entropy. `student` and
    `teacher` are last hidden states (batch, length, hidden size) with their heads. `labels` (batch, length) are those
    of the positions themselves; each is predicted by the position before it. Logits exist for CHUNK_TOKENS tokens at a
    time; those of a chunk are recomputed for its gradient.
    """
    targets = labels[:, 1:]
    trained = targets != NOT_TRAINED
    student_states, teacher_states = student[0][:, :-1][trained], teacher[0][:, :-1][trained]
    total = student_states.sum() * 0.0  # connected to the model even if nothing is trained
    for start in range(0, len(student_states), CHUNK_TOKENS):
        chunk = slice(start, start + CHUNK_TOKENS)
        chunk_inputs = (
            student_states[chunk],
            teacher_states[chunk],
            targets[trained][chunk],
            student[1],
            teacher[1],
            weights,
        )
        total = total + checkpoint(_chunk_loss, *chunk_inputs, use_reentrant=False)
    return total


class DistillationTrainer(Trainer):
    """Trains on the distillation loss. Evaluations measure the cross entropy, comparable with any other run's."""

    def __init__(self, *, teacher: Any, weights: Weights, **arguments: Any) -> None:
        """Create the trainer.

        Raises:
            StageError: the way one of the models computes its logits is unknown.
        """
        super().__init__(**arguments)
        self._teacher = teacher
        self._weights = weights
        self._heads = (_require_output_head(self.model), _require_output_head(teacher))

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The mean distillation loss over the trained tokens of the whole optimizer step."""
        if not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs_without_labels = {name: value for name, value in inputs.items() if name != "labels"}
        with torch.no_grad():
            teacher_states = last_hidden_states(self._teacher, self._teacher.get_decoder(), inputs_without_labels)
        student_states = self.hidden_states(model, inputs_without_labels)
        with self.accelerator.autocast():
            total = distillation_loss(
                (student_states, self._heads[0]), (teacher_states, self._heads[1]), inputs["labels"], self._weights
            )
        return self.mean_loss(total, inputs, num_items_in_batch)


def shared_vocabulary(student: Any, teacher: Any, tokens: int) -> int:
    """Number of tokens for which both models have logits. Families pad embeddings differently; padding does not count.

    `tokens` is the size of the shared tokenizer.

    Raises:
        StageError: a model has fewer logits than `tokens`.
    """
    sizes = [len(model.get_output_embeddings().weight) for model in (student, teacher)]
    if min(sizes) < tokens:
        raise _config_error(
            f"the model has {sizes[0]} and the teacher {sizes[1]} logits, but the tokenizer {tokens} tokens; "
            "use a teacher of the same family"
        )
    return min(sizes)


def _chunk_loss(
    student_states: torch.Tensor,
    teacher_states: torch.Tensor,
    targets: torch.Tensor,
    head: OutputHead,
    teacher: OutputHead,
    weights: Weights,
) -> torch.Tensor:
    logits = head(student_states)
    with torch.no_grad():
        teacher_logits = teacher(teacher_states)[:, : weights.vocabulary] / weights.temperature
    student_logits = logits[:, : weights.vocabulary] / weights.temperature
    divergence = functional.kl_div(
        functional.log_softmax(student_logits, -1),
        functional.log_softmax(teacher_logits, -1),
        log_target=True,
        reduction="sum",
    )
    entropy = functional.cross_entropy(logits, targets, reduction="sum")
    return weights.alpha * weights.temperature**2 * divergence + (1 - weights.alpha) * entropy


def _require_output_head(model: Any) -> OutputHead:
    head = find_output_head(model)
    if head is None:
        raise _config_error(
            f"models of type {model.config.model_type} compute their logits in a way that this trainer does not support"
        )
    return head


def _config_error(message: str) -> StageError:
    return StageError(Reason.CONFIG_INVALID, f"method.distillation: {message}")
