"""Read a JSON text incrementally, so that a file of any size needs the memory of one row."""

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import IO, Any, Final

from sftjob_trainer.process.errors import StageError, data_invalid

MAX_ROW_BYTES: Final = 64 << 20
"""Maximum size of a row in a text file. A larger one is a mistake, and would use up the Pod's memory."""
_PIECE_BYTES: Final = 1 << 20
_BLANK: Final = re.compile(r"[ \t\r\n]*")
_KEY_CHARACTERS: Final = 40


class UnusableValueError(ValueError):
    """A JSON text with valid syntax whose parsed value would differ from what its author wrote."""


def parse_json(text: str) -> Any:
    """The value of the JSON `text`.

    Raises:
        UnusableValueError: an object has a duplicate key, or an integer has more digits than Python reads.
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
"""Finds the end of any value."""


class JsonStream:
    """A window on the text of the file `name`; `location` is its current position."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._name = name
        utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._decode = io.IncrementalNewlineDecoder(utf8, translate=True).decode
        self._text = ""
        self._position = 0
        self._line = 1

    @property
    def location(self) -> str:
        """`FILE:LINE`."""
        return f"{self._name}:{self._line}"

    def peek(self) -> str:
        """The next non-blank character; empty at the end of the text."""
        while True:
            blank = _BLANK.match(self._text, self._position)
            self._advance(blank.end() if blank else self._position)
            if self._position < len(self._text) or not self._read_more():
                return self._text[self._position : self._position + 1]

    def elements(self) -> Iterator[tuple[str, Any]]:
        """The elements of the list that starts here, each with its location; a StageError replaces an unusable one.

        Raises:
            StageError: the text is not valid JSON.
        """
        self._advance(self._position + 1)
        while self.peek() != "]":
            yield self._value()
            following = self.peek()
            if following == ",":
                self._advance(self._position + 1)
            elif following != "]":
                raise data_invalid(self.location, "not valid JSON: a comma or the end of the list is missing")
        self._advance(self._position + 1)
        if self.peek():
            raise data_invalid(self.location, "not valid JSON: something follows the end of the list")

    def values(self) -> Iterator[tuple[str, Any]]:
        """The consecutive values, each with its location; a StageError replaces an unusable one.

        Raises:
            StageError: the text is not valid JSON.
        """
        while self.peek():
            yield self._value()

    def _value(self) -> tuple[str, Any]:
        """The value that starts at the next non-blank character, and its location."""
        self.peek()
        location = self.location
        while True:
            try:
                value, end = self._decoded(location)
            except json.JSONDecodeError as error:
                if self._read_more():
                    continue
                raise self._invalid(error) from error
            except RecursionError as error:
                raise data_invalid(location, "not valid JSON: nested too deeply") from error
            self._advance(end)
            return location, value

    def _decoded(self, location: str) -> tuple[Any, int]:
        """The value that starts here, or a StageError for an unusable one, and its end."""
        try:
            return _DECODER.raw_decode(self._text, self._position)
        except UnusableValueError as error:
            _, end = _SYNTAX_DECODER.raw_decode(self._text, self._position)
            return data_invalid(location, str(error)), end

    def _read_more(self) -> bool:
        """Read at least as much text again as is left in the window; False at the end of the file."""
        left = self._text[self._position :]
        if len(left) > MAX_ROW_BYTES:
            raise too_large(self.location)
        raw = self._stream.read(max(_PIECE_BYTES, len(left)))
        try:
            more = self._decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            before = error.object[: error.start] + b"-"
            line = self._line + left.count("\n") + len(before.splitlines()) - 1
            what = f"not valid UTF-8: byte 0x{error.object[error.start]:02x}; save the file as UTF-8"
            raise data_invalid(f"{self._name}:{line}", what) from error
        self._text, self._position = left + more, 0
        return bool(raw or more)

    def _advance(self, position: int) -> None:
        self._line += self._text.count("\n", self._position, position)
        self._position = position

    def _invalid(self, error: json.JSONDecodeError) -> StageError:
        line = self._line + self._text.count("\n", self._position, error.pos)
        return data_invalid(f"{self._name}:{line}", f"not valid JSON: {error.msg}")


def too_large(location: str) -> StageError:
    """The StageError for a row above the size limit."""
    return data_invalid(location, f"the row is larger than {MAX_ROW_BYTES >> 20} MiB; split it into several rows")
