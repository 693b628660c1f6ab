"""Regular expressions with the API server's syntax, RE2.

The CEL runtime brings RE2 along and decides what is a pattern. Python's own engine, which is faster here, searches
wherever the two agree.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Final

from cel_expr_python import cel

_DIFFERENT: Final = re.compile(r"\\[pPzZAQECux0-9]|\[\[|\(\?|--|&&|\|\||~~|\{,|[+*?}][+]")
"""Constructs that Python reads in another way, or not at all."""


@cache
def _re2() -> cel.Expression:
    return cel.NewEnv(variables={"text": cel.Type.STRING, "pattern": cel.Type.STRING}).compile("text.matches(pattern)")


@cache
def compile_pattern(pattern: str) -> Callable[[str], bool]:
    """A function that tells whether some part of a text matches.

    Raises:
        ValueError: for what is no RE2 pattern.
    """
    program = _re2()
    probe = program.eval(data={"text": "", "pattern": pattern})
    if probe.type() != cel.Type.BOOL:
        raise ValueError(str(probe.value()).rpartition("invalid regular expression: ")[2])
    if _DIFFERENT.search(pattern):
        return lambda text: bool(program.eval(data={"text": text, "pattern": pattern}).value())
    search = re.compile(_with_absolute_end(pattern), re.ASCII).search
    return lambda text: search(text) is not None


def _with_absolute_end(pattern: str) -> str:
    r"""`$` means the very end of the text in RE2, which Python spells `\Z`."""
    out = []
    in_class = False
    for symbol in re.findall(r"\\.|.", pattern, re.DOTALL):
        if symbol == "[":
            in_class = True
        elif symbol == "]":
            in_class = False
        out.append(r"\Z" if symbol == "$" and not in_class else symbol)
    return "".join(out)
