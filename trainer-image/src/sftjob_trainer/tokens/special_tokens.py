"""Handle special tokens that a row already contains, so that it gets no duplicates. Pure."""

from collections.abc import Iterable


def after_leading_bos(text: str, bos: str | None) -> str:
    """`text` from its beginning-of-sequence token `bos` on, if only white space precedes it."""
    bare = text.lstrip()
    return bare if bos and bare.startswith(bos) else text


def without_leading_bos(text: str, bos: str | None, eos: str) -> str:
    """`text`, which continues another text, without a leading `bos`, unless `bos` also ends texts."""
    if not bos or bos == eos:
        return text
    blank, found, rest = text.partition(bos)
    return blank + rest if found and not blank.strip() else text


def closing_token(text: str, tokens: Iterable[str]) -> str | None:
    """The longest of `tokens` that `text` ends with, ignoring white space, if anything precedes it."""
    end = text.rstrip()
    found = max((token for token in tokens if end.endswith(token)), key=len, default=None)
    return found if found and end.removesuffix(found).strip() else None
