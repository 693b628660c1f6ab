"""Examples as token ids and labels: what is trained on, and only that, has a label."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sftjob_contract.config import DataFormat
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure
from sftjob_trainer.shapes import Conversation, PromptCompletion, Text

NOT_TRAINED: Final = -100
"""Label that PyTorch's cross entropy ignores."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example; `labels` are the token ids themselves, or NOT_TRAINED."""

    place: str
    input_ids: list[int]
    labels: list[int]


Encoder = Callable[[Sequence[Any]], list[Encoded]]
"""Encodes a batch of examples of one shape."""


def load_tokenizer(directory: Path, *, trust_remote_code: bool) -> Any:
    """The tokenizer that comes with the model in `directory`. Nothing is fetched.

    Raises:
        Failure: it can not be loaded, or has no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code, local_files_only=True)
    except MemoryError:
        raise
    except Exception as error:
        # Loading runs whatever the files ask for, so any exception can come out of it; all are about the model.
        if "trust_remote_code" in str(error) and not trust_remote_code:
            raise _unusable("it comes with code; read that code, then set model.trustRemoteCode: true") from error
        raise _unusable(str(error).partition("\n")[0][:300] or type(error).__name__) from error
    # For a known model type without tokenizer files transformers makes up an empty tokenizer.
    names = tokenizer.vocab_files_names.values()
    if names and not any((directory / name).is_file() for name in names):
        raise _unusable(f"none of {', '.join(names)} is there")
    if tokenizer.eos_token_id is None:
        raise Failure(
            Reason.CONFIG_INVALID,
            "the model's tokenizer has no end-of-sequence token, so a model could not learn to stop; "
            "set eos_token in its tokenizer_config.json",
        )
    return tokenizer


def _unusable(problem: str) -> Failure:
    return Failure(Reason.CONFIG_INVALID, f"the model's tokenizer can not be loaded: {problem}")


def encoder(tokenizer: Any, shape: DataFormat) -> Encoder:
    """The encoder for examples of `shape`.

    Raises:
        Failure: the tokenizer can not encode conversations.
    """
    if shape is DataFormat.TEXT:
        return lambda examples: encode_texts(tokenizer, examples)
    if shape is DataFormat.PROMPT_COMPLETION:
        return lambda examples: encode_completions(tokenizer, examples)
    template = training_template(tokenizer)
    if template is None:
        return lambda examples: encode_by_prefixes(tokenizer, examples)
    return lambda examples: encode_by_markers(tokenizer, examples, template)


def encode_texts(tokenizer: Any, examples: Sequence[Text]) -> list[Encoded]:
    """Every token is trained, the closing end-of-sequence token included."""
    encodings = tokenizer([example.text for example in examples])["input_ids"]
    encodings = [_closed(tokenizer, ids) for ids in encodings]
    return [Encoded(example.place, ids, list(ids)) for example, ids in zip(examples, encodings, strict=True)]


def encode_completions(tokenizer: Any, examples: Sequence[PromptCompletion]) -> list[Encoded]:
    """The completion and the closing end-of-sequence token are trained.

    As in TRL, prompt and completion are tokenized together and the completion begins where that differs from the
    prompt's own tokens: a token that spans the boundary belongs to the completion.
    """
    prompts = tokenizer([example.prompt for example in examples])["input_ids"]
    wholes = tokenizer([example.prompt + example.completion for example in examples])["input_ids"]
    encoded = []
    for example, prompt, whole in zip(examples, prompts, wholes, strict=True):
        ids = _closed(tokenizer, whole)
        start = _common_prefix(prompt, whole)
        encoded.append(Encoded(example.place, ids, [NOT_TRAINED] * start + ids[start:]))
    return encoded


def training_template(tokenizer: Any) -> str | None:
    """A chat template whose `{% generation %}` markers say what the assistant wrote, or None if there is none.

    It is the tokenizer's own when that has markers, else TRL's edition of it when TRL knows the template.

    Raises:
        Failure: the tokenizer has no chat template, or can not tell which tokens a piece of text became.
    """
    from jinja2 import TemplateError
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if not tokenizer.chat_template:
        raise Failure(
            Reason.CONFIG_INVALID,
            "the model's tokenizer has no chat template, which messages need; "
            "use an instruction-tuned model, or render the conversations yourself into a text column",
        )
    if not tokenizer.is_fast:
        raise Failure(
            Reason.CONFIG_INVALID,
            "the model has no fast tokenizer (tokenizer.json), which messages need; "
            "render the conversations yourself into a text column",
        )
    try:
        own: str = tokenizer.get_chat_template()
    except ValueError as error:
        raise Failure(Reason.CONFIG_INVALID, f"the model's tokenizer: {error}") from error
    if has_generation_markers(own):
        return own
    try:
        known: str | None = get_training_chat_template(tokenizer)
    except (ValueError, TypeError, TemplateError):
        return None  # not one that TRL knows
    return known


def encode_by_markers(tokenizer: Any, examples: Sequence[Conversation], template: str) -> list[Encoded]:
    """What the template marks as generated is trained, and the end-of-sequence token right after it."""
    conversations = [list(example.messages) for example in examples]
    options = {"chat_template": template, "return_dict": True, "return_assistant_tokens_mask": True}
    try:
        batch = tokenizer.apply_chat_template(conversations, **options)
    except _template_errors():
        for example in examples:
            _render(tokenizer, example, len(example.messages), template=template)
        raise
    encoded = []
    for example, ids, mask in zip(examples, batch["input_ids"], batch["assistant_masks"], strict=True):
        labels = [token if trained else NOT_TRAINED for token, trained in zip(ids, mask, strict=True)]
        for index in range(1, len(ids)):
            if mask[index - 1] and ids[index] == tokenizer.eos_token_id:
                labels[index] = ids[index]
        encoded.append(Encoded(example.place, ids, labels))
    return encoded


def encode_by_prefixes(tokenizer: Any, examples: Sequence[Conversation]) -> list[Encoded]:
    """The assistant's turns, found by rendering each conversation up to their beginning and up to their end.

    Raises:
        Failure: the template renders a conversation differently when it is cut short, so this can not be known.
    """
    texts = [_render(tokenizer, example, len(example.messages)) for example in examples]
    batch = tokenizer(texts, add_special_tokens=False)
    encoded = []
    for row, (example, text, ids) in enumerate(zip(examples, texts, batch["input_ids"], strict=True)):
        labels = [NOT_TRAINED] * len(ids)
        for start, end in _turn_spans(tokenizer, example, text):
            # A character may belong to no token, such as a space that the tokenizer drops: take the next one inside.
            first = _token_of(batch, row, range(start, end))
            last = _token_of(batch, row, range(end - 1, start - 1, -1))
            if first is not None and last is not None:
                labels[first : last + 1] = ids[first : last + 1]
        encoded.append(Encoded(example.place, ids, labels))
    return encoded


def _token_of(batch: Any, row: int, characters: Iterable[int]) -> int | None:
    """The token that the first of `characters` with a token became."""
    return next((token for at in characters if (token := batch.char_to_token(row, at)) is not None), None)


def _turn_spans(tokenizer: Any, example: Conversation, text: str) -> list[tuple[int, int]]:
    """Characters of `text` that the assistant wrote: half-open spans, each with its end-of-turn token."""
    stops = tuple(tokenizer.get_added_vocab())
    spans = []
    for index, message in enumerate(example.messages):
        if message["role"] != "assistant":
            continue
        before = _render(tokenizer, example, index, add_generation_prompt=True) if index else ""
        after = _render(tokenizer, example, index + 1)
        if not (index and text.startswith(after) and after.startswith(before)):
            raise Failure(
                Reason.CONFIG_INVALID,
                f"{example.place}: the model's chat template does not show where messages[{index}], an assistant "
                "turn, begins and ends; put {% generation %} and {% endgeneration %} around it in the template, "
                "or render the conversations yourself into a text column",
            )
        closed = after.rstrip()
        spans.append((len(before), len(closed) if closed.endswith(stops) else len(after)))
    return spans


def _render(
    tokenizer: Any,
    example: Conversation,
    count: int,
    *,
    add_generation_prompt: bool = False,
    template: str | None = None,
) -> str:
    """The first `count` messages of `example` as text."""
    try:
        rendered: str = tokenizer.apply_chat_template(
            list(example.messages[:count]),
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            chat_template=template,
        )
    except _template_errors() as error:
        raise Failure(
            Reason.DATA_INVALID, f"{example.place}: the model's chat template refuses the conversation: {error}"
        ) from error
    return rendered


def _template_errors() -> tuple[type[Exception], ...]:
    from jinja2 import TemplateError

    return (TemplateError, TypeError)


def _closed(tokenizer: Any, ids: list[int]) -> list[int]:
    """`ids` with one end-of-sequence token at the end; a tokenizer may have put it there itself."""
    return ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]


def _common_prefix(left: Iterable[int], right: Iterable[int]) -> int:
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count
