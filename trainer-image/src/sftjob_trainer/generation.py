"""Answers that a model generates, and how to ask for them without leaving a trace in its training."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from sftjob_trainer.world import ALONE, World

logger = logging.getLogger(__name__)


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Evaluate `model` within: no dropout, no gradients. Its mode and the random numbers after it are as before."""
    training = model.training
    model.eval()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        model.train(training)


@dataclass(frozen=True, kw_only=True)
class Generator:
    """Greedy answers of `model`, `batch_size` at a time; several processes take a batch each.

    `broken_off` is asked before each batch and after the last, by all of them; `hurried` before each token, by one,
    whose answers are not wanted any more once it says yes. `max_new_tokens` bounds each answer. `autocast` is entered
    for each batch: an adapter's weights may be of another dtype than the frozen ones.
    """

    model: Any
    tokenizer: Any
    max_new_tokens: int
    batch_size: int
    broken_off: Callable[[], bool]
    hurried: Callable[[], bool] = lambda: False
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    world: World = ALONE

    def answers(self, prompts: Sequence[Sequence[int]]) -> list[list[int]] | None:
        """The answer to each of `prompts` in tokens, without the closing one; None when it was broken off."""
        batches = [prompts[at : at + self.batch_size] for at in range(0, len(prompts), self.batch_size)]
        answers: dict[int, list[list[int]]] = {}
        with undisturbed(self.model):
            for first in range(0, len(batches), self.world.size):
                if self.broken_off():
                    return None
                mine = first + self.world.rank
                if mine < len(batches):
                    answers[mine] = list(self._batch(batches[mine]))
            if self.broken_off():
                return None
        everybodys = {at: found for part in self.world.gather(answers) for at, found in part.items()}
        return [answer for at in range(len(batches)) for answer in everybodys[at]]

    def tried(self, prompts: Sequence[Sequence[int]]) -> list[list[int]] | None:
        """The same of this process alone, in one batch, for answers that nothing depends on.

        None where the model cannot generate, which the log then shows.
        """
        try:
            with undisturbed(self.model):
                return list(self._batch(prompts))
        except Exception as error:  # noqa: BLE001 -- models bring code of their own, and training can go on
            logger.warning("no sample answers were generated: %s: %s", type(error).__name__, error)
            return None

    def _batch(self, prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Shorter prompts are filled up on the left, so that every answer begins at the same column."""
        width = max(map(len, prompts))
        pad = _first(self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        ends = self._ends()
        device = self.model.device
        settings = GenerationConfig(
            **self._length(width), do_sample=False, use_cache=True, eos_token_id=sorted(ends), pad_token_id=pad
        )
        with self.autocast():
            found = self.model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=settings,
                stopping_criteria=StoppingCriteriaList([_Hurried(self.hurried)]),
            )
        for row in found[:, width:].tolist():
            yield list(takewhile(lambda token: token not in ends, row))

    def _ends(self) -> set[int]:
        """Tokens that close an answer: the tokenizer's, and those that the model came with."""
        own = self.model.generation_config.eos_token_id
        own = own if isinstance(own, list) else [] if own is None else [own]
        return {self.tokenizer.eos_token_id, *own}

    def _length(self, width: int) -> Mapping[str, int]:
        """At most `max_new_tokens`, within the positions that the model has; at least one."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        room = self.max_new_tokens if positions is None else positions - width
        return {"max_new_tokens": max(1, min(self.max_new_tokens, room))}


class _Hurried(StoppingCriteria):
    """Ends every answer of a batch at the next token."""

    def __init__(self, hurried: Callable[[], bool]) -> None:
        self._hurried = hurried

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Whether each row is at its end."""
        return torch.full((input_ids.shape[0],), self._hurried(), dtype=torch.bool, device=input_ids.device)


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)
