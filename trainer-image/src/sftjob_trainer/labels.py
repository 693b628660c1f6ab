"""Examples of every shape as token ids and labels: what is trained on, and only that, has a label."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any, Final

from sftjob_contract.config import LossOn, RunConfig
from sftjob_contract.reasons import Reason
from sftjob_trainer.chat_template import Chat, training_chat
from sftjob_trainer.failure import Failure
from sftjob_trainer.shapes import Conversation, Example, PromptCompletion, PromptCompletionMessages, Text
from sftjob_trainer.special_tokens import begun, continued
from sftjob_trainer.template_rendering import Spans
from sftjob_trainer.tokenization import NOT_TRAINED, Encoded, Encoder, text_tokens
from sftjob_trainer.wording import either


@dataclass(frozen=True, slots=True)
class _Rendered:
    """The characters of `text` to train on, None for all, but for those that are `untrained`."""

    place: str
    text: str
    trained: Spans | None
    untrained: Spans = ()


_LOSSES: Final = {
    Text: (LossOn.ALL,),
    PromptCompletion: (LossOn.COMPLETION, LossOn.ALL),
    PromptCompletionMessages: (LossOn.COMPLETION, LossOn.ASSISTANT, LossOn.ALL),
    Conversation: (LossOn.ASSISTANT, LossOn.ALL),
}
"""What `training.lossOn` can say of each shape; the first is what it means to say nothing."""

_NAMES: Final = {
    Text: "rows of text, which have no parts",
    PromptCompletion: "rows of a prompt and a completion that are text",
    PromptCompletionMessages: "rows of a prompt and a completion that are messages",
    Conversation: "conversations, which have no prompt and completion",
}


def encoder(tokenizer: Any, config: RunConfig) -> Encoder:
    """The encoder for examples of every shape, as `training.lossOn` and `model.addEosToken` say.

    It raises a Failure for an example that can not be encoded, or has no part that `training.lossOn` names.
    """
    encoders = _Encoders(tokenizer, config)

    def encode(examples: Sequence[Example]) -> list[Encoded]:
        encoded = []
        for shape, alike in groupby(examples, key=type):
            encoded += encoders.of(shape)(list(alike))
        return encoded

    return encode


def label_spans(ids: Sequence[int], offsets: Sequence[tuple[int, int]], spans: Spans) -> list[int]:
    """The labels of tokens `ids`, which became of the characters `offsets`, when those in `spans` are trained on.

    A token that is only in part within a span belongs to it. Byte-level tokenizers can leave the spaces around a token
    out of its offsets: tokens of spaces alone then are empty, and lie where their spaces end.
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
    """One encoder for each shape. The chat template is looked at once, and only if there are messages."""

    def __init__(self, tokenizer: Any, config: RunConfig) -> None:
        self._tokenizer = tokenizer
        self._loss_on = config.training.loss_on
        self._add_eos_token = config.model.add_eos_token
        self._kwargs = config.model.chat_template_kwargs

    def of(self, shape: type[Example]) -> Callable[[Sequence[Any]], list[Encoded]]:
        """The encoder for examples of type `shape`.

        Raises:
            Failure: they have no part that `training.lossOn` names.
        """
        if self._loss_on not in (None, *_LOSSES[shape]):
            raise Failure(
                Reason.CONFIG_INVALID,
                f"training.lossOn: {self._loss_on} does not suit {_NAMES[shape]}; write {either(_LOSSES[shape])}, "
                "or remove it to train on what suits the rows",
            )
        encoders: dict[type[Example], Callable[[Sequence[Any]], list[Encoded]]] = {
            Text: self._texts,
            PromptCompletion: self._completions,
            PromptCompletionMessages: self._completion_messages,
            Conversation: self._conversations,
        }
        return encoders[shape]

    @cached_property
    def _chat(self) -> Chat:
        return training_chat(self._tokenizer, self._kwargs)

    def _texts(self, examples: Sequence[Text]) -> list[Encoded]:
        texts = text_tokens(self._tokenizer, [self._ended(self._begun(example.text)) for example in examples])
        encodings = [self._closed(ids) for ids in texts]
        return [Encoded(example.place, ids, list(ids)) for example, ids in zip(examples, encodings, strict=True)]

    def _completions(self, examples: Sequence[PromptCompletion]) -> list[Encoded]:
        """As in TRL, both are tokenized together, and the completion begins where that differs from the prompt alone.

        So a token that spans the boundary belongs to the completion.
        """
        asked = [self._begun(example.prompt) for example in examples]
        answers = [self._ended(self._answer(example)) for example in examples]
        prompts = text_tokens(self._tokenizer, asked)
        wholes = text_tokens(self._tokenizer, [prompt + answer for prompt, answer in zip(asked, answers, strict=True)])
        encoded = []
        for example, prompt, whole in zip(examples, prompts, wholes, strict=True):
            ids = self._closed(whole)
            start = 0 if self._loss_on is LossOn.ALL else _common_prefix(prompt, whole)
            encoded.append(Encoded(example.place, ids, [NOT_TRAINED] * start + ids[start:]))
        return encoded

    def _completion_messages(self, examples: Sequence[PromptCompletionMessages]) -> list[Encoded]:
        return self._labelled([self._completion_spans(example) for example in examples])

    def _conversations(self, examples: Sequence[Conversation]) -> list[Encoded]:
        return self._labelled([self._turn_spans(example) for example in examples])

    def _turn_spans(self, example: Conversation) -> _Rendered:
        if self._loss_on is LossOn.ALL:
            return self._whole(example)
        turns = self._chat.turns(self._chat.once_closed(example))
        return _Rendered(example.place, turns.text, turns.trained)

    def _whole(self, talk: Conversation) -> _Rendered:
        """All of the text but for turns that the row says are not trained."""
        talk = self._chat.once_closed(talk)
        if not talk.context:
            return _Rendered(talk.place, self._chat.text(talk), None)
        turns = self._chat.turns(talk)
        return _Rendered(talk.place, turns.text, None, turns.untrained)

    def _completion_spans(self, example: PromptCompletionMessages) -> _Rendered:
        """The completion up to its last stop token, or the assistant's turns in it."""
        talk, first = self._chat.once_closed(example.talk), example.prompt_messages
        if self._loss_on is LossOn.ALL:
            return self._whole(talk)
        turns = self._chat.turns(talk)
        asked = frozenset(range(first))
        if self._loss_on is LossOn.ASSISTANT:
            return _Rendered(example.place, turns.text, replace(turns, context=turns.context | asked).trained)
        # What opens the assistant's turn is never its own, even if there is no prompt.
        is_answer = first in turns.spans
        start = turns.spans[first][0][0] if is_answer else self._chat.length(talk, first, turns.text)
        untrained = replace(turns, context=turns.context - asked).untrained
        return _Rendered(example.place, turns.text, [(start, self._chat.closed(turns.text))], untrained)

    def _labelled(self, rendered: Sequence[_Rendered]) -> list[Encoded]:
        texts = [row.text for row in rendered]
        batch = self._tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        encoded = []
        for row, ids, offsets in zip(rendered, batch["input_ids"], batch["offset_mapping"], strict=True):
            labels = list(ids) if row.trained is None else label_spans(ids, offsets, row.trained)
            left_out = label_spans(ids, offsets, row.untrained)
            labels = [label if out == NOT_TRAINED else NOT_TRAINED for label, out in zip(labels, left_out, strict=True)]
            encoded.append(Encoded(row.place, ids, labels))
        return encoded

    def _begun(self, text: str) -> str:
        return begun(text, self._tokenizer.bos_token)

    def _answer(self, example: PromptCompletion) -> str:
        if not example.prompt.strip():
            return self._begun(example.completion)
        return continued(example.completion, self._tokenizer.bos_token, self._tokenizer.eos_token)

    def _ended(self, text: str) -> str:
        """`text` up to its end-of-sequence token where only white space follows that, unless none is asked for."""
        end = text.rstrip()
        return end if self._add_eos_token and end.endswith(self._tokenizer.eos_token) else text

    def _closed(self, ids: list[int]) -> list[int]:
        """`ids` with one end-of-sequence token at the end, if asked for; a tokenizer may have put it there itself."""
        eos = self._tokenizer.eos_token_id
        return ids if not self._add_eos_token or ids[-1:] == [eos] else [*ids, eos]


def _common_prefix(left: Iterable[int], right: Iterable[int]) -> int:
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count
