"""How much work a regular expression does: a backtracking matcher that counts the characters it looks at.

It interprets what `re` compiles, without the shortcuts of the real one, so that its count bounds the real work up to a
constant. Only what the project's patterns use is known.
"""

import re
from collections.abc import Iterator, Sequence
from re import _constants as sre
from re import _parser
from typing import Any


class StepCounter:
    """One pattern and the steps taken so far."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self.steps = 0
        self._parsed = _parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE)
        self._ignore_case = bool(pattern.flags & re.IGNORECASE)

    def scan(self, text: str) -> int:
        """Steps of finding every match in `text`, from left to right, as re.sub does."""
        before, at = self.steps, 0
        while at <= len(text):
            end = next(self._all(list(self._parsed), text, at), None)
            at = at + 1 if end is None or end == at else end
        return self.steps - before

    def _all(self, nodes: Sequence[Any], text: str, at: int) -> Iterator[int]:
        """Every end of a match of `nodes` that begins here, in the order in which `re` would try them."""
        if not nodes:
            yield at
            return
        for end in self._one(nodes[0], text, at):
            yield from self._all(nodes[1:], text, end)

    def _one(self, node: Any, text: str, at: int) -> Iterator[int]:  # noqa: C901, PLR0912 -- one branch an operation
        operation, argument = node
        if operation in (sre.LITERAL, sre.NOT_LITERAL, sre.IN, sre.ANY):
            if self._takes(node, text, at):
                yield at + 1
        elif operation is sre.SUBPATTERN:
            yield from self._all(list(argument[-1]), text, at)
        elif operation is sre.BRANCH:
            for branch in argument[1]:
                yield from self._all(list(branch), text, at)
        elif operation is sre.AT:
            self.steps += 1
            if _holds(argument, text, at):
                yield at
        elif operation is sre.ASSERT_NOT:
            direction, inside = argument
            start = at if direction > 0 else at - 1
            if start < 0 or next(self._all(list(inside), text, start), None) is None:
                yield at
        elif operation is sre.ASSERT:
            if next(self._all(list(argument[1]), text, at), None) is not None:
                yield at
        elif operation is sre.MAX_REPEAT:
            yield from self._repeated(*argument, text, at)
        else:
            raise NotImplementedError(str(operation))

    def _repeated(self, least: int, most: Any, inside: Any, text: str, at: int) -> Iterator[int]:
        (node,) = list(inside)
        limit = len(text) if most is sre.MAXREPEAT else most
        if node[0] in (sre.LITERAL, sre.NOT_LITERAL, sre.IN, sre.ANY):
            taken = 0
            while taken < limit and self._takes(node, text, at + taken):
                taken += 1
            yield from range(at + taken, at + least - 1, -1)
            return
        if limit > 0:
            for end in self._one(node, text, at):
                if end > at:
                    yield from self._repeated(max(0, least - 1), limit - 1, inside, text, end)
        if least == 0:
            yield at

    def _takes(self, node: Any, text: str, at: int) -> bool:
        self.steps += 1
        if at >= len(text):
            return False
        character = text[at]
        if self._ignore_case:
            return _in(node, character.lower()) or _in(node, character.upper())
        return _in(node, character)


def _in(node: Any, character: str) -> bool:
    operation, argument = node
    if operation is sre.LITERAL:
        return ord(character[0]) == argument
    if operation is sre.NOT_LITERAL:
        return ord(character[0]) != argument
    if operation is sre.ANY:
        return character != "\n"
    negated = argument[0][0] is sre.NEGATE
    return negated != any(_member(item, character) for item in argument[1 if negated else 0 :])


def _member(item: Any, character: str) -> bool:
    kind, value = item
    if kind is sre.LITERAL:
        return ord(character[0]) == value
    if kind is sre.RANGE:
        return bool(value[0] <= ord(character[0]) <= value[1])
    classes = {
        sre.CATEGORY_SPACE: str.isspace,
        sre.CATEGORY_DIGIT: str.isdecimal,
        sre.CATEGORY_WORD: lambda text: text.isalnum() or text == "_",
    }
    return classes[value](character)


def _holds(position: Any, text: str, at: int) -> bool:
    if position in (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING):
        return at == 0
    if position in (sre.AT_END, sre.AT_END_STRING):
        return at == len(text)
    words = [0 <= i < len(text) and (text[i].isalnum() or text[i] == "_") for i in (at - 1, at)]
    return (words[0] != words[1]) is (position is sre.AT_BOUNDARY)
