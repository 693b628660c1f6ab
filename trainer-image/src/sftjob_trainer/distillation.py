"""Knowledge distillation (Hinton et al. 2015, arXiv:1503.02531): learn from a teacher's probabilities and the data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sftjob_contract.reasons import Reason
from sftjob_trainer.evaluation import Trainer
from sftjob_trainer.failure import Failure
from sftjob_trainer.tokenization import NOT_TRAINED

CHUNK_TOKENS: Final = 512
"""Tokens whose logits over the whole vocabulary exist at the same time."""
_PROBE: Final = (3, 1, 4, 1, 5)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """`alpha` is the teacher's share in the loss, `temperature` divides logits, `vocabulary` is what both know."""

    alpha: float
    temperature: float
    vocabulary: int


@dataclass(frozen=True, kw_only=True)
class Head:
    """How a model makes logits of its last hidden states: a linear layer, a factor, a soft cap (Gemma 2)."""

    linear: Any
    scale: float
    cap: float | None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits in fp32 of `hidden`, (tokens, hidden size)."""
        logits: torch.Tensor = self.linear(hidden).float() * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def head_of(model: Any) -> Head:
    """The head of `model`.

    Raises:
        Failure: the model makes its logits in another way.
    """
    settings = model.config.get_text_config()
    factor = getattr(settings, "logit_scale", None)
    divisor = getattr(settings, "logits_scaling", None)
    scale = (1.0 if factor is None else float(factor)) / (1.0 if divisor is None else float(divisor))
    head = Head(
        linear=model.get_output_embeddings(), scale=scale, cap=getattr(settings, "final_logit_softcapping", None)
    )
    _check_head(model, head)
    return head


def last_hidden_states(model: Any, decoder: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """What the layers of `model` make of `inputs`, (batch, length, hidden size). The head sees one position only.

    `decoder` is the part of `model` below the head; `model` may be wrapped.
    """
    found: list[torch.Tensor] = []
    hook = decoder.register_forward_hook(lambda _module, _inputs, output: found.append(output.last_hidden_state))
    try:
        model(**inputs, use_cache=False, logits_to_keep=1)
    finally:
        hook.remove()
    return found[0]


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
        super().__init__(**arguments)
        self._teacher = teacher
        self._weights = weights
        self._heads = (head_of(self.model), head_of(teacher))
        self._seen_tokens = 0

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
        labels = inputs["labels"]
        seen = {name: value for name, value in inputs.items() if name != "labels"}
        with torch.no_grad():
            theirs = last_hidden_states(self._teacher, self._teacher.get_decoder(), seen)
        ours = last_hidden_states(model, self.accelerator.unwrap_model(model).get_decoder(), seen)
        with self.accelerator.autocast():
            total = distillation_loss((ours, self._heads[0]), (theirs, self._heads[1]), labels, self._weights)
        self._count(inputs)
        if num_items_in_batch is None:
            return total / (labels[:, 1:] != NOT_TRAINED).sum().clamp(min=1)
        # Gradients are averaged over the devices, and the items are counted over all of them.
        return total * self.accelerator.num_processes / num_items_in_batch

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """What TRL's own loss would have counted is added: `num_tokens`, non-padding ones since the attempt began."""
        if "loss" in logs:
            logs["num_tokens"] = self._world.sums([self._seen_tokens])[0]
        super().log(logs, start_time)

    def _count(self, inputs: dict[str, Any]) -> None:
        mask = inputs.get("attention_mask")
        self._seen_tokens += inputs["input_ids"].numel() if mask is None else int(mask.sum())


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


def _check_head(model: Any, head: Head) -> None:
    """See on a few tokens that `head` is what the model does itself; there are as many ways as families."""
    training = model.training
    model.eval()
    ids = torch.tensor([_PROBE], device=model.device)
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0].float()
            found = head(last_hidden_states(model, model.get_decoder(), {"input_ids": ids})[0])
        known = torch.allclose(found, logits, rtol=1e-2, atol=1e-2 * float(logits.abs().max()))
    except (TypeError, AttributeError):
        known = False
    finally:
        model.train(training)
    if not known:
        raise _refused(
            f"models of type {model.config.model_type} make their logits in a way that this trainer does not know"
        )


def _refused(sentence: str) -> Failure:
    return Failure(Reason.CONFIG_INVALID, f"method.distillation: {sentence}")
