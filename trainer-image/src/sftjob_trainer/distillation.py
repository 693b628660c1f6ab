"""Knowledge distillation (Hinton et al. 2015, arXiv:1503.02531): learn from a teacher's probabilities and the data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure
from sftjob_trainer.heads import CHUNK_TOKENS, Head, head_of, last_hidden_states
from sftjob_trainer.tokenization import NOT_TRAINED
from sftjob_trainer.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Weights:
    """`alpha` is the teacher's share in the loss, `temperature` divides logits, `vocabulary` is what both know."""

    alpha: float
    temperature: float
    vocabulary: int


def distillation_loss(
    student: tuple[torch.Tensor, Head], teacher: tuple[torch.Tensor, Head], labels: torch.Tensor, weights: Weights
) -> torch.Tensor:
    """The loss summed over the trained tokens.

    For each: alpha * T^2 * KL(teacher || student, both at T) + (1 - alpha) * cross entropy. `student` and `teacher` are
    last hidden states (batch, length, hidden size) with their heads, `labels` (batch, length) those of the positions
    themselves, each predicted by the position before it. Logits exist for CHUNK_TOKENS tokens at a time: those of a
    chunk are made again for its gradient.
    """
    targets = labels[:, 1:]
    trained = targets != NOT_TRAINED
    ours, theirs = student[0][:, :-1][trained], teacher[0][:, :-1][trained]
    total = ours.sum() * 0.0  # connected to the model even where nothing is trained
    for part in _chunks(len(ours)):
        given = (ours[part], theirs[part], targets[trained][part], student[1], teacher[1], weights)
        total = total + checkpoint(_chunk_loss, *given, use_reentrant=False)
    return total


class DistillationTrainer(Trainer):
    """Trains on the distillation loss. Evaluations measure the cross entropy, so they compare with any other run's."""

    def __init__(self, *, teacher: Any, weights: Weights, **arguments: Any) -> None:
        """Make the trainer.

        Raises:
            Failure: it is not known how one of the models makes its logits.
        """
        super().__init__(**arguments)
        self._teacher = teacher
        self._weights = weights
        self._heads = (_known_head(self.model), _known_head(teacher))

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
        seen = {name: value for name, value in inputs.items() if name != "labels"}
        with torch.no_grad():
            theirs = last_hidden_states(self._teacher, self._teacher.get_decoder(), seen)
        ours = self.hidden_states(model, seen)
        with self.accelerator.autocast():
            total = distillation_loss((ours, self._heads[0]), (theirs, self._heads[1]), inputs["labels"], self._weights)
        return self.mean_loss(total, inputs, num_items_in_batch)


def shared_vocabulary(student: Any, teacher: Any, tokens: int) -> int:
    """Tokens that both models have logits of. Families pad their embeddings differently; nobody means the padding.

    `tokens` is the size of the tokenizer that both share.

    Raises:
        Failure: a model has fewer logits than that.
    """
    sizes = [len(model.get_output_embeddings().weight) for model in (student, teacher)]
    if min(sizes) < tokens:
        raise _refused(
            f"the model has {sizes[0]} and the teacher {sizes[1]} logits, but the tokenizer {tokens} tokens; "
            "use a teacher of the same family"
        )
    return min(sizes)


def _chunk_loss(
    ours: torch.Tensor, theirs: torch.Tensor, targets: torch.Tensor, head: Head, teacher: Head, weights: Weights
) -> torch.Tensor:
    logits = head(ours)
    with torch.no_grad():
        goal = teacher(theirs)[:, : weights.vocabulary] / weights.temperature
    softened = logits[:, : weights.vocabulary] / weights.temperature
    divergence = functional.kl_div(
        functional.log_softmax(softened, -1), functional.log_softmax(goal, -1), log_target=True, reduction="sum"
    )
    entropy = functional.cross_entropy(logits, targets, reduction="sum")
    return weights.alpha * weights.temperature**2 * divergence + (1 - weights.alpha) * entropy


def _chunks(tokens: int) -> Iterator[slice]:
    for start in range(0, tokens, CHUNK_TOKENS):
        yield slice(start, start + CHUNK_TOKENS)


def _known_head(model: Any) -> Head:
    head = head_of(model)
    if head is None:
        raise _refused(
            f"models of type {model.config.model_type} make their logits in a way that this trainer does not know"
        )
    return head


def _refused(sentence: str) -> Failure:
    return Failure(Reason.CONFIG_INVALID, f"method.distillation: {sentence}")
