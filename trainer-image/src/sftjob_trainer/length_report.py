"""What training.maxLength takes from the rows, where it is more than an author can have meant. Pure."""

from collections.abc import Iterator, Sequence

from sftjob_trainer.tokenizing import Tokenized


def data_warnings(parts: Sequence[Tokenized], limit: int) -> Iterator[str]:
    """What of the sources `parts` needs a look, a sentence each: most rows are cut, or left out, at `limit` tokens."""
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
