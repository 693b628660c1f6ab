"""What a model learns from the prepared rows, for people to judge, and whether it learns to stop."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from sftjob_contract.config import DataFormat, RunConfig
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure
from sftjob_trainer.tokenization import NOT_TRAINED, Encoded
from sftjob_trainer.wording import either

_SHORTEST_BUCKET_TOKENS: Final = 16
_EXAMPLES: Final = 10
CHATS: Final = (DataFormat.MESSAGES, DataFormat.SHAREGPT)


@dataclass(frozen=True, kw_only=True)
class LabelReport:
    """What a model learns of the prepared rows, in numbers.

    `stops`: how often each token that generation stops at is trained. `lengths`: (most tokens, rows) of each bucket,
    which has the rows that are too long for the one before; from the first to the last that has any.
    """

    stops: Mapping[str, int]
    lengths: tuple[tuple[int, int], ...]

    def lines(self) -> Iterator[str]:
        """The report for people."""
        trained = ", ".join(f"{token} {count} times" for token, count in self.stops.items() if count)
        yield f"stop tokens trained: {trained or 'none'}"
        yield "rows of up to so many tokens: " + ", ".join(f"{longest}: {rows}" for longest, rows in self.lengths)


def stop_tokens(tokenizer: Any, directory: Path) -> Mapping[str, int]:
    """Tokens that generation stops at, with their ids: the tokenizer's end of sequence and those that the model names.

    As in transformers, the model names them in generation_config.json, or in config.json if it has no such file.
    """
    named = _named_stops(directory / "generation_config.json")
    if named is None:
        named = _named_stops(directory / "config.json") or []
    ids = dict.fromkeys([tokenizer.eos_token_id, *named])
    return {str(tokenizer.convert_ids_to_tokens(token)): token for token in ids if 0 <= token < len(tokenizer)}


def label_report(table: Any, stops: Mapping[str, int]) -> LabelReport:
    """What of the rows of `table` (`input_ids` and `labels`) is trained on."""
    from pyarrow import compute

    labels = compute.list_flatten(table["labels"])
    return LabelReport(
        stops={name: compute.sum(compute.equal(labels, token)).as_py() or 0 for name, token in stops.items()},
        lengths=_buckets(compute.list_value_length(table["input_ids"]).to_pylist()),
    )


def check_stop_token(report: LabelReport, shape: DataFormat, config: RunConfig, *, all_cut: bool) -> None:
    """See that a model learns to stop, where it should. `all_cut`: no row is shorter than `training.maxLength`.

    Raises:
        Failure: no token that generation stops at is trained.
    """
    is_chat = shape in CHATS
    if any(report.stops.values()) or shape is DataFormat.TEXT or not (is_chat or config.model.add_eos_token):
        return
    unlearned = (
        f"no token that generation stops at ({either(list(report.stops))}) is trained, so a model would not stop"
    )
    if all_cut:
        limit = config.training.max_length
        instead = "" if is_chat else ", or write model.addEosToken: false"
        raise Failure(
            Reason.DATA_INVALID,
            f"{unlearned}: every row is cut at training.maxLength {limit}, before its end; raise it{instead}",
        )
    raise Failure(
        Reason.CONFIG_INVALID,
        f"{unlearned}: the chat template closes the assistant's turns with something else; choose one that does not "
        "with model.chatTemplate.name, or put {{ eos_token }} before {% endgeneration %} in your own",
    )


def examples(table: Any, tokenizer: Any) -> str:
    """The first rows of `table` as text, with >> and << around what is trained."""
    rows = table.slice(0, _EXAMPLES).to_pylist()
    shown = [marked(Encoded("", row["input_ids"], row["labels"]), tokenizer) for row in rows]
    return "".join(
        f"--- row {number}, trained between >> and <<\n{text}\n" for number, text in enumerate(shown, start=1)
    )


def marked(example: Encoded, tokenizer: Any) -> str:
    """`example` as text, with >> and << around what is trained."""
    pairs = zip(example.input_ids, example.labels, strict=True)
    parts = []
    for trained, run in groupby(pairs, key=lambda pair: pair[1] != NOT_TRAINED):
        text = tokenizer.decode([token for token, _ in run])
        parts.append(f">>{text}<<" if trained else text)
    return "".join(parts)


def _buckets(lengths: list[int]) -> tuple[tuple[int, int], ...]:
    """How many of `lengths` lie between one power of two and the next."""
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
