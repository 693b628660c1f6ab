"""Special tokens that a row is already written with, so that it gets no second ones. Pure."""

from collections.abc import Iterable


def begun(text: str, bos: str | None) -> str:
    """`text` from its beginning-of-sequence token `bos` on, where only white space goes before that."""
    bare = text.lstrip()
    return bare if bos and bare.startswith(bos) else text


def continued(text: str, bos: str | None, eos: str) -> str:
    """`text`, which continues another one, without the `bos` that it begins with, unless that ends texts too."""
    if not bos or bos == eos:
        return text
    blank, found, rest = text.partition(bos)
    return blank + rest if found and not blank.strip() else text


def closing_token(text: str, tokens: Iterable[str]) -> str | None:
    """The longest of `tokens` that `text` ends with, white space aside, if there is anything before it."""
    end = text.rstrip()
    found = max((token for token in tokens if end.endswith(token)), key=len, default=None)
    return found if found and end.removesuffix(found).strip() else None
