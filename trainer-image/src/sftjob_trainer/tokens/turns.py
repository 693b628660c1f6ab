"""Find the assistant's turns in a rendered conversation, for templates without markers."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, Final

from sftjob_trainer.rows.messages import THOUGHT_KEYS

Messages = Sequence[Mapping[str, Any]]
Render = Callable[..., str]
"""Renders messages as text, optionally with the generation prompt. Raises a TemplateError."""

_ANSWER: Final = "answer-7f3a"
"""Placeholder for an answer: everything rendered before and after it belongs to the template."""
_WORD: Final = "(?i:think|thinking|thoughts?|reasoning|reflection|scratchpad)"
_OPENS: Final = rf"[<\[◁]\|?[\w:]{{0,16}}?{_WORD}\|?[>\]▷]"
_CLOSES: Final = rf"[<\[◁]\|?(?:/[\w:]{{0,16}}?|(?i:end_(?:of_)?)){_WORD}\|?[>\]▷]"
"""Tags around a thought: <think>, [THINK], <seed:think>, ◁think▷, <|START_THINKING|>, <|begin_of_thought|>."""
_THOUGHT: Final = re.compile(rf"\A\s*(?:{_OPENS})?(?P<thought>.*?)(?:{_CLOSES})(?P<answer>.*)\Z", re.DOTALL)
"""A thought inside the content of a message, in the tags of the usual models."""
_TAG: Final = re.compile(rf"{_OPENS}|{_CLOSES}")
_EMPTY_THOUGHT: Final = re.compile(rf"(?:\s|{_OPENS}|{_CLOSES})*")
"""A suffix of a generation prompt that opens a thought, or opens and closes one."""
_LONGEST_EMPTY_THOUGHT: Final = 200
"""In characters. The limit keeps a long run of blanks from being searched from each of them."""


class TemplateError(Exception):
    """A template cannot be parsed, or refuses its input. `line` is the location, if known."""

    def __init__(self, problem: str, line: int | None) -> None:
        super().__init__(problem)
        self.line = line


class TurnNotFoundError(Exception):
    """A template does not show where a turn begins and ends."""


def common_prefix(left: str, right: str) -> str:
    """The common prefix of both texts."""
    equal = takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False))
    return left[: sum(1 for _ in equal)]


def opening_length(prompt: str, text: str) -> int | None:
    """Length of a turn's generation prompt `prompt` within `text`, a conversation; None if `text` lacks it.

    The prompt may continue with an opened or empty thought where the turn has a different thought or none. White space
    is significant: a model that learned to write after `Assistant:` is not prompted with `Assistant: `.
    """
    length = len(common_prefix(prompt, text))
    if length == len(prompt):
        return length or None
    first = max(1, len(prompt) - _LONGEST_EMPTY_THOUGHT)
    starts = [position for position in range(first, len(prompt)) if _EMPTY_THOUGHT.fullmatch(prompt, position)]
    if not starts or not _TAG.search(prompt, starts[0]):
        return None
    return max((position for position in starts if position <= length), default=None)


def thought_and_answer(content: str) -> tuple[str, str]:
    """The part of `content` that is a tagged thought, and the rest."""
    found = _THOUGHT.match(content)
    return (found["thought"].strip(), found["answer"].strip()) if found else ("", content.strip())


def without_thought(message: Mapping[str, Any]) -> dict[str, Any]:
    """`message` as rendered by templates that omit thoughts."""
    kept = {key: value for key, value in message.items() if key not in THOUGHT_KEYS}
    content = kept.get("content")
    if message["role"] == "assistant" and isinstance(content, str) and _THOUGHT.match(content):
        kept["content"] = thought_and_answer(content)[1]
    return kept


class TurnFinder:
    """Finds turns by rendering a conversation up to their beginning and end.

    `closers` are the tokens that may close a turn. `prompt` is the text that opens a turn of the assistant.
    """

    def __init__(self, render: Render, closers: tuple[str, ...], prompt: str) -> None:
        self._render = render
        self._closers = closers
        self._prompt = prompt

    def find(self, messages: Messages, index: int, text: str) -> tuple[int, int]:
        """The characters of `text`, the rendered `messages`, that the assistant wrote as its turn `index`.

        A turn begins after the header that is rendered both before an answer and in the generation prompt, and ends
        with its closing token. Templates that omit thoughts of earlier turns are supported.

        Raises:
            TurnNotFoundError: the template does not show it.
        """
        for before in self._histories(messages, index):
            start = self._start(before, messages[index + 1 :], text)
            if start is None:
                continue
            end = self._end(before, messages, index, text)
            if end is not None and end > start:
                return start, end
        raise TurnNotFoundError

    def closed(self, text: str) -> int:
        """Length of `text` up to the last token that closes a turn; its full length if no such token ends it."""
        end = len(text.rstrip())
        return end if self._closers and text[:end].endswith(self._closers) else len(text)

    def _histories(self, messages: Messages, index: int) -> Iterator[Messages]:
        before = [dict(message) for message in messages[:index]]
        yield before
        bare = [without_thought(message) for message in before]
        if bare != before:
            yield bare

    def _start(self, before: Messages, after: Messages, text: str) -> int | None:
        prompt = self._try(before, add_generation_prompt=True)
        if prompt and text.startswith(prompt):
            return len(prompt)
        if prompt and before:
            start = opening_length(prompt, text)
            return start if start is not None and start > len(self._try(before) or "") else None
        answer = {"role": "assistant", "content": _ANSWER}
        for rendered in (self._try([*before, answer]), self._try([*before, answer, *after])):
            opening, found, _ = (rendered or "").partition(_ANSWER)
            start = self._first_start(opening, text) if found else None
            if start is not None:
                return start
        return None

    def _first_start(self, opening: str, text: str) -> int | None:
        """Start of a turn that nothing precedes, so that there is no generation prompt to compare with."""
        for count in range(len(self._prompt), 0, -1):
            position = opening.rfind(self._prompt[:count])
            if position >= 0 and (count == len(self._prompt) or not opening[position + count :].strip()):
                opening = opening[: position + count]
                break
        return len(opening) if text.startswith(opening) else None

    def _end(self, before: Messages, messages: Messages, index: int, text: str) -> int | None:
        message = messages[index]
        for variant in (message, without_thought(message)):
            ending = self._try([*before, variant])
            if ending and text.startswith(ending):
                return self.closed(ending)
        answered = {**message, "content": _ANSWER}
        whole = self._try([*messages[:index], answered, *messages[index + 1 :]])
        if whole is None or _ANSWER not in whole:
            return None
        tail = whole.partition(_ANSWER)[2]
        if not text.endswith(tail):
            return None
        end = len(text) - len(tail)
        blank = len(tail) - len(tail.lstrip())
        if closer := max((token for token in self._closers if tail.startswith(token, blank)), key=len, default=""):
            return end + blank + len(closer)
        cut = self._try([*before, answered]) or ""
        shared = common_prefix(tail, cut.partition(_ANSWER)[2])
        return end + self.closed(shared) if shared.strip() else None

    def _try(self, messages: Messages, *, add_generation_prompt: bool = False) -> str | None:
        try:
            return self._render(messages, add_generation_prompt=add_generation_prompt)
        except TemplateError:
            return None
