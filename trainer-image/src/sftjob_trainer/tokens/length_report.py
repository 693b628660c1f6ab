"""Report rows affected by training.maxLength, if more are affected than is plausibly intended. Pure."""

from collections.abc import Iterator, Sequence

from sftjob_trainer.tokens.tokenize import Tokenized


def data_warnings(parts: Sequence[Tokenized], limit: int) -> Iterator[str]:
    """Warnings about the sources `parts`, one sentence each: most rows are cut, or left out, at `limit` tokens."""
    for part in parts:
        rows, name = part.table.num_rows, part.source.source
        if 2 * part.truncated > rows:
            yield (
                f"{name}: {part.truncated:,} of {rows:,} rows are longer than training.maxLength {limit} and lose "
                "their end: raise it, or leave such rows out with dataset.maxTokens."
            )
        if part.untrained > rows:
            yield (
                f"{name}: {part.untrained:,} of {part.untrained + rows:,} rows are left out, since nothing of them is "
                f"trained within the first {limit} tokens: raise training.maxLength."
            )
