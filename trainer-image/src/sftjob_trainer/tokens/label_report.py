"""Report what a model learns from the prepared rows, and check that it learns to stop."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import DataFormat, RunConfig
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.wording import one_of
from sftjob_trainer.tokens.tokenizer import NOT_TRAINED, Encoded

_SHORTEST_BUCKET_TOKENS: Final = 16
_EXAMPLES: Final = 10
CHATS: Final = (DataFormat.MESSAGES, DataFormat.SHAREGPT)


@dataclass(frozen=True, kw_only=True)
class LabelReport:
    """Statistics of the labels of the prepared rows.

    `stops`: how often each stop token is trained. `lengths`: (maximum tokens, rows) of each bucket, which has the rows
    too long for the bucket before; from the first to the last non-empty one.
    """

    stops: Mapping[str, int]
    lengths: tuple[tuple[int, int], ...]

    def lines(self) -> Iterator[str]:
        """The report as log lines."""
        trained = ", ".join(f"{token} {count} times" for token, count in self.stops.items() if count)
        yield f"stop tokens trained: {trained or 'none'}"
        yield "rows by maximum number of tokens: " + ", ".join(f"{longest}: {rows}" for longest, rows in self.lengths)


def stop_tokens(tokenizer: Any, directory: Path) -> Mapping[str, int]:
    """Tokens at which generation stops, with their ids: the tokenizer's end of sequence and those that the model names.

    As in transformers, the model names them in generation_config.json, or in config.json without that file.
    """
    named = _named_stops(directory / "generation_config.json")
    if named is None:
        named = _named_stops(directory / "config.json") or []
    ids = dict.fromkeys([tokenizer.eos_token_id, *named])
    return {str(tokenizer.convert_ids_to_tokens(token)): token for token in ids if 0 <= token < len(tokenizer)}


def label_report(table: Any, stops: Mapping[str, int]) -> LabelReport:
    """The trained part of the rows of `table` (`input_ids` and `labels`)."""
    from pyarrow import compute

    labels = compute.list_flatten(table["labels"])
    return LabelReport(
        stops={name: compute.sum(compute.equal(labels, token)).as_py() or 0 for name, token in stops.items()},
        lengths=_buckets(compute.list_value_length(table["input_ids"]).to_pylist()),
    )


def check_stop_token(report: LabelReport, shape: DataFormat, config: RunConfig, *, all_cut: bool) -> None:
    """Check that a model learns to stop, if it should. `all_cut`: no row is shorter than `training.maxLength`.

    Raises:
        StageError: no stop token is trained.
    """
    is_chat = shape in CHATS
    if any(report.stops.values()) or shape is DataFormat.TEXT or not (is_chat or config.model.add_eos_token):
        return
    unlearned = (
        f"no token that generation stops at ({one_of(list(report.stops))}) is trained, so a model would not stop"
    )
    if all_cut:
        limit = config.training.max_length
        instead = "" if is_chat else ", or write model.addEosToken: false"
        raise StageError(
            Reason.DATA_INVALID,
            f"{unlearned}: every row is cut at training.maxLength {limit}, before its end; raise it{instead}",
        )
    raise StageError(
        Reason.CONFIG_INVALID,
        f"{unlearned}: the chat template closes the assistant's turns with something else; choose one that does not "
        "with model.chatTemplate.name, or put {{ eos_token }} before {% endgeneration %} in your own",
    )


def examples(table: Any, tokenizer: Any) -> str:
    """The first rows of `table` as text, with >> and << around the trained part."""
    rows = table.slice(0, _EXAMPLES).to_pylist()
    shown = [marked(Encoded("", row["input_ids"], row["labels"]), tokenizer) for row in rows]
    return "".join(
        f"--- row {number}, trained between >> and <<\n{text}\n" for number, text in enumerate(shown, start=1)
    )


def marked(example: Encoded, tokenizer: Any) -> str:
    """`example` as text, with >> and << around the trained part."""
    pairs = zip(example.input_ids, example.labels, strict=True)
    parts = []
    for trained, run in groupby(pairs, key=lambda pair: pair[1] != NOT_TRAINED):
        text = tokenizer.decode([token for token, _ in run])
        parts.append(f">>{text}<<" if trained else text)
    return "".join(parts)


def _buckets(lengths: list[int]) -> tuple[tuple[int, int], ...]:
    """Number of `lengths` between each power of two and the next."""
    longest, shortest = max(lengths, default=0), min(lengths, default=0)
    buckets, low, high = [], 0, _SHORTEST_BUCKET_TOKENS
    while low < longest:
        if high >= shortest:
            buckets.append((high, sum(low < length <= high for length in lengths)))
        low, high = high, 2 * high
    return tuple(buckets)


def _named_stops(path: Path) -> list[int] | None:
    try:
        named = json.loads(path.read_bytes()).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return None
    tokens = named if isinstance(named, list) else [named]
    return [token for token in tokens if isinstance(token, int) and not isinstance(token, bool)]
