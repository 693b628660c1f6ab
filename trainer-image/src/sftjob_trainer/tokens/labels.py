"""Examples of every shape as token ids and labels: only what is trained on has a label."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import LossOn, RunConfig
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.wording import one_of
from sftjob_trainer.rows.examples import Conversation, Example, PromptCompletion, PromptCompletionMessages, Text
from sftjob_trainer.tokens.chat_template import ChatRenderer, training_chat
from sftjob_trainer.tokens.special_tokens import after_leading_bos, without_leading_bos
from sftjob_trainer.tokens.template_rendering import Spans
from sftjob_trainer.tokens.tokenizer import NOT_TRAINED, Encoded, Encoder, text_tokens


@dataclass(frozen=True, slots=True)
class _Rendered:
    """The characters of `text` to train on (None: all), except the `untrained` ones."""

    location: str
    text: str
    trained: Spans | None
    untrained: Spans = ()


_SUPPORTED_LOSSES: Final = {
    Text: (LossOn.ALL,),
    PromptCompletion: (LossOn.COMPLETION, LossOn.ALL),
    PromptCompletionMessages: (LossOn.COMPLETION, LossOn.ASSISTANT, LossOn.ALL),
    Conversation: (LossOn.ASSISTANT, LossOn.ALL),
}
"""Values of `training.lossOn` for each shape; the first is the default."""

_NAMES: Final = {
    Text: "rows of text, which have no parts",
    PromptCompletion: "rows of a prompt and a completion that are text",
    PromptCompletionMessages: "rows of a prompt and a completion that are messages",
    Conversation: "conversations, which have no prompt and completion",
}


def encoder(tokenizer: Any, config: RunConfig) -> Encoder:
    """The encoder for examples of every shape, following `training.lossOn` and `model.addEosToken`.

    It raises a StageError for an example that cannot be encoded, or lacks the part that `training.lossOn` names.
    """
    encoders = _Encoders(tokenizer, config)

    def encode(examples: Sequence[Example]) -> list[Encoded]:
        encoded = []
        for shape, alike in groupby(examples, key=type):
            encoded += encoders.for_type(shape)(list(alike))
        return encoded

    return encode


def label_spans(ids: Sequence[int], offsets: Sequence[tuple[int, int]], spans: Spans) -> list[int]:
    """The labels of the tokens `ids` at the character ranges `offsets`, with those in `spans` trained on.

    A token that is partly within a span belongs to it. Byte-level tokenizers can exclude the spaces around a token from
    its offsets: tokens of spaces alone are then empty, and are located at the end of their spaces.
    """
    labels = [NOT_TRAINED] * len(ids)
    firsts, ends = [first for first, _ in offsets], [end for _, end in offsets]
    for start, end in spans:
        if start == end:
            continue
        low, high = bisect_right(ends, start), bisect_left(firsts, end)
        while high < len(ids) and offsets[high] == (end, end):
            high += 1
        labels[low:high] = ids[low:high]
    return labels


class _Encoders:
    """One encoder for each shape. The chat template is inspected once, and only if there are messages."""

    def __init__(self, tokenizer: Any, config: RunConfig) -> None:
        self._tokenizer = tokenizer
        self._loss_on = config.training.loss_on
        self._add_eos_token = config.model.add_eos_token
        self._kwargs = config.model.chat_template_kwargs

    def for_type(self, shape: type[Example]) -> Callable[[Sequence[Any]], list[Encoded]]:
        """The encoder for examples of type `shape`.

        Raises:
            StageError: they lack the part that `training.lossOn` names.
        """
        if self._loss_on not in (None, *_SUPPORTED_LOSSES[shape]):
            raise StageError(
                Reason.CONFIG_INVALID,
                f"training.lossOn: {self._loss_on} does not match {_NAMES[shape]}; write "
                f"{one_of(_SUPPORTED_LOSSES[shape])}, or remove it to train on what matches the rows",
            )
        encoders: dict[type[Example], Callable[[Sequence[Any]], list[Encoded]]] = {
            Text: self._texts,
            PromptCompletion: self._completions,
            PromptCompletionMessages: self._completion_messages,
            Conversation: self._conversations,
        }
        return encoders[shape]

    @cached_property
    def _chat(self) -> ChatRenderer:
        return training_chat(self._tokenizer, self._kwargs)

    def _texts(self, examples: Sequence[Text]) -> list[Encoded]:
        texts = text_tokens(
            self._tokenizer, [self._before_trailing_text(self._after_leading_bos(example.text)) for example in examples]
        )
        encodings = [self._with_eos(ids) for ids in texts]
        return [Encoded(example.location, ids, list(ids)) for example, ids in zip(examples, encodings, strict=True)]

    def _completions(self, examples: Sequence[PromptCompletion]) -> list[Encoded]:
        """Tokenize both together, as in TRL; the completion starts where this differs from the prompt alone.

        A token that spans the boundary therefore belongs to the completion.
        """
        prompt_texts = [self._after_leading_bos(example.prompt) for example in examples]
        answers = [self._before_trailing_text(self._completion_text(example)) for example in examples]
        prompts = text_tokens(self._tokenizer, prompt_texts)
        wholes = text_tokens(
            self._tokenizer, [prompt + answer for prompt, answer in zip(prompt_texts, answers, strict=True)]
        )
        encoded = []
        for example, prompt, whole in zip(examples, prompts, wholes, strict=True):
            ids = self._with_eos(whole)
            start = 0 if self._loss_on is LossOn.ALL else _common_prefix(prompt, whole)
            encoded.append(Encoded(example.location, ids, [NOT_TRAINED] * start + ids[start:]))
        return encoded

    def _completion_messages(self, examples: Sequence[PromptCompletionMessages]) -> list[Encoded]:
        return self._encode_rendered([self._completion_spans(example) for example in examples])

    def _conversations(self, examples: Sequence[Conversation]) -> list[Encoded]:
        return self._encode_rendered([self._turn_spans(example) for example in examples])

    def _turn_spans(self, example: Conversation) -> _Rendered:
        if self._loss_on is LossOn.ALL:
            return self._whole(example)
        turns = self._chat.turns(self._chat.without_duplicate_closers(example))
        return _Rendered(example.location, turns.text, turns.trained)

    def _whole(self, conversation: Conversation) -> _Rendered:
        """The whole text, except the turns that the row excludes from training."""
        conversation = self._chat.without_duplicate_closers(conversation)
        if not conversation.context:
            return _Rendered(conversation.location, self._chat.text(conversation), None)
        turns = self._chat.turns(conversation)
        return _Rendered(conversation.location, turns.text, None, turns.untrained)

    def _completion_spans(self, example: PromptCompletionMessages) -> _Rendered:
        """The completion up to its last stop token, or the assistant's turns in it."""
        conversation, first = self._chat.without_duplicate_closers(example.conversation), example.prompt_messages
        if self._loss_on is LossOn.ALL:
            return self._whole(conversation)
        turns = self._chat.turns(conversation)
        prompt_indices = frozenset(range(first))
        if self._loss_on is LossOn.ASSISTANT:
            return _Rendered(
                example.location, turns.text, replace(turns, context=turns.context | prompt_indices).trained
            )
        # The header of the assistant's turn is never trained, even without a prompt.
        is_answer = first in turns.spans
        start = turns.spans[first][0][0] if is_answer else self._chat.length(conversation, first, turns.text)
        untrained = replace(turns, context=turns.context - prompt_indices).untrained
        return _Rendered(example.location, turns.text, [(start, self._chat.closed(turns.text))], untrained)

    def _encode_rendered(self, rendered: Sequence[_Rendered]) -> list[Encoded]:
        texts = [row.text for row in rendered]
        batch = self._tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        encoded = []
        for row, ids, offsets in zip(rendered, batch["input_ids"], batch["offset_mapping"], strict=True):
            labels = list(ids) if row.trained is None else label_spans(ids, offsets, row.trained)
            left_out = label_spans(ids, offsets, row.untrained)
            labels = [label if out == NOT_TRAINED else NOT_TRAINED for label, out in zip(labels, left_out, strict=True)]
            encoded.append(Encoded(row.location, ids, labels))
        return encoded

    def _after_leading_bos(self, text: str) -> str:
        return after_leading_bos(text, self._tokenizer.bos_token)

    def _completion_text(self, example: PromptCompletion) -> str:
        if not example.prompt.strip():
            return self._after_leading_bos(example.completion)
        return without_leading_bos(example.completion, self._tokenizer.bos_token, self._tokenizer.eos_token)

    def _before_trailing_text(self, text: str) -> str:
        """`text` up to its end-of-sequence token if only white space follows; unchanged if none is configured."""
        end = text.rstrip()
        return end if self._add_eos_token and end.endswith(self._tokenizer.eos_token) else text

    def _with_eos(self, ids: list[int]) -> list[int]:
        """`ids` with one end-of-sequence token at the end, if configured; a tokenizer may already have added it."""
        eos = self._tokenizer.eos_token_id
        return ids if not self._add_eos_token or ids[-1:] == [eos] else [*ids, eos]


def _common_prefix(left: Iterable[int], right: Iterable[int]) -> int:
    count = 0
    for first, other in zip(left, right, strict=False):
        if first != other:
            break
        count += 1
    return count
