"""Generate answers with a model, without any effect on its training."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from sftjob_trainer.distributed.world import SINGLE_PROCESS, World

logger = logging.getLogger(__name__)


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Evaluate `model` within the block: no dropout, no gradients. Its mode and the random state are restored."""
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
    """Greedy answers of `model`, `batch_size` at a time. With several processes, each takes its own batches.

    `is_interrupted` is checked before each batch and after the last, by all processes. `should_stop_early` is checked
    before each token, by one process, whose answers are discarded once it returns true. `max_new_tokens` limits each
    answer.
    `autocast` is entered for each batch: an adapter's weights may have another dtype than the frozen ones.
    """

    model: Any
    tokenizer: Any
    max_new_tokens: int
    batch_size: int
    is_interrupted: Callable[[], bool]
    should_stop_early: Callable[[], bool] = lambda: False
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    world: World = SINGLE_PROCESS

    def answers(self, prompts: Sequence[Sequence[int]]) -> list[list[int]] | None:
        """The answer to each of `prompts` in tokens, without the closing token; None if interrupted."""
        batches = [prompts[start : start + self.batch_size] for start in range(0, len(prompts), self.batch_size)]
        answers: dict[int, list[list[int]]] = {}
        with evaluation_mode(self.model):
            for first in range(0, len(batches), self.world.size):
                if self.is_interrupted():
                    return None
                index = first + self.world.rank
                if index < len(batches):
                    answers[index] = list(self._batch(batches[index]))
            if self.is_interrupted():
                return None
        all_answers = {start: found for part in self.world.all_gather(answers) for start, found in part.items()}
        return [answer for start in range(len(batches)) for answer in all_answers[start]]

    def try_answers(self, prompts: Sequence[Sequence[int]]) -> list[list[int]] | None:
        """The same for this process alone, in one batch, for answers that nothing depends on.

        None if the model cannot generate, which is logged.
        """
        try:
            with evaluation_mode(self.model):
                return list(self._batch(prompts))
        except Exception as error:  # noqa: BLE001 -- models bring their own code, and training can continue
            logger.warning("no sample answers were generated: %s: %s", type(error).__name__, error)
            return None

    def _batch(self, prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Shorter prompts are padded on the left, so that every answer starts at the same column."""
        width = max(map(len, prompts))
        tokenizer = self.tokenizer
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        end_tokens = self._end_tokens()
        device = self.model.device
        settings = GenerationConfig(
            **self._length(width), do_sample=False, use_cache=True, eos_token_id=sorted(end_tokens), pad_token_id=pad
        )
        with self.autocast():
            found = self.model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=settings,
                stopping_criteria=StoppingCriteriaList([_StopEarly(self.should_stop_early)]),
            )
        for row in found[:, width:].tolist():
            yield list(takewhile(lambda token: token not in end_tokens, row))

    def _end_tokens(self) -> set[int]:
        """Tokens that end an answer: the tokenizer's, and those of the model's own generation config."""
        model_ids = self.model.generation_config.eos_token_id
        model_ids = model_ids if isinstance(model_ids, list) else [] if model_ids is None else [model_ids]
        return {self.tokenizer.eos_token_id, *model_ids}

    def _length(self, width: int) -> Mapping[str, int]:
        """At most `max_new_tokens`, within the model's positions; at least one."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        available = self.max_new_tokens if positions is None else positions - width
        return {"max_new_tokens": max(1, min(self.max_new_tokens, available))}


class _StopEarly(StoppingCriteria):
    """Ends every answer of a batch at the next token."""

    def __init__(self, should_stop_early: Callable[[], bool]) -> None:
        self._hurried = should_stop_early

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Whether each row has ended."""
        return torch.full((input_ids.shape[0],), self._hurried(), dtype=torch.bool, device=input_ids.device)
