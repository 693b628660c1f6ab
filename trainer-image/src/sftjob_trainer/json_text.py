"""A JSON text read piece by piece, so that a file of any size needs the memory of one row."""

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import IO, Any, Final

from sftjob_trainer.failure import Failure, data_invalid

MOST_ROW_BYTES: Final = 64 << 20
"""Largest row of a text file. A larger one is a mistake, and would take the memory of the whole Pod."""
_PIECE_BYTES: Final = 1 << 20
_BLANK: Final = re.compile(r"[ \t\r\n]*")
_KEY_CHARACTERS: Final = 40


class UnusableValueError(ValueError):
    """A JSON text whose syntax is valid, but whose value would not be what its author wrote."""


def parse_json(text: str) -> Any:
    """The value of the JSON `text`.

    Raises:
        UnusableValueError: an object has a key twice, or an integer has more digits than Python reads.
        json.JSONDecodeError: the syntax is invalid.
        RecursionError: it is nested too deeply.
    """
    return _DECODER.decode(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise UnusableValueError(f'an object has the key "{repeated[:_KEY_CHARACTERS]}" twice; remove one of them')
    return found


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError as error:
        raise UnusableValueError(f"an integer has {len(digits)} digits; write it as text") from error


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)
_SYNTAX_DECODER: Final = json.JSONDecoder(parse_int=len)
"""Finds the end of a value, whatever it is."""


class JsonText:
    """A window on the text of the file `name`; `place` is where it stands."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._name = name
        utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._decode = io.IncrementalNewlineDecoder(utf8, translate=True).decode
        self._text = ""
        self._at = 0
        self._line = 1

    @property
    def place(self) -> str:
        """`FILE:LINE`."""
        return f"{self._name}:{self._line}"

    def peek(self) -> str:
        """The next character that is not blank; empty at the end of the text."""
        while True:
            blank = _BLANK.match(self._text, self._at)
            self._move(blank.end() if blank else self._at)
            if self._at < len(self._text) or not self._grow():
                return self._text[self._at : self._at + 1]

    def elements(self) -> Iterator[tuple[str, Any]]:
        """The elements of the list that begins here, each with its place; a Failure stands for an unusable one.

        Raises:
            Failure: the text is not valid JSON.
        """
        self._move(self._at + 1)
        while self.peek() != "]":
            yield self._value()
            following = self.peek()
            if following == ",":
                self._move(self._at + 1)
            elif following != "]":
                raise data_invalid(self.place, "not valid JSON: a comma or the end of the list is missing")
        self._move(self._at + 1)
        if self.peek():
            raise data_invalid(self.place, "not valid JSON: something follows the end of the list")

    def values(self) -> Iterator[tuple[str, Any]]:
        """The values that follow one another, each with its place; a Failure stands for an unusable one.

        Raises:
            Failure: the text is not valid JSON.
        """
        while self.peek():
            yield self._value()

    def _value(self) -> tuple[str, Any]:
        """The value that begins at the next character that is not blank, and its place."""
        self.peek()
        place = self.place
        while True:
            try:
                value, end = self._decoded(place)
            except json.JSONDecodeError as error:
                if self._grow():
                    continue
                raise self._invalid(error) from error
            except RecursionError as error:
                raise data_invalid(place, "not valid JSON: nested too deeply") from error
            self._move(end)
            return place, value

    def _decoded(self, place: str) -> tuple[Any, int]:
        """The value that begins here, a Failure for an unusable one, and where it ends."""
        try:
            return _DECODER.raw_decode(self._text, self._at)
        except UnusableValueError as error:
            _, end = _SYNTAX_DECODER.raw_decode(self._text, self._at)
            return data_invalid(place, str(error)), end

    def _grow(self) -> bool:
        """Read on, at least as much again as there is left; False at the end of the file."""
        left = self._text[self._at :]
        if len(left) > MOST_ROW_BYTES:
            raise too_large(self.place)
        raw = self._stream.read(max(_PIECE_BYTES, len(left)))
        try:
            more = self._decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            before = error.object[: error.start] + b"-"
            line = self._line + left.count("\n") + len(before.splitlines()) - 1
            what = f"not valid UTF-8: byte 0x{error.object[error.start]:02x}; save the file as UTF-8"
            raise data_invalid(f"{self._name}:{line}", what) from error
        self._text, self._at = left + more, 0
        return bool(raw or more)

    def _move(self, to: int) -> None:
        self._line += self._text.count("\n", self._at, to)
        self._at = to

    def _invalid(self, error: json.JSONDecodeError) -> Failure:
        line = self._line + self._text.count("\n", self._at, error.pos)
        return data_invalid(f"{self._name}:{line}", f"not valid JSON: {error.msg}")


def too_large(place: str) -> Failure:
    """The verdict on a row that is larger than any row should be."""
    return data_invalid(place, f"the row is larger than {MOST_ROW_BYTES >> 20} MiB; split it into several rows")
